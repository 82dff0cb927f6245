package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/goccy/go-yaml"
	"github.com/spf13/cobra"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lineage"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/maasconfig"
)

// fromMAAS imports the pair that this host's region serves.
const fromMAAS = "maas"

func (a *app) importCommand() *cobra.Command {
	clients := slices.Concat(lineage.Clients, []string{fromMAAS})
	return a.command(spec{
		name: "import", args: "CLIENT [PATH]", group: acting,
		short: "takes over a certificate, its names and its ACME account from another client, and deletes nothing",
		long: "CLIENT is one of: " + strings.Join(clients, ", ") + ". PATH is its folder, or leads to one of several certificates in it. The configuration file is\n" +
			"written where there is none; else what it lacks is printed. maascert renew brings the certificate to MAAS then.",
		options: []option{
			a.completed("name", textOption("name", "", "the certificate called `NAME` in the configuration; needed where there are several"), a.certificateNames),
			textOption("directory", "", "`URL` of the CA's ACME directory, for what the client does not write down"),
			textOption("root", "", "PEM `FILE` with the root of the CA, where the system does not trust it"),
			a.acceptOption(maasconfig.Codes...), waitOption(),
		},
		values: oneOf(clients...),
		action: a.importFrom,
	})
}

func (a *app) importFrom(c *call) error {
	client := c.arg()
	if client != fromMAAS && !slices.Contains(lineage.Clients, client) {
		return hint.Add(fmt.Errorf("import: %q is no client that can be imported from", client), "maascert import certbot, acme.sh, lego or maas")
	}
	if len(c.Args) > 2 || client == fromMAAS && len(c.Args) > 1 {
		return fmt.Errorf("import takes no argument %q", c.Args[len(c.Args)-1])
	}
	file, err := a.configFile(c)
	if err != nil {
		return err
	}
	conf, err := a.existing(c, file)
	if err != nil {
		return err
	}
	found, err := a.lineage(c.Context, conf, client, slices.Concat(c.Args, []string{""})[1])
	if err == nil {
		err = completeDirectory(&found, conf, c.text("directory"))
	}
	if err != nil {
		a.complain(fmt.Errorf("import: %w", err))
		return outcome(exitAttention)
	}
	lines, err := a.lines(c, found, conf)
	if err != nil {
		return err
	}
	if conf == nil {
		if conf, err = a.writeConfig(file, lines, found); err != nil {
			return err
		}
	} else {
		a.printLacking(conf, found, lines)
	}
	name, err := oneCertificate(conf, "import", "name", c.text("name"))
	if err != nil {
		return err
	}
	err = a.takeOver(c, conf, name, found)
	a.printLeftBehind(found)
	return err
}

// existing is the configuration; nil where there is no such file.
func (a *app) existing(c *call, file string) (*config.Config, error) {
	if _, err := a.fsys.Stat(file); errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	return a.config(c)
}

// lineage finds what is to be imported.
func (a *app) lineage(ctx context.Context, conf *config.Config, client, path string) (lineage.Lineage, error) {
	if client != fromMAAS {
		return lineage.Find(a.fsys, client, path)
	}
	found := lineage.Lineage{Client: fromMAAS, NoAccount: errors.New("MAAS has none")}
	here := maasconfig.InstallationConfig{FS: a.fsys, Runner: a.runner()}
	if conf != nil {
		here = conf.MAAS.Installation(conf.StateDir, a.fsys, a.runner())
	}
	maas := maasconfig.New(maasconfig.Config{
		Detect: func(ctx context.Context) (maasconfig.Installation, error) { return maasconfig.Detect(ctx, here) },
		FS:     a.fsys, Runner: here.Runner, Dial: new(net.Dialer).DialContext, UID: os.Geteuid(),
	})
	var err error
	if found.Bundle, err = maas.Backup(ctx); err != nil {
		return found, hint.Add(fmt.Errorf("what this host's region serves cannot be read: %w", err), "is TLS on, and are you root? maascert check")
	}
	found.Names = certstore.CertificateNames(found.Bundle.Leaf())
	return found, nil
}

