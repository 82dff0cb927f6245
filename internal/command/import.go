package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
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
		return hint.Add(fmt.Errorf("import: %q is no client that can be imported from", client), "maascert import takes one of: %s", strings.Join(slices.Concat(lineage.Clients, []string{fromMAAS}), ", "))
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
	wanted, err := a.wanted(c, found)
	if err != nil {
		return err
	}
	a.warnAll(a.doubts(found))
	name := wanted.Certificates[0].Name
	if conf == nil {
		if conf, err = a.writeConfig(file, wanted, found); err != nil {
			return err
		}
	} else if name, err = oneCertificate(conf, "import", "name", c.text("name")); err != nil {
		return err
	} else if err := a.printLacking(conf, name, found, wanted); err != nil {
		return err
	}
	taken, err := a.takeOver(c, conf, name, found)
	if found.Client != fromMAAS && (taken.certificate || taken.account) {
		a.printLeftBehind(found, taken)
	}
	return err
}

// taken says what of a lineage the store has now.
type taken struct{ certificate, account bool }

// doubts are what a person should know before the next renewal.
func (a *app) doubts(found lineage.Lineage) (all []error) {
	if len(found.BadNames) > 0 {
		all = append(all, fmt.Errorf("names that no CA takes are left out: %s", printable.Phrase(strings.Join(found.BadNames, ", "))))
	}
	if found.Client != fromMAAS && !found.IsProvenByHTTP() {
		all = append(all, hint.Add(fmt.Errorf("%s proved the names by %q, and how is not taken over", found.Client, printable.Phrase(found.Proof)),
			"http-01 needs port 80 of each name to lead here; for dns-01 set acme.challenge"))
	}
	return all
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
		found, err := lineage.Find(a.fsys, client, path)
		if err != nil {
			return found, err
		}
		for _, path := range []string{found.Folder, found.Path()} {
			if err := mayImport(path); err != nil {
				return found, err
			}
		}
		fmt.Fprintf(a.words, "found %s of %s in %s\n", printable.Phrase(found.Name), client, printable.Text(found.Folder))
		return found, nil
	}
	found := lineage.Lineage{Client: fromMAAS, NoAccount: errors.New("MAAS has none")}
	here := maasconfig.InstallationConfig{FS: a.fsys, Runner: a.runner()}
	if conf != nil {
		here = conf.MAAS.Installation(conf.StateDir, a.fsys, a.runner())
	}
	maas := maasconfig.New(maasconfig.Config{
		Detect: func(ctx context.Context) (maasconfig.Installation, error) { return maasconfig.Detect(ctx, here) },
		FS:     a.fsys, Runner: here.Runner, Dial: a.dial, UID: os.Geteuid(),
	})
	var err error
	if found.Bundle, err = maas.Backup(ctx); err != nil {
		return found, hint.Add(fmt.Errorf("what this host's region serves cannot be read: %w", err), "is TLS on, and are you root? maascert check")
	}
	if found.Take(found.Bundle.Leaf()); len(found.Names) == 0 {
		return found, lineage.ErrNoNames
	}
	return found, nil
}

// completeDirectory adds the CA where a client wrote down less than its directory, and refuses one for tests.
func completeDirectory(found *lineage.Lineage, conf *config.Config, asked string) error {
	if preset, ok := acme.Presets[asked]; ok {
		asked = preset
	}
	said := cmp.Or(found.Directory, found.Host)
	if found.Directory == "" && found.Host != "" {
		known := map[string]bool{}
		for _, directory := range acme.Presets {
			known[directory] = true
		}
		if conf != nil {
			for _, issuer := range conf.Issuers {
				known[issuer.Directory] = true
			}
		}
		maps.DeleteFunc(known, func(directory string, _ bool) bool { return hostOf(directory) != found.Host })
		if found.Directory = asked; len(known) == 1 && asked == "" {
			found.Directory = slices.Collect(maps.Keys(known))[0]
		}
	}
	if found.Client == fromMAAS {
		found.Directory = asked // which is for the configuration: nothing shows who issued what MAAS serves
	}
	switch {
	case asked != "" && (asked != found.Directory || found.Host != "" && hostOf(asked) != found.Host):
		return fmt.Errorf("--directory: %s says that %s comes from %s", found.Client, printable.Phrase(found.Name), printable.Phrase(said))
	case found.Client != fromMAAS && found.Directory == acme.LetsEncryptStaging || found.Host == hostOf(acme.LetsEncryptStaging):
		return hint.Add(fmt.Errorf("%s's certificate %s comes from a CA for tests, which no client trusts", found.Client, printable.Phrase(found.Name)),
			"import one from the real CA, or begin without: maascert renew obtains one")
	case found.Directory == "" && found.Client != fromMAAS:
		return hint.Add(fmt.Errorf("%s does not write down which CA issued %s, but for its host %s", found.Client, printable.Phrase(found.Name), printable.Phrase(found.Host)),
			"say so: --directory URL, of the CA's ACME directory")
	}
	return nil
}

