package command

import (
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/acme"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/preflight"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/secret"
	"maascert/internal/setup"
	"maascert/internal/world"
	"maascert/maasconfig"
)

func (a *app) initCommand() *cobra.Command {
	return a.command(spec{
		name: "init", group: acting,
		short: "looks at this region host, asks what it cannot see, and writes a commented configuration",
		long: "Every question has an option, and what an option says is not asked. With --yes nothing is asked: what is proposed is taken, and what\n" +
			"nobody can propose (the CA, whom to trust, its terms) has to be said by options.",
		options: []option{
			textOption("directory", "", "`URL` of the CA's ACME directory; or letsencrypt, letsencrypt-staging"),
			textOption("root", "", "PEM `FILE` with the root of the CA, where the system does not trust it"),
			textOption("root-fingerprint", "", "`SHA256` of the CA's root certificate, which is fetched from the CA (step-ca, Caddy) then"),
			textOption("issuer-root", "", "PEM `FILE` with the root of what the CA issues, where it is another one"),
			switchOption("accept-terms", "agree to the CA's terms of service"),
			textOption("email", "", "`ADDRESS` that the CA may write to"),
			textOption("profile", "", "`NAME` of the CA's certificate profile"),
			textOption("eab-key-id", "", "`ID` of the external account, where the CA wants accounts to be bound"),
			textOption("eab-hmac", "", "a `REFERENCE` to its key: file:PATH"),
			listOption("name", "`NAME` or address that the certificate is for (may be repeated); default: what leads to this MAAS"),
			a.completed("key-type", textOption("key-type", string(certstore.RSA3072), "the `TYPE` of the key"), oneOf(keyTypes()...)),
			a.completed("challenge", textOption("challenge", "", "the `TYPE` of proof: http-01, tls-alpn-01, or dns-01 by MAAS's own DNS"), oneOf("http-01", "tls-alpn-01", "dns-01")),
			textOption("webroot", "", "`DIR` of a web server on port 80 in which answers to http-01 are put"),
			listOption("endpoint", "`ADDRESS` of a region (may be repeated); default: the regions that run now"),
			textOption("api-user", "", "make an API key of the MAAS administrator `USER`, so that MAAS tells which regions there are"),
			textOption("haproxy", "", "PEM `FILE` from which an HAProxy on this host serves the certificate too"),
			switchOption("force", "replace the configuration file; the one before stays beside it, as FILE.old"),
			switchOption("rehearse", "rehearse the first renewal at the end; changes nothing"),
			switchOption("yes", "ask nothing"),
		},
		action: a.initialize,
	})
}

func keyTypes() []string {
	return []string{string(certstore.RSA2048), string(certstore.RSA3072), string(certstore.RSA4096), string(certstore.EC256), string(certstore.EC384)}
}

// usageError says that an option is missing or wrong.
type usageError struct{ error }

func (e usageError) Unwrap() error { return e.error }

// interview is one run of init.
type interview struct {
	*app
	c       *call
	ask     asker // nil: nobody is asked
	file    string
	folder  string // of the file
	facts   setup.Facts
	answers setup.Answers
	// The CA's directory, which may be called by name among the answers.
	directory string
	roots     *x509.CertPool // that the CA's directory is trusted by; nil: the system's
}

func (a *app) initialize(c *call) error {
	file, err := a.configFile(c)
	if err != nil {
		return err
	}
	if file, err = filepath.Abs(file); err != nil {
		return err
	}
	i := &interview{app: a, c: c, file: file, folder: filepath.Dir(file)}
	if _, err := a.fsys.Stat(file); err == nil && !c.isOn("force") {
		return hint.Add(fmt.Errorf("init: %s is there already", file), "maascert check looks at it; init --force writes another, and keeps this one as %s.old", file)
	}
	switch {
	case c.isOn("yes"):
	case !a.isTerminal():
		return hint.Add(errors.New("init: there is no terminal to ask at"), "maascert init --yes asks nothing; maascert init --help lists what can be said by options")
	default:
		i.ask = newForm(a.stdin, a.stdout)
	}
	err = i.run()
	var end outcome
	var usage usageError
	switch {
	case errors.As(err, &end):
		return end
	case errors.As(err, &usage):
		return fmt.Errorf("init: %w", err)
	case errors.Is(err, errEnded):
		a.complain(errors.New("init: nothing was written"))
		return outcome(exitInterrupted)
	case err != nil:
		a.complain(fmt.Errorf("init: %w", err))
		return outcome(exitAttention)
	}
	return nil
}