// completeDirectory adds the CA where a client wrote down less than its directory, and refuses one for tests.
func completeDirectory(found *lineage.Lineage, conf *config.Config, asked string) error {
	if preset, ok := acme.Presets[asked]; ok {
		asked = preset
	}
	if asked != "" && found.Directory == "" {
		found.Directory = asked
	}
	var known []string
	for _, directory := range acme.Presets {
		known = append(known, directory)
	}
	if conf != nil {
		for _, issuer := range conf.Issuers {
			known = append(known, issuer.Directory)
		}
	}
	for _, directory := range known {
		if at, err := url.Parse(directory); found.Directory == "" && found.Host != "" && err == nil && at.Host == found.Host {
			found.Directory = directory
		}
	}
	switch {
	case asked != "" && asked != found.Directory:
		return fmt.Errorf("--directory: %s says that %s comes from %s", found.Client, printable.Phrase(found.Name), printable.Phrase(found.Directory))
	case found.Directory == acme.LetsEncryptStaging:
		return hint.Add(fmt.Errorf("%s's certificate %s comes from a CA for tests, which no client trusts", found.Client, printable.Phrase(found.Name)),
			"import one from the real CA, or begin without: maascert renew obtains one")
	case found.Directory == "" && found.Client != fromMAAS:
		return hint.Add(fmt.Errorf("%s does not write down which CA issued %s, but for its host %s", found.Client, printable.Phrase(found.Name), printable.Phrase(found.Host)),
			"say so: --directory URL, of the CA's ACME directory")
	}
	return nil
}

// The lines of a configuration that an import is about, in the order in which they are written.
type importedConfig struct {
	ACME         *importedCA           `yaml:"acme,omitempty"`
	Certificates []importedCertificate `yaml:"certificates"`
}

type importedCA struct {
	Directory string            `yaml:"directory"`
	Root      string            `yaml:"root,omitempty"`
	Terms     bool              `yaml:"accept_terms,omitempty"`
	Email     string            `yaml:"email,omitempty"`
	Challenge importedChallenge `yaml:"challenge"`
}

type importedChallenge struct {
	Type    string `yaml:"type"`
	Webroot string `yaml:"webroot,omitempty"`
}

type importedCertificate struct {
	Name    string            `yaml:"name"`
	Names   []string          `yaml:"names,flow"`
	KeyType certstore.KeyType `yaml:"key_type,omitempty"`
}

// lines are those of a configuration that renews what was found.
func (a *app) lines(c *call, found lineage.Lineage, conf *config.Config) (string, error) {
	name := c.text("name")
	if name == "" {
		name = "maas"
	}
	cert := importedCertificate{Name: name, Names: found.Names}
	if found.Bundle != nil {
		cert.KeyType = found.Bundle.KeyType()
	}
	wanted := importedConfig{Certificates: []importedCertificate{cert}}
	if found.Directory != "" {
		root := c.text("root")
		if root != "" {
			var err error
			if root, err = filepath.Abs(root); err != nil {
				return "", fmt.Errorf("--root: %w", err)
			}
			if _, err := a.fsys.ReadFile(root); err != nil {
				return "", fmt.Errorf("--root: %w", err)
			}
		}
		wanted.ACME = &importedCA{
			Directory: found.Directory, Root: root,
			Terms:     found.Account != nil, // without which it would not have been registered
			Challenge: importedChallenge{Type: "http-01", Webroot: found.Webroot},
		}
		if found.Account != nil {
			wanted.ACME.Email = found.Account.Email
		}
	}
	text, err := yaml.Marshal(wanted)
	if err != nil {
		return "", fmt.Errorf("import: %w", err)
	}
	return string(text), nil
}

// writeConfig writes the configuration file, which was not there, and reads it.
func (a *app) writeConfig(file, lines string, found lineage.Lineage) (*config.Config, error) {
	if len(found.Names) == 0 {
		return nil, hint.Add(fmt.Errorf("import: nothing was taken: %w", found.Broken), "write a configuration (the README shows how); maascert renew obtains a certificate")
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# Written by maascert import %s on %s. maascert config show prints every key with its value.\n", found.Client, printable.Time(a.now()))
	if found.Proof != "" && found.Proof != "standalone" && found.Proof != "webroot" {
		fmt.Fprintf(&text, "# %s proved the names by %q. If port 80 of each name does not lead here, write that as challenge: below.\n", found.Client, printable.Phrase(found.Proof))
	}
	if found.Directory == "" {
		text.WriteString("# Without a section acme: there is no CA: the certificate is deployed and watched, and not renewed.\n")
	}
	text.WriteString(lines)
	err := a.fsys.MkdirAll(filepath.Dir(file), 0o755)
	if err == nil {
		err = a.fsys.Create(file, []byte(text.String()), 0o640)
	}
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	conf, err := config.Load(file, a.types)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("import: what was found makes no configuration: %w", err), a.fsys.Remove(file))
	}
	fmt.Fprintf(a.words, "wrote %s\n", file)
	return conf, nil
}