// hostOf is the host of a URL, with its port; empty where there is none.
func hostOf(address string) string {
	parsed, err := url.Parse(address)
	if err != nil {
		return ""
	}
	return parsed.Host
}

// The lines of a configuration that an import is about, in the order in which they are written.
type importedConfig struct {
	ACME         *importedCA           `yaml:"acme,omitempty"`
	Certificates []importedCertificate `yaml:"certificates,omitempty"`
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

// wanted is the configuration that renews what was found.
func (a *app) wanted(c *call, found lineage.Lineage) (importedConfig, error) {
	cert := importedCertificate{Name: cmp.Or(c.text("name"), "maas"), Names: found.Names}
	if found.Bundle != nil {
		cert.KeyType = found.Bundle.KeyType()
	}
	wanted := importedConfig{Certificates: []importedCertificate{cert}}
	root := c.text("root")
	if root != "" && found.Directory == "" {
		return wanted, hint.Add(errors.New("--root: there is no CA that it could be the root of"), "--directory URL, of the CA's ACME directory")
	}
	if root != "" {
		var err error
		if root, err = filepath.Abs(root); err == nil {
			_, err = a.fsys.ReadFile(root)
		}
		if err != nil {
			return wanted, fmt.Errorf("--root: %w", err)
		}
	}
	if found.Directory != "" {
		wanted.ACME = &importedCA{
			Directory: found.Directory, Root: root,
			Terms:     found.Account != nil, // without which it would not have been registered
			Challenge: importedChallenge{Type: "http-01", Webroot: found.Webroot},
		}
		if found.Account != nil {
			wanted.ACME.Email = found.Account.Email
		}
	}
	return wanted, nil
}

// writeConfig writes the configuration file, which was not there, and reads it. One that would not be right is printed instead.
func (a *app) writeConfig(file string, wanted importedConfig, found lineage.Lineage) (*config.Config, error) {
	if len(found.Names) == 0 {
		return nil, hint.Add(fmt.Errorf("import: nothing was taken: %w", found.Broken), "write a configuration (the README shows how); maascert renew obtains a certificate")
	}
	var text strings.Builder
	fmt.Fprintf(&text, "# Written by maascert import %s on %s. maascert config show prints every key with its value.\n", found.Client, printable.Time(a.now()))
	if found.Client != fromMAAS && !found.IsProvenByHTTP() {
		fmt.Fprintf(&text, "# %s proved the names by %q. If port 80 of each name does not lead here, write that as challenge: below.\n", found.Client, printable.Phrase(found.Proof))
	}
	if found.Directory == "" {
		text.WriteString("# Without a section acme: there is no CA: the certificate is deployed and watched, and not renewed.\n")
	}
	lines, err := yaml.Marshal(wanted)
	if err != nil {
		return nil, fmt.Errorf("import: %w", err)
	}
	text.Write(lines)
	conf, err := a.putConfig(file, text.String(), false)
	if err != nil {
		return nil, hint.Add(fmt.Errorf("import: nothing was taken: %w", err), "write it there with that mended, and import again")
	}
	fmt.Fprintf(a.words, "wrote %s\n", file)
	return conf, nil
}

// printLacking prints what a configuration lacks to renew what was found.
func (a *app) printLacking(conf *config.Config, name string, found lineage.Lineage, wanted importedConfig) error {
	cert := conf.Certificate(name)
	var missing []string
	for _, one := range found.Names {
		if !slices.Contains(cert.Names, one) {
			missing = append(missing, one)
		}
	}
	if len(missing) > 0 {
		fmt.Fprintf(a.words, "the configuration stays as it is; what %s lacks of the names found: %s\n", name, printable.Text(strings.Join(missing, ", ")))
	}
	if found.Directory == "" || conf.Issuers[cert.Issuer].Directory == found.Directory {
		return nil
	}
	lines, err := yaml.Marshal(importedConfig{ACME: wanted.ACME})
	if err != nil {
		return fmt.Errorf("import: %w", err)
	}
	fmt.Fprintf(a.words, "the configuration stays as it is, with another CA for %s; the one found would be:\n", name)
	for line := range strings.Lines(string(lines)) {
		fmt.Fprintf(a.words, "  %s", line)
	}
	return nil
}

// takeOver brings account and certificate into the store. What cannot be taken is said, and the rest is taken all the same.
func (a *app) takeOver(c *call, conf *config.Config, name string, found lineage.Lineage) (taken, error) {
	var done taken
	options, err := passOptions(c)
	if err != nil {
		return done, err
	}
	options.Accept[maasconfig.FirstEnable] = true // MAAS is not told here; who tells it is asked
	p := a.assemble(conf)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return done, err
	}
	var end error
	done.account, end = a.takeAccount(c.Context, p.store, found)
	if found.Broken != nil {
		return done, errors.Join(end, a.refused(name, "import", hint.Add(fmt.Errorf("the certificate was not taken: %w", found.Broken), "maascert renew obtains another")))
	}
	version := certstore.Version{Origin: certstore.FromElsewhere, Bundle: found.Bundle}
	if found.Client != fromMAAS {
		version.Directory = found.Directory
	}
	if found.Account != nil {
		version.Account = found.Account.URL
	}
	kept, err := p.engine.BringIn(c.Context, p.certificate(name), version, options)
	if err != nil {
		return done, errors.Join(end, a.refused(name, "import", fmt.Errorf("the certificate was not taken: %w", err)))
	}
	done.certificate = true
	if kept.Directory != version.Directory {
		a.warnAll([]error{fmt.Errorf("version %d was kept before, without its CA: that is not asked when it wants it to be renewed", kept.Number)})
	}
	leaf := kept.Bundle.Leaf()
	fmt.Fprintf(a.words, "%s: version %d is current: %s, until %s; where it is not served yet, maascert renew brings it there\n", name, kept.Number,
		printable.Text(strings.Join(certstore.CertificateNames(leaf), ", ")), report.Time{Time: leaf.NotAfter})
	return done, end
}