func (i *interview) run() error {
	if err := i.look(); err != nil {
		return err
	}
	for _, step := range []func() error{i.findCA, i.findTrust, i.meetCA, i.findAPI, i.findNames, i.findChallenge, i.findEndpoints, i.findProxy} {
		if err := step(); err != nil {
			return err
		}
	}
	conf, err := i.write()
	if err != nil {
		return err
	}
	return i.prove(conf)
}

// look finds out what is so here, and tells it.
func (i *interview) look() error {
	here := maasconfig.InstallationConfig{StateDir: config.UsualStateDir, FS: i.fsys, Runner: i.runner()}
	found, err := maasconfig.Detect(i.c.Context, here)
	if err != nil {
		return err
	}
	host := preflight.Host{Files: i.fsys, Runner: here.Runner, Dial: new(net.Dialer).DialContext, Listening: i.listening, Now: i.now, UID: os.Geteuid(), MAAS: found}
	i.facts = setup.Look(i.c.Context, host, here)
	for _, line := range i.facts.Words() {
		fmt.Fprintln(i.words, line)
	}
	return nil
}

// findCA asks for the directory (RFC 8555 section 7.1.1).
func (i *interview) findCA() error {
	directory := i.c.text("directory")
	if directory == "" && i.ask == nil {
		return usageError{hint.Add(errors.New("which CA?"), "--directory URL, of its ACME directory; or letsencrypt")}
	}
	if directory == "" {
		err := i.ask.choose(i.c.Context, "Which CA is to issue the certificate?", "", []choice{
			{value: "own", words: "one of our own: step-ca, Caddy, or another that speaks ACME"},
			{value: "letsencrypt", words: "Let's Encrypt, for names that the whole world can look up"},
			{value: "letsencrypt-staging", words: "Let's Encrypt's CA for tests, which no client trusts"},
		}, &directory)
		if err != nil {
			return err
		}
	}
	if directory == "own" {
		directory = ""
		err := i.ask.text(i.c.Context, "URL of its ACME directory", "step-ca: https://CA/acme/acme/directory. Caddy: https://CA/acme/local/directory.", &directory, isDirectory)
		if err != nil {
			return err
		}
	}
	var err error
	directory = strings.TrimSpace(directory)
	i.answers.Directory = directory
	if i.directory, err = acme.DirectoryURL(directory); err != nil {
		return usageError{fmt.Errorf("--directory: %w", err)}
	}
	return nil
}

func isDirectory(text string) error {
	_, err := acme.DirectoryURL(text)
	return err
}

// findTrust finds the root by which the CA's own server is trusted: the system's trust, a file, or one that the CA shows and somebody vouches for.
func (i *interview) findTrust() error {
	for _, named := range []struct {
		option string
		into   *string
	}{{"root", &i.answers.Root}, {"issuer-root", &i.answers.IssuerRoot}} {
		path := i.c.text(named.option)
		if path == "" {
			continue
		}
		path, err := filepath.Abs(path)
		if err == nil {
			_, err = readRoots(i.fsys, path)
		}
		if err != nil {
			return usageError{fmt.Errorf("--%s: %w", named.option, err)}
		}
		*named.into = path
	}
	wanted := ""
	if text := i.c.text("root-fingerprint"); text != "" {
		var err error
		if wanted, err = setup.ParseFingerprint(text); err != nil {
			return usageError{fmt.Errorf("--root-fingerprint: %w", err)}
		}
	}
	if i.answers.Root != "" {
		return i.useRoots(wanted)
	}
	_, err := i.client().Requirements(i.c.Context)
	var unknown x509.UnknownAuthorityError
	if wanted == "" && !errors.As(err, &unknown) {
		return nil // it is trusted; or what else is wrong is said when it is asked next
	}
	return i.fetchRoot(wanted)
}