// printLacking prints what a configuration lacks to renew what was found.
func (a *app) printLacking(conf *config.Config, found lineage.Lineage, lines string) {
	isKnown := found.Directory == ""
	for _, issuer := range conf.Issuers {
		isKnown = isKnown || issuer.Directory == found.Directory
	}
	for _, cert := range conf.Certificates {
		isNamed := !slices.ContainsFunc(found.Names, func(name string) bool { return !slices.Contains(cert.Names, name) })
		if isNamed && isKnown {
			return
		}
	}
	fmt.Fprintf(a.words, "the configuration stays as it is; what was found there would be:\n")
	for line := range strings.Lines(lines) {
		fmt.Fprintf(a.words, "  %s", line)
	}
}

// takeOver brings account and certificate into the store. What cannot be taken is said, and the rest is taken all the same.
func (a *app) takeOver(c *call, conf *config.Config, name string, found lineage.Lineage) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	options.Accept[maasconfig.FirstEnable] = true // MAAS is not told here; who tells it is asked
	p := a.assemble(conf)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	end := a.takeAccount(c.Context, p.store, found)
	if found.Broken != nil {
		return errors.Join(end, a.refused(name, "import", hint.Add(fmt.Errorf("the certificate was not taken: %w", found.Broken), "maascert renew obtains another")))
	}
	version := certstore.Version{Origin: certstore.FromElsewhere, Directory: found.Directory, Bundle: found.Bundle}
	if found.Account != nil {
		version.Account = found.Account.URL
	}
	version, err = p.engine.BringIn(c.Context, p.certificate(name), version, options)
	if err != nil {
		return errors.Join(end, a.refused(name, "import", fmt.Errorf("the certificate was not taken: %w", err)))
	}
	leaf := version.Bundle.Leaf()
	fmt.Fprintf(a.words, "%s: version %d is current: %s, until %s; to bring it to MAAS: maascert renew\n", name, version.Number,
		printable.Text(strings.Join(certstore.CertificateNames(leaf), ", ")), report.Time{Time: leaf.NotAfter})
	return end
}

// takeAccount brings the account into the store. One that is not taken is no failure: the next renewal registers another.
func (a *app) takeAccount(ctx context.Context, store certstore.Store, found lineage.Lineage) error {
	if found.Account == nil {
		if found.Client != fromMAAS {
			a.warnAll([]error{hint.Add(fmt.Errorf("the account was not taken: %w", found.NoAccount), "the first renewal registers one")})
		}
		return nil
	}
	known := certstore.Registration{URL: found.Account.URL, Created: a.now().UTC(), Contact: found.Account.Email}
	err := acme.Adopt(ctx, store, found.Directory, found.Account.Key, known)
	if errors.Is(err, acme.ErrOtherAccount) {
		a.warnAll([]error{fmt.Errorf("the account was not taken: %w, which renews as well", err)})
		return nil
	}
	if err != nil {
		return a.refused("account", "import", err)
	}
	fmt.Fprintf(a.words, "took over the account %s at %s\n", printable.Text(found.Account.URL), found.Directory)
	return nil
}

// printLeftBehind says what else would go on renewing.
func (a *app) printLeftBehind(found lineage.Lineage) {
	if found.Client == fromMAAS {
		return
	}
	fmt.Fprintf(a.words, "%s and its files stay as they are. So that the two do not replace each other's certificates, switch off:\n", found.Client)
	for _, hook := range found.Hooks {
		fmt.Fprintf(a.words, "  hook: %s: %s\n", printable.Text(hook.File), printable.Text(hook.Command))
	}
	if found.Others == 0 {
		for _, timer := range lineage.Timers(a.fsys, a.host, found.Client) {
			fmt.Fprintf(a.words, "  timer: %s: %s\n", printable.Text(timer.File), printable.Text(timer.Command))
		}
	} else {
		fmt.Fprintf(a.words, "  not its timer, which renews %d other certificates\n", found.Others)
	}
	fmt.Fprintf(a.words, "  this certificate: %s\n", printable.Text(found.Stop))
	if found.Account != nil {
		fmt.Fprintln(a.words, "  not the account: it is one for both now")
	}
}