// takeAccount brings the account into the store. One that is not taken is no failure: the next renewal registers another.
func (a *app) takeAccount(ctx context.Context, store certstore.Store, found lineage.Lineage) (isTaken bool, err error) {
	if found.Account == nil {
		if found.Client != fromMAAS {
			a.warnAll([]error{hint.Add(fmt.Errorf("the account was not taken: %w", found.NoAccount), "the first renewal registers one")})
		}
		return false, nil
	}
	known := certstore.Registration{URL: found.Account.URL, Created: a.now().UTC(), Contact: found.Account.Email}
	err = acme.Adopt(ctx, store, found.Directory, found.Account.Key, known)
	if errors.Is(err, acme.ErrOtherAccount) {
		a.warnAll([]error{fmt.Errorf("the account was not taken: %w, which renews as well", err)})
		return false, nil
	}
	if err != nil {
		return false, a.refused("account", "import", err)
	}
	fmt.Fprintf(a.words, "took over the account at %s: %s\n", found.Directory, cmp.Or(printable.Text(found.Account.URL), "the CA tells its URL when it is needed"))
	return true, nil
}

// printLeftBehind says what else would go on renewing.
func (a *app) printLeftBehind(found lineage.Lineage, done taken) {
	fmt.Fprintf(a.words, "%s and its files stay as they are. So that the two do not replace each other's certificates, switch off, once maascert renew is content:\n", found.Client)
	for _, hook := range found.Hooks {
		fmt.Fprintf(a.words, "  hook: %s: %s\n", printable.Text(hook.File), printable.Text(hook.Command))
	}
	timer := "timer"
	if found.Others > 0 {
		timer = fmt.Sprintf("only if the %d other certificates need it no more", found.Others)
	}
	for _, one := range lineage.Timers(a.fsys, found.Client) {
		fmt.Fprintf(a.words, "  %s: %s: %s\n", timer, printable.Text(one.File), printable.Text(one.Command))
	}
	fmt.Fprintf(a.words, "  this certificate: %s\n", printable.Text(found.Stop))
	if done.account {
		fmt.Fprintln(a.words, "  not the account: it is one for both now")
	}
}