// useRoots takes the roots of a file, one of which has a fingerprint where one is wanted.
func (i *interview) useRoots(wanted string) error {
	roots, err := readRoots(i.fsys, i.answers.Root)
	if err != nil {
		return err
	}
	i.roots = x509.NewCertPool()
	isThere := wanted == ""
	for _, root := range roots {
		i.roots.AddCert(root)
		isThere = isThere || certstore.Fingerprint(root) == "sha256:"+wanted
		fmt.Fprintf(i.words, "root: %s, SHA-256 %s\n", printable.Phrase(root.Subject.String()), setup.Root{Cert: root}.Fingerprint())
	}
	if !isThere {
		return usageError{fmt.Errorf("--root: no certificate in %s has the fingerprint that --root-fingerprint says", i.answers.Root)}
	}
	return nil
}

func readRoots(files world.FS, path string) ([]*x509.Certificate, error) {
	text, err := files.ReadFile(path)
	if err != nil {
		return nil, err
	}
	return certstore.ParseCertificates(text)
}

// fetchRoot has the CA show its root, and a person or a fingerprint vouch for it.
func (i *interview) fetchRoot(wanted string) error {
	root, err := setup.FindRoot(i.c.Context, new(net.Dialer).DialContext, i.directory, wanted)
	if err != nil {
		return fmt.Errorf("this host does not trust the CA: %w", err)
	}
	fmt.Fprintf(i.words, "root: %s, SHA-256 %s, from %s\n", printable.Phrase(root.Cert.Subject.String()), root.Fingerprint(), printable.Text(root.From))
	why := "its fingerprint was given"
	switch {
	case wanted != "":
	case i.ask == nil:
		return usageError{hint.Add(errors.New("this host does not trust the CA, and nobody vouches for the root that it shows"),
			"compare its fingerprint with what the CA's operator says; then: --root-fingerprint %s", root.Fingerprint())}
	default:
		isSo := false
		err := i.ask.agree(i.c.Context, "Is this the fingerprint of the CA's root that its operator knows?", root.Fingerprint()+" (step certificate fingerprint root_ca.crt prints it)", &isSo)
		if err != nil {
			return err
		}
		if !isSo {
			return hint.Add(errors.New("nobody vouches for the root that the CA shows"), "bring the file from the CA's operator: --root FILE")
		}
		why = "a person compared its fingerprint"
	}
	i.answers.Root, i.answers.RootWhy = filepath.Join(i.folder, "root_ca.pem"), why
	i.roots = x509.NewCertPool()
	i.roots.AddCert(root.Cert)
	if err := i.fsys.MkdirAll(i.folder, 0o755); err != nil {
		return err
	}
	return i.fsys.Replace(i.answers.Root, root.PEM(), 0o644)
}

// client asks the CA, without an account.
func (i *interview) client() *acme.Client {
	return acme.New(acme.Config{Directory: i.directory, Roots: i.roots, UserAgent: "maascert/" + version(), Store: certstore.NewOverlay(nil), Log: i.log, Observe: i.observe})
}

