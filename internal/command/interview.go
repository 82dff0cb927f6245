package command

import (
	"crypto/x509"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"

	"maascert/acme"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/setup"
	"maascert/internal/world"
)

// interview is one run of init: what was found, and what was answered. Nothing is written before all is known.
type interview struct {
	*app
	c       *call
	ask     asker // nil: nobody is asked
	file    string
	folder  string // of the file
	facts   setup.Facts
	answers setup.Answers

	directory string            // of the CA, which may be called by name among the answers
	trust     *x509.CertPool    // that the directory's server is trusted by; nil: the system's
	roots     map[string][]byte // files that are written with the configuration, by path
	apiUser   string            // of whom an API key is made then; empty: none is
}

// findCA asks for the directory (RFC 8555 section 7.1.1).
func (i *interview) findCA() error {
	directory := strings.TrimSpace(i.c.text("directory"))
	if directory == "" && i.ask == nil {
		return usageError{hint.Add(errors.New("which CA?"), "--directory URL, of its ACME directory; or letsencrypt")}
	}
	if directory == "" {
		err := i.ask.choose(i.c.Context, "Which CA is to issue the certificate?", "", []choice{
			{value: "own", words: "one of our own: step-ca, Caddy, or another that speaks ACME"},
			{value: "letsencrypt", words: "Let's Encrypt, for names that the whole world can look up"},
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
	i.answers.Directory = strings.TrimSpace(directory)
	if i.directory, err = acme.DirectoryURL(i.answers.Directory); err != nil {
		return usageError{fmt.Errorf("--directory: %w", err)}
	}
	if i.directory == acme.LetsEncryptStaging && i.c.text("issuer-root") == "" {
		return usageError{hint.Add(errors.New("no client trusts what Let's Encrypt's CA for tests issues"), "--issuer-root FILE, with its root; or --directory letsencrypt")}
	}
	return nil
}

func isDirectory(text string) error {
	_, err := acme.DirectoryURL(text)
	return err
}

// findTrust finds the root by which the CA's own server is trusted: the system's trust, a file, or one that the CA shows and somebody vouches for.
func (i *interview) findTrust() error {
	var err error
	if i.answers.Root, err = i.takeRoots("root", "root_ca.pem"); err != nil {
		return err
	}
	if i.answers.IssuerRoot, err = i.takeRoots("issuer-root", "issuer_root.pem"); err != nil {
		return err
	}
	wanted := ""
	if text := i.c.text("root-fingerprint"); text != "" {
		if wanted, err = setup.ParseFingerprint(text); err != nil {
			return usageError{fmt.Errorf("--root-fingerprint: %w", err)}
		}
	}
	if i.answers.Root != "" {
		return i.useRoots(wanted)
	}
	_, err = i.client().Requirements(i.c.Context)
	var unknown x509.UnknownAuthorityError
	if wanted == "" && !errors.As(err, &unknown) {
		return nil // it is trusted; or what else is wrong is said when it is asked next
	}
	return i.fetchRoot(wanted)
}

// takeRoots reads the roots of a file that an option names, which are written beside the configuration: where they lie, others may write.
func (i *interview) takeRoots(option, name string) (path string, err error) {
	named := i.c.text(option)
	if named == "" {
		return "", nil
	}
	text, err := i.fsys.ReadFile(named)
	if err == nil {
		_, err = certstore.ParseCertificates(text)
	}
	if err != nil {
		return "", usageError{fmt.Errorf("--%s: %w", option, err)}
	}
	path = filepath.Join(i.folder, name)
	i.roots[path] = text
	return path, nil
}

// useRoots takes the roots of a file, one of which has a fingerprint where one is wanted.
func (i *interview) useRoots(wanted string) error {
	roots, err := certstore.ParseCertificates(i.roots[i.answers.Root])
	if err != nil {
		return err
	}
	i.trust = x509.NewCertPool()
	isThere := wanted == ""
	for _, cert := range roots {
		i.trust.AddCert(cert)
		isThere = isThere || certstore.Fingerprint(cert) == "sha256:"+wanted
		i.showRoot(setup.Root{Cert: cert, From: i.c.text("root")})
	}
	if !isThere {
		return usageError{fmt.Errorf("--root: no certificate in %s has the fingerprint that --root-fingerprint says", i.c.text("root"))}
	}
	return nil
}

func (i *interview) showRoot(root setup.Root) {
	fmt.Fprintf(i.words, "root: %s, from %s\n  SHA-256 %s\n", printable.Phrase(root.Cert.Subject.String()), printable.Text(root.From), root.Fingerprint())
}

// fetchRoot has the CA show its root, and a person or a fingerprint vouch for it.
func (i *interview) fetchRoot(wanted string) error {
	root, err := setup.FindRoot(i.c.Context, i.dial, i.directory, wanted)
	if err != nil {
		return fmt.Errorf("this host does not trust the CA: %w", err)
	}
	i.showRoot(root)
	i.answers.RootWhy = "its fingerprint was given"
	switch {
	case wanted != "":
	case i.ask == nil:
		return usageError{hint.Add(errors.New("this host does not trust the CA, and nobody vouches for the root that it shows"),
			"compare its fingerprint with what the CA's operator says; then: --root-fingerprint %s", root.Fingerprint())}
	default:
		isSo := false
		err := i.ask.agree(i.c.Context, "Is this the fingerprint of the CA's root that its operator knows?",
			root.Fingerprint()+", or "+root.Pairs()+". At the CA, step certificate fingerprint or openssl x509 -fingerprint -sha256 prints it.", &isSo)
		if err != nil {
			return err
		}
		if !isSo {
			return hint.Add(errors.New("nobody vouches for the root that the CA shows; nothing was written"), "bring the file from the CA's operator: --root FILE")
		}
		i.answers.RootWhy = "a person compared its fingerprint"
	}
	i.answers.Root = filepath.Join(i.folder, "root_ca.pem")
	i.roots[i.answers.Root] = root.PEM()
	i.trust = x509.NewCertPool()
	i.trust.AddCert(root.Cert)
	return nil
}

// client asks the CA, without an account.
func (i *interview) client() *acme.Client {
	return acme.New(acme.Config{Directory: i.directory, Roots: i.trust, UserAgent: "maascert/" + version(), Store: certstore.NewOverlay(nil), Log: i.log, Observe: i.observe})
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
			return usageError{fmt.Errorf("--profile: %w", err)}
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
			return errors.New("the CA issues nothing to those who do not agree to its terms; nothing was written")
		}
	}
	if err := i.findExternalAccount(wants.ExternalAccount); err != nil {
		return err
	}
	if i.ask != nil && !i.c.isSaid("email") {
		err := i.ask.text(i.c.Context, "Mail address that the CA may write to", "May stay empty.", &i.answers.Email, isMail)
		if err != nil {
			return err
		}
	}
	if i.answers.Email = strings.TrimSpace(i.answers.Email); isMail(i.answers.Email) != nil {
		return usageError{fmt.Errorf("--email: %w", isMail(i.answers.Email))}
	}
	return nil
}

func isMail(text string) error {
	if text != "" && !acme.IsMailAddress(text) {
		return fmt.Errorf("%q is no mail address", text)
	}
	return nil
}

// findExternalAccount asks for the account that the ACME account is bound to (RFC 8555 section 7.3.4), where the CA wants one.
func (i *interview) findExternalAccount(isWanted bool) error {
	i.answers.EABKeyID, i.answers.EABKey = i.c.text("eab-key-id"), secret.Reference(i.c.text("eab-hmac"))
	if isWanted && i.ask != nil && i.answers.EABKeyID == "" {
		if err := i.ask.text(i.c.Context, "ID of the external account (EAB)", "The CA registers only accounts that are bound to one; its operator gives you ID and key.", &i.answers.EABKeyID, notEmpty); err != nil {
			return err
		}
		key := "file:" + filepath.Join(i.folder, "eab.key")
		if err := i.ask.text(i.c.Context, "Where its key is", "Write it there first, readable by root alone.", &key, i.isReadable); err != nil {
			return err
		}
		i.answers.EABKey = secret.Reference(strings.TrimSpace(key))
	}
	i.answers.EABKeyID = strings.TrimSpace(i.answers.EABKeyID)
	switch isComplete := i.answers.EABKeyID != "" && i.answers.EABKey != ""; {
	case !isComplete && (isWanted || i.answers.EABKeyID != "" || i.answers.EABKey != ""):
		return usageError{hint.Add(acme.ErrExternalAccount, "--eab-key-id ID --eab-hmac file:PATH, as the CA's operator gave them to you")}
	case isComplete:
		if err := i.isReadable(string(i.answers.EABKey)); err != nil {
			return usageError{fmt.Errorf("--eab-hmac: %w", err)}
		}
	}
	return nil
}

func (i *interview) isReadable(text string) error {
	reference := secret.Reference(text)
	if err := reference.Check(); err != nil {
		return err
	}
	_, err := reference.Read(i.folder)
	return err
}

func notEmpty(text string) error {
	if text == "" {
		return errors.New("it is needed")
	}
	return nil
}

// findAPI asks of whom an API key is to be made; it is made when all is known.
func (i *interview) findAPI() error {
	path := filepath.Join(i.folder, "api.key")
	i.apiUser = strings.TrimSpace(i.c.text("api-user"))
	_, err := i.fsys.Stat(path)
	switch isThere := err == nil; {
	case i.apiUser != "":
	case isThere:
		fmt.Fprintf(i.words, "the API key in %s is used\n", path)
		i.answers.APIKey = "file:api.key"
		return nil
	case i.ask != nil && !i.c.isSaid("api-user"):
		err := i.ask.text(i.c.Context, "Make an API key of which MAAS administrator?", "With one MAAS tells which regions there are, and shows notices of ours. Empty: none.", &i.apiUser, func(string) error { return nil })
		if err != nil {
			return err
		}
	}
	if i.apiUser = strings.TrimSpace(i.apiUser); i.apiUser != "" {
		i.answers.APIKey = "file:api.key"
	}
	return nil
}

// findNames asks under which names people and programs reach MAAS.
func (i *interview) findNames() error {
	proposed := i.facts.Names(i.c.Context, challenge.NewView(nil, nil), i.directory)
	ticked := i.c.list("name")
	switch {
	case len(ticked) > 0:
	case i.ask != nil:
		if err := i.askNames(proposed, &ticked); err != nil {
			return err
		}
	default:
		for _, one := range proposed {
			if one.Tick {
				ticked = append(ticked, one.Name)
			}
		}
	}
	for _, text := range ticked {
		name, err := certstore.CanonicalName(strings.TrimSpace(text))
		if err != nil {
			return usageError{fmt.Errorf("--name: %w", err)}
		}
		one := setup.Name{Name: name}
		if at := slices.IndexFunc(proposed, func(known setup.Name) bool { return known.Name == name }); at >= 0 {
			one = proposed[at]
		}
		if !slices.Contains(i.names(), name) {
			i.answers.Names = append(i.answers.Names, one)
		}
	}
	if len(i.answers.Names) == 0 {
		return usageError{hint.Add(errors.New("no name is known under which MAAS is reached"), "--name NAME")}
	}
	return nil
}

func (i *interview) names() (names []string) {
	for _, one := range i.answers.Names {
		names = append(names, one.Name)
	}
	return names
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
		for name := range strings.FieldsSeq(text) {
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
	isWild := slices.ContainsFunc(i.names(), func(name string) bool { return strings.HasPrefix(name, "*.") })
	switch {
	case webroot != "" && kind != "" && kind != "http-01":
		return usageError{fmt.Errorf("--webroot: answers in a folder are those of http-01, not of %s", kind)}
	case isWild && kind != "" && kind != "dns-01", isWild && webroot != "":
		return usageError{errors.New("wildcards need dns-01")}
	case webroot != "":
		folder, err := filepath.Abs(webroot)
		i.answers.Challenge = setup.Challenge{Type: "http-01", Webroot: folder, Why: "a web server on port 80 shows what is in this folder"}
		return err
	}
	ways := i.facts.Challenges(i.names(), i.answers.APIKey != "")
	if kind == "" && i.ask != nil && len(ways) > 1 {
		var choices []choice
		for _, way := range ways {
			choices = append(choices, choice{value: way.Type, words: way.Type + ": " + way.Why})
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
	why := i.facts.WhyNot(i.names(), i.answers.APIKey != "")
	switch {
	case kind == "http-01", kind == "tls-alpn-01":
		i.answers.Challenge = setup.Challenge{Type: kind, Why: "as it was asked for"}
		return nil
	case kind != "" && kind != "dns-01":
		return usageError{fmt.Errorf("--challenge: %q is unknown; there are: http-01, tls-alpn-01, dns-01", kind)}
	case isWild:
		why = "wildcards need dns-01, and " + why
	}
	return usageError{hint.Add(errors.New(why), "say --api-user USER, leave such names out (--name), or have init write the configuration without them and add challenges: for another DNS provider (the README shows how)")}
}

// findEndpoints asks where the regions are, which MAAS's API would tell.
func (i *interview) findEndpoints() error {
	i.answers.Endpoints = i.c.list("endpoint")
	for _, one := range i.answers.Endpoints {
		if !section.IsEndpoint(one) {
			return usageError{fmt.Errorf("--endpoint: %q is no host or host:port", one)}
		}
	}
	isKnown := len(i.answers.Endpoints) > 0 || i.answers.APIKey != ""
	if !isKnown && i.facts.NoRegions != nil && i.ask == nil {
		return usageError{hint.Add(errors.New("which regions run could not be seen"), "start MAAS here; or --endpoint ADDRESS for each region; or --api-user USER, and MAAS tells")}
	}
	if isKnown || i.facts.NoRegions == nil && len(i.facts.Regions) < 2 {
		return nil
	}
	found := slices.DeleteFunc(slices.Clone(i.facts.Endpoints), func(one string) bool { return one == "" })
	text := strings.Join(found, " ")
	if i.ask != nil {
		err := i.ask.text(i.c.Context, "Addresses of all regions, with blanks between them", "One of each, at which it is asked what it serves; one that is down now is not among them.", &text, func(text string) error {
			for one := range strings.FieldsSeq(text) {
				if !section.IsEndpoint(one) {
					return fmt.Errorf("%q is no host or host:port", one)
				}
			}
			return nil
		})
		if err != nil {
			return err
		}
	} else if len(found) < len(i.facts.Regions) {
		return usageError{hint.Add(errors.New("not every region has an address of its own that answers here"), "--endpoint ADDRESS for each region; or --api-user USER, and MAAS tells")}
	}
	i.answers.Endpoints = strings.Fields(text)
	return nil
}

// findProxy asks whether an HAProxy on this host is to serve the certificate too.
func (i *interview) findProxy() error {
	i.answers.KeyType = certstore.KeyType(i.c.text("key-type"))
	pem, endpoint := i.c.text("haproxy"), i.c.text("haproxy-endpoint")
	if pem == "" && i.ask != nil && !i.c.isSaid("haproxy") {
		for _, one := range i.facts.HAProxy {
			wants := false
			if err := i.ask.agree(i.c.Context, "Is HAProxy to serve the certificate at "+one.Endpoint+" too?", "It would be written to "+one.PEM+", in the place of what is there.", &wants); err != nil {
				return err
			}
			if wants {
				i.answers.HAProxy = one
				return nil
			}
		}
	}
	if pem == "" {
		return nil
	}
	pem, err := filepath.Abs(pem)
	if err != nil {
		return err
	}
	if info, err := i.fsys.Stat(pem); err == nil && info.IsDir() {
		return usageError{fmt.Errorf("--haproxy: %s is a folder; name the file in it that holds MAAS's certificate", pem)}
	}
	for _, one := range i.facts.HAProxy {
		if one.PEM == pem && endpoint == "" {
			endpoint = one.Endpoint
		}
	}
	if !section.IsEndpoint(endpoint) {
		return usageError{hint.Add(fmt.Errorf("--haproxy: at which address HAProxy serves %s is not known", world.Quoted(pem)), "--haproxy-endpoint HOST:PORT")}
	}
	i.answers.HAProxy = setup.Bind{PEM: pem, Endpoint: endpoint}
	return nil
}