// meetCA asks the CA what it wants of an account.
func (i *interview) meetCA() error {
	wants, err := i.client().Requirements(i.c.Context)
	if err != nil {
		return err
	}
	i.answers.Profile, i.answers.Email = i.c.text("profile"), i.c.text("email")
	if i.answers.Profile != "" {
		if err := acme.CheckProfile(i.answers.Profile, wants.Profiles); err != nil {
			return err
		}
	}
	if i.answers.AcceptTerms = i.c.isOn("accept-terms"); wants.Terms != "" && !i.answers.AcceptTerms {
		if i.ask == nil {
			return usageError{hint.Add(fmt.Errorf("the CA has terms of service: %s", wants.Terms), "read them; then: --accept-terms")}
		}
		if err := i.ask.agree(i.c.Context, "Do you agree to the CA's terms of service?", wants.Terms, &i.answers.AcceptTerms); err != nil {
			return err
		}
		if !i.answers.AcceptTerms {
			return errors.New("the CA issues nothing to those who do not agree to its terms")
		}
	}
	i.answers.EABKeyID, i.answers.EABKey = i.c.text("eab-key-id"), secret.Reference(i.c.text("eab-hmac"))
	if wants.ExternalAccount && i.ask != nil && i.answers.EABKeyID == "" {
		if err := i.ask.text(i.c.Context, "ID of the external account (EAB)", "The CA registers only accounts that are bound to one; its operator gives you ID and key.", &i.answers.EABKeyID, notEmpty); err != nil {
			return err
		}
		key := "file:" + filepath.Join(i.folder, "eab.key")
		if err := i.ask.text(i.c.Context, "Where its key is", "Write it there first, readable by root alone.", &key, func(text string) error { return secret.Reference(text).Check() }); err != nil {
			return err
		}
		i.answers.EABKey = secret.Reference(key)
	}
	if wants.ExternalAccount && (i.answers.EABKeyID == "" || i.answers.EABKey == "") {
		return usageError{hint.Add(acme.ErrExternalAccount, "--eab-key-id ID --eab-hmac file:PATH, as the CA's operator gave them to you")}
	}
	if i.ask != nil && !i.c.isSaid("email") {
		return i.ask.text(i.c.Context, "Mail address that the CA may write to", "May stay empty.", &i.answers.Email, func(string) error { return nil })
	}
	return nil
}

func notEmpty(text string) error {
	if text == "" {
		return errors.New("it is needed")
	}
	return nil
}

// findAPI makes a key for MAAS's API, where somebody says whose.
func (i *interview) findAPI() error {
	path := filepath.Join(i.folder, "api.key")
	if _, err := i.fsys.Stat(path); err == nil {
		i.answers.APIKey = secret.Reference("file:" + path)
		fmt.Fprintf(i.words, "the API key in %s is used\n", path)
		return nil
	}
	user := i.c.text("api-user")
	if user == "" && i.ask != nil && !i.c.isSaid("api-user") {
		if err := i.ask.text(i.c.Context, "Make an API key of which MAAS administrator?", "With one MAAS tells which regions there are, and shows notices of ours. Empty: none.", &user, func(string) error { return nil }); err != nil {
			return err
		}
	}
	if user = strings.TrimSpace(user); user == "" {
		return nil
	}
	key, err := maasconfig.MakeAPIKey(i.c.Context, i.runner(), i.facts.MAAS, user)
	if err != nil {
		return err
	}
	if err := i.fsys.MkdirAll(i.folder, 0o755); err != nil {
		return err
	}
	if err := i.fsys.Create(path, []byte(key+"\n"), 0o600); err != nil {
		return err
	}
	fmt.Fprintf(i.words, "made an API key of %s: %s\n", printable.Phrase(user), path)
	i.answers.APIKey = secret.Reference("file:" + path)
	return nil
}

// findNames asks under which names people and programs reach MAAS.
func (i *interview) findNames() error {
	for _, text := range i.c.list("name") {
		name, err := certstore.CanonicalName(strings.TrimSpace(text))
		if err != nil {
			return usageError{fmt.Errorf("--name: %w", err)}
		}
		i.answers.Names = append(i.answers.Names, setup.Name{Name: name})
	}
	if len(i.answers.Names) > 0 {
		return nil
	}
	proposed := i.facts.Names(i.c.Context, challenge.NewView(nil, nil), i.directory)
	var ticked []string
	if i.ask == nil {
		for _, one := range proposed {
			if one.Tick {
				ticked = append(ticked, one.Name)
			}
		}
	} else if err := i.askNames(proposed, &ticked); err != nil {
		return err
	}
	for _, one := range proposed {
		if slices.Contains(ticked, one.Name) {
			i.answers.Names = append(i.answers.Names, one)
		}
	}
	for _, name := range ticked {
		if !slices.ContainsFunc(proposed, func(one setup.Name) bool { return one.Name == name }) {
			i.answers.Names = append(i.answers.Names, setup.Name{Name: name})
		}
	}
	if len(i.answers.Names) == 0 {
		return usageError{hint.Add(errors.New("no name is known under which MAAS is reached"), "--name NAME")}
	}
	return nil
}

func (i *interview) askNames(proposed []setup.Name, ticked *[]string) error {
	var choices []choice
	for _, one := range proposed {
		choices = append(choices, choice{one.Name, one.Name + " (" + printable.Phrase(one.Why) + ")", one.Tick})
	}
	if len(choices) > 0 {
		if err := i.ask.tick(i.c.Context, "Under which names and addresses is MAAS reached?", "", choices, ticked); err != nil {
			return err
		}
	}
	more := ""
	err := i.ask.text(i.c.Context, "Further names, with blanks between them", "May stay empty.", &more, func(text string) error {
		for _, name := range strings.Fields(text) {
			if _, err := certstore.CanonicalName(name); err != nil {
				return err
			}
		}
		return nil
	})
	*ticked = append(*ticked, strings.Fields(more)...)
	return err
}

// findChallenge asks how the names are proven to be ours.
func (i *interview) findChallenge() error {
	kind, webroot := i.c.text("challenge"), i.c.text("webroot")
	if webroot != "" {
		i.answers.Challenge = setup.Challenge{Type: "http-01", Webroot: webroot, Why: "a web server on port 80 shows what is in this folder"}
		return nil
	}
	var names []string
	for _, one := range i.answers.Names {
		names = append(names, one.Name)
	}
	ways := i.facts.Challenges(names, i.answers.APIKey != "")
	if kind == "" && i.ask != nil && len(ways) > 1 {
		var choices []choice
		for _, way := range ways {
			choices = append(choices, choice{value: way.Type, words: way.Type + ": " + printable.Phrase(way.Why)})
		}
		if err := i.ask.choose(i.c.Context, "How is the CA to see that the names are ours?", "", choices, &kind); err != nil {
			return err
		}
	}
	for _, way := range ways {
		if kind == "" || way.Type == kind {
			i.answers.Challenge = way
			return nil
		}
	}
	switch kind {
	case "http-01", "tls-alpn-01":
		i.answers.Challenge = setup.Challenge{Type: kind, Why: "as it was asked for"}
		return nil
	}
	return usageError{hint.Add(errors.New("these names cannot be proven by what is here: wildcards need dns-01, and dns-01 by MAAS's own DNS needs --api-user"),
		"write the section acme.challenge by hand (the README shows how); or leave such names out")}
}

// findEndpoints says where the regions are, which MAAS's API would tell.
func (i *interview) findEndpoints() error {
	if i.answers.Endpoints = i.c.list("endpoint"); len(i.answers.Endpoints) > 0 || i.answers.APIKey != "" || len(i.facts.Regions) < 2 {
		return nil
	}
	for _, region := range i.facts.Regions {
		if len(region.Addresses) > 0 {
			i.answers.Endpoints = append(i.answers.Endpoints, region.Addresses[0].String())
		}
	}
	return nil
}

// findProxy asks whether an HAProxy on this host serves the certificate too.
func (i *interview) findProxy() error {
	i.answers.KeyType = certstore.KeyType(i.c.text("key-type"))
	i.answers.HAProxy = i.c.text("haproxy")
	if i.answers.HAProxy != "" || i.ask == nil || len(i.facts.HAProxy) != 1 || i.c.isSaid("haproxy") {
		return nil
	}
	wants := false
	err := i.ask.agree(i.c.Context, "Is the HAProxy on this host to serve the certificate too?", "It would be written to "+i.facts.HAProxy[0]+", in the place of what is there.", &wants)
	if wants {
		i.answers.HAProxy = i.facts.HAProxy[0]
	}
	return err
}

// write shows the configuration and writes it.
func (i *interview) write() (*config.Config, error) {
	text, err := i.answers.YAML(i.now())
	if err != nil {
		return nil, err
	}
	if i.ask != nil {
		fmt.Fprintf(i.words, "\n%s\n", text)
		isRight := true
		if err := i.ask.agree(i.c.Context, "Write that to "+i.file+"?", "", &isRight); err != nil {
			return nil, err
		}
		if !isRight {
			return nil, errEnded
		}
	}
	conf, err := i.putConfig(i.file, text, i.c.isOn("force"))
	if err == nil {
		fmt.Fprintf(i.words, "wrote %s\n", i.file)
	}
	return conf, err
}

// prove looks whether it would work, rehearses where that is wanted, and says what is left.
func (i *interview) prove(conf *config.Config) error {
	p := i.assemble(conf)
	defer p.close()
	doc := report.NewChecklist(conf.Node, checks(i.c.Context, p, func(string) bool { return true }))
	fmt.Fprintln(i.words)
	shown := i.show(doc, false, doc.OK)
	rehearses := i.c.isOn("rehearse")
	if i.ask != nil && !rehearses {
		rehearses = doc.OK
		if err := i.ask.agree(i.c.Context, "Rehearse the first renewal?", "The CA proves every name; nothing is changed.", &rehearses); err != nil {
			return err
		}
	}
	if rehearses {
		options := lifecycle.Options{ByHand: true, Accept: maasconfig.Accept{maasconfig.FirstEnable: true}}
		shown = errors.Join(shown, i.rehearse(i.c.Context, p, options, false))
	}
	i.printLeft()
	var end outcome
	if errors.As(shown, &end) {
		return end
	}
	return shown
}

// printLeft says what a person has to do yet.
func (i *interview) printLeft() {
	renew := "maascert renew"
	if i.facts.TLSKnown && i.facts.TLSPort == 0 {
		renew += " --enable-tls   # browsers remember for up to two years that this MAAS is to be reached by HTTPS only"
	}
	fmt.Fprintf(i.words, "\nwhat is left:\n  %s\n  systemctl enable --now maascert\n", renew)
	for _, one := range i.facts.Managers {
		fmt.Fprintf(i.words, "  %s   # %s gives MAAS a certificate as well\n", printable.Text(one.Off), one.Client)
	}
}

// putConfig writes a configuration file and reads it. One that would not be right is printed instead. Where it may be replaced, the one before stays
// beside it.
func (a *app) putConfig(file, text string, mayReplace bool) (*config.Config, error) {
	if err := a.fsys.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return nil, err
	}
	tried := file + ".new"
	if err := a.fsys.Replace(tried, []byte(text), 0o640); err != nil {
		return nil, err
	}
	if _, err := config.Load(tried, a.types); err != nil {
		fmt.Fprint(a.words, text)
		why := fmt.Errorf("this is not right yet, and was not written to %s: %s", file, printable.Phrase(err.Error()))
		return nil, errors.Join(why, a.fsys.Remove(tried))
	}
	before, err := a.fsys.ReadFile(file)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err == nil && mayReplace:
		err = a.fsys.Replace(file+".old", before, 0o640)
	case err == nil:
		err = fs.ErrExist
	}
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, errors.Join(err, a.fsys.Remove(tried))
	}
	if err := a.fsys.Rename(tried, file); err != nil {
		return nil, err
	}
	return config.Load(file, a.types)
}
