// Package config is the configuration file. It promises that all that is wrong is found at once, with its place; that nothing
// unknown is passed over; and that no secret is shown.
package config

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net"
	"net/url"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/robfig/cron/v3"

	"maascert/acme"
	"maascert/acme/providers"
	"maascert/certstore"
	"maascert/internal/secret"
	"maascert/maasconfig"
)

// Config is the configuration file. examples/maascert.yaml names every key and says what it means; a test keeps it so.
type Config struct {
	Node         string            `yaml:"node"`
	StateDir     string            `yaml:"state_dir"`
	ACME         Issuer            `yaml:"acme"`
	Issuers      map[string]Issuer `yaml:"issuers"`
	Certificates []Certificate     `yaml:"certificates"`
	Targets      map[string]Target `yaml:"targets"`
	MAAS         MAAS              `yaml:"maas"`
	Store        Store             `yaml:"store"`
	Schedule     string            `yaml:"schedule"`
	Resolvers    []string          `yaml:"resolvers"`

	schedule cron.Schedule
}

// Issuer is the CA.
type Issuer struct {
	Directory      string    `yaml:"directory"`
	Root           string    `yaml:"root"`
	IssuerRoot     string    `yaml:"issuer_root"`
	AcceptTerms    bool      `yaml:"accept_terms"`
	DryRun         DryRun    `yaml:"dry_run"`
	Email          string    `yaml:"email"`
	EAB            EAB       `yaml:"eab"`
	Profile        string    `yaml:"profile"`
	PreferredChain string    `yaml:"preferred_chain"`
	Challenge      Challenge `yaml:"challenge"`
	Challenges     []Rule    `yaml:"challenges"`

	roots, issuerRoots       *x509.CertPool
	rootsPEM, issuerRootsPEM []byte // of roots and issuerRoots; empty for the system's
	external                 *acme.ExternalAccount
}

// EAB binds the ACME account to one that the CA knows otherwise.
type EAB struct {
	KeyID string           `yaml:"key_id"`
	HMAC  secret.Reference `yaml:"hmac"`
}

// DryRun is the CA for rehearsals.
type DryRun struct {
	Directory string `yaml:"directory"`
	Root      string `yaml:"root"`

	roots *x509.CertPool
}

// Challenge says how names are proven.
type Challenge struct {
	Type    string `yaml:"type"`
	Listen  string `yaml:"listen"`
	Webroot string `yaml:"webroot"`
	DNS     DNS    `yaml:"dns"`
}

// DNS says who puts TXT records.
type DNS struct {
	Provider    string                      `yaml:"provider"`
	Settings    map[string]string           `yaml:"settings"`
	Secrets     map[string]secret.Reference `yaml:"secrets"`
	Nameservers []string                    `yaml:"nameservers"`

	secrets map[string]string // what the references led to
}

// Rule says how some names are proven.
type Rule struct {
	Match     []string `yaml:"match"`
	Challenge `yaml:",inline"`
}

// String says how names are proven.
func (c Challenge) String() string {
	return strings.TrimSpace(c.Type + " " + c.Listen + c.Webroot + c.DNS.Provider)
}

// ChallengeFor says how a name is proven: as the first rule says that matches, else as all others are.
func (a Issuer) ChallengeFor(name string) Challenge {
	for _, rule := range a.Challenges {
		for _, pattern := range rule.Match {
			// A pattern that is none was refused when it was read.
			if ok, _ := path.Match(pattern, name); ok {
				return rule.Challenge
			}
		}
	}
	return a.Challenge
}

// Certificate is one certificate.
type Certificate struct {
	Name    string            `yaml:"name"`
	Issuer  string            `yaml:"issuer"`
	Names   []string          `yaml:"names"`
	KeyType certstore.KeyType `yaml:"key_type"`
	Keep    int               `yaml:"keep"`
	Targets []string          `yaml:"targets"`
}

// Target is one place that serves a certificate.
type Target struct {
	Type          string        `yaml:"type"`
	Port          int           `yaml:"port"`
	Endpoints     []string      `yaml:"endpoints"`
	VerifyTimeout time.Duration `yaml:"verify_timeout"`
}

// MAAS says where MAAS is; what is left out is detected.
type MAAS struct {
	Command  string        `yaml:"command"`
	StageDir string        `yaml:"stage_dir"`
	HTTPDir  string        `yaml:"http_dir"`
	Version  string        `yaml:"version"`
	Timeout  time.Duration `yaml:"timeout"`
}

// Store says where certificates are kept.
type Store struct {
	Type string `yaml:"type"`
	Path string `yaml:"path"`
}

// Times are those of the schedule.
func (c *Config) Times() cron.Schedule { return c.schedule }

// Certificate is the one of a name; one without a name when there is none.
func (c *Config) Certificate(name string) Certificate {
	for _, cert := range c.Certificates {
		if cert.Name == name {
			return cert
		}
	}
	return Certificate{}
}

// Roots are those that the directory's own certificate leads to; nil stands for the system's.
func (i Issuer) Roots() *x509.CertPool { return i.roots }

// RootsPEM are the same as text; empty for the system's.
func (i Issuer) RootsPEM() []byte { return i.rootsPEM }

// IssuerRoots are those that issued certificates lead to, the system's where none are configured.
func (i Issuer) IssuerRoots() *x509.CertPool { return i.issuerRoots }

// IssuerRootsPEM are the same as text; empty for the system's.
func (i Issuer) IssuerRootsPEM() []byte { return i.issuerRootsPEM }

// External is the account that the ACME account is bound to, or nil.
func (i Issuer) External() *acme.ExternalAccount { return i.external }

// Ways are all ways in which names are proven, that of most names first.
func (i Issuer) Ways() []Challenge {
	ways := []Challenge{i.Challenge}
	for _, rule := range i.Challenges {
		ways = append(ways, rule.Challenge)
	}
	return ways
}

// Roots are those that the directory's own certificate leads to; nil stands for the system's.
func (d DryRun) Roots() *x509.CertPool { return d.roots }

// SecretSettings are what the references under secrets led to, by name.
func (d DNS) SecretSettings() map[string]string { return d.secrets }

// Presets are the directories that can be called by name.
var Presets = map[string]string{"letsencrypt": acme.LetsEncrypt, "letsencrypt-staging": acme.LetsEncryptStaging}

// Load reads and checks a configuration file. Its error is a Errors where the text is wrong, with all that
// is wrong.
func Load(file string) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, withoutOp(err)
	}
	var config Config
	doc := decodeYAML(file, text, &config)
	if !doc.broken {
		v := &validator{document: doc, config: &config, folder: filepath.Dir(file)}
		v.run()
	}
	if len(doc.errors) > 0 {
		return nil, doc.failure()
	}
	return &config, nil
}

// validator fills in defaults and finds what is wrong beyond the types.
type validator struct {
	*document
	config *Config
	folder string
}

func (v *validator) run() {
	c := v.config
	if c.Node == "" {
		name, err := os.Hostname()
		if err != nil {
			v.fault("node", "the host has no name; give it one here")
		}
		c.Node = name
	}
	if !nodeNames.MatchString(c.Node) {
		v.fault("node", "%q names no host: 1 to 64 letters, digits, dots and hyphens", c.Node)
	}
	c.StateDir = v.path(c.StateDir, "/var/lib/maascert")
	v.servers("resolvers", c.Resolvers)
	v.issuers()
	v.targets()
	v.certificates()
	v.maas()
	c.Store.Type = fallback(c.Store.Type, "file")
	if c.Store.Type != "file" {
		v.fault("store.type", "%q is unknown; there is: file", c.Store.Type)
	}
	c.Store.Path = v.path(c.Store.Path, filepath.Join(c.StateDir, "store"))
	c.Schedule = fallback(c.Schedule, "@every 12h")
	var err error
	if c.schedule, err = cron.ParseStandard(c.Schedule); err != nil {
		v.fault("schedule", "%q is no schedule: write @every 12h, or five fields as cron takes them", c.Schedule)
	} else if c.schedule.Next(time.Now()).IsZero() {
		v.fault("schedule", "%q never comes", c.Schedule)
	}
}

// nodeNames are those that can name a document in the store.
var nodeNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)

// defaultIssuer is the section acme: as certificates name it.
const defaultIssuer = "acme"

// issuers fills in all CAs and finds them under their names. The section acme: may be left out when no certificate wants
// it.
func (v *validator) issuers() {
	c := v.config
	if c.Issuers == nil {
		c.Issuers = map[string]Issuer{}
	}
	if _, taken := c.Issuers[defaultIssuer]; taken {
		v.fault("issuers."+defaultIssuer, "the issuer called %q is the section acme:", defaultIssuer)
	}
	wanted := slices.ContainsFunc(c.Certificates, func(cert Certificate) bool { return fallback(cert.Issuer, defaultIssuer) == defaultIssuer })
	if wanted || len(c.Certificates) == 0 || v.has("acme") {
		v.acme("acme", &c.ACME)
		c.Issuers[defaultIssuer] = c.ACME
	}
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		if name != defaultIssuer {
			issuer := c.Issuers[name]
			v.acme("issuers."+name, &issuer)
			c.Issuers[name] = issuer
		}
	}
}

func (v *validator) external(key string, eab EAB) *acme.ExternalAccount {
	if eab == (EAB{}) {
		return nil
	}
	if eab.KeyID == "" {
		v.fault(key, "key_id is missing")
	}
	text, err := eab.HMAC.Read(v.folder)
	if err != nil {
		v.fault(key+".hmac", "%v", err)
		return nil
	}
	if _, err := base64.RawURLEncoding.DecodeString(strings.TrimRight(text, "=")); err != nil {
		v.fault(key+".hmac", "%s does not hold a base64url key", eab.HMAC)
	}
	return &acme.ExternalAccount{KeyID: eab.KeyID, HMAC: strings.TrimRight(text, "=")}
}

// acme checks one CA.
func (v *validator) acme(key string, a *Issuer) {
	if a.Directory == "" {
		v.fault(key, "%s.directory is missing: the URL of the CA's ACME directory, or letsencrypt", key)
	}
	if a.Directory == "letsencrypt" && a.DryRun.Directory == "" {
		a.DryRun.Directory = "letsencrypt-staging"
	}
	a.Directory = v.directory(key+".directory", a.Directory)
	a.DryRun.Directory = v.directory(key+".dry_run.directory", a.DryRun.Directory)
	if a.DryRun.Directory != "" && a.DryRun.Directory == a.Directory {
		v.fault(key+".dry_run.directory", "a rehearsal would issue at the CA itself; leave it out, and names are proven without issuing")
	}
	a.roots, a.rootsPEM = v.roots(key+".root", &a.Root)
	a.issuerRoots, a.issuerRootsPEM = a.roots, a.rootsPEM
	if a.IssuerRoot != "" {
		a.issuerRoots, a.issuerRootsPEM = v.roots(key+".issuer_root", &a.IssuerRoot)
	}
	if a.issuerRoots == nil {
		a.issuerRoots = systemRoots()
	}
	a.DryRun.roots, _ = v.roots(key+".dry_run.root", &a.DryRun.Root)
	if a.Email != "" && !regexp.MustCompile(`^[^@\s]+@[^@\s]+$`).MatchString(a.Email) {
		v.fault(key+".email", "%q is no mail address", a.Email)
	}
	a.external = v.external(key+".eab", a.EAB)
	v.challenge(key+".challenge", &a.Challenge)
	for i, rule := range a.Challenges {
		at := fmt.Sprintf("%s.challenges[%d]", key, i)
		if len(rule.Match) == 0 {
			v.fault(at, "match is missing: the names that this is for, as patterns like *.example.com")
		}
		for j, pattern := range rule.Match {
			canonical, err := canonicalPattern(pattern)
			if err != nil {
				v.fault(fmt.Sprintf("%s.match[%d]", at, j), "%q is no pattern; write *.example.com", pattern)
			}
			rule.Match[j] = canonical
		}
		v.challenge(at, &a.Challenges[i].Challenge)
	}
}

// canonicalPattern is a pattern in the one spelling of the names that it is for: lower case and A-labels.
func canonicalPattern(pattern string) (string, error) {
	if _, err := path.Match(pattern, "x"); err != nil {
		return pattern, err
	}
	if name, err := certstore.CanonicalName(pattern); err == nil {
		return name, nil
	}
	return strings.ToLower(pattern), nil
}

// challengeTypes are the ways to prove names (RFC 8555 section 8, RFC 8737).
var challengeTypes = []string{"http-01", "tls-alpn-01", "dns-01"}

// challenge checks one way to prove names.
func (v *validator) challenge(key string, c *Challenge) {
	c.Type = fallback(c.Type, "http-01")
	if !slices.Contains(challengeTypes, c.Type) {
		v.fault(key+".type", "%q is unknown; there are: %s", c.Type, strings.Join(challengeTypes, ", "))
		return
	}
	listen := map[string]string{"http-01": ":80", "tls-alpn-01": ":443"}
	switch {
	case c.Type == "dns-01":
		if c.Listen != "" || c.Webroot != "" {
			v.fault(key, "dns-01 listens nowhere and has no webroot")
		}
		v.dns(key+".dns", &c.DNS)
		return
	case v.has(key + ".dns"):
		v.fault(key+".dns", "only dns-01 has a dns section")
	}
	switch {
	case c.Webroot == "":
		c.Listen = fallback(c.Listen, listen[c.Type])
		if !IsHostPort(c.Listen) {
			v.fault(key+".listen", "%q is no address to listen on; write %s or 10.0.0.10%s", c.Listen, listen[c.Type], listen[c.Type])
		}
	case c.Listen != "":
		v.fault(key+".webroot", "listen and webroot exclude each other")
	case c.Type != "http-01":
		v.fault(key+".webroot", "only http-01 can be answered by files")
	default:
		c.Webroot = v.path(c.Webroot, "")
	}
}

// dns checks who puts TXT records, and reads the secrets for it.
func (v *validator) dns(key string, c *DNS) {
	if c.Provider == "" {
		v.fault(key, "dns.provider is missing; there are: %s", strings.Join(providers.Names(), ", "))
		return
	}
	if err := providers.CheckName(c.Provider); err != nil {
		v.fault(key+".provider", "%v", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(c.Settings)) {
		at := key + ".settings." + name
		_, doubled := c.Secrets[name]
		switch err := providers.CheckSetting(c.Provider, name); {
		case providers.IsSecret(name):
			v.hide(at)
			v.fault(at, "%s is a secret: it belongs under secrets, as file:PATH, env:NAME or cred:NAME", name)
		case err != nil:
			v.fault(at, "%v", err)
		case doubled:
			v.fault(at, "%s stands under secrets as well", name)
		case hasPassword(c.Settings[name]):
			v.hide(at)
			v.fault(at, "a URL here holds no user and no password: where the provider has settings for them, they belong under secrets")
		default:
			if err := providers.CheckValue(name, c.Settings[name]); err != nil {
				v.fault(at, "%v", err)
			}
		}
	}
	c.secrets = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(c.Secrets)) {
		at := key + ".secrets." + name
		if err := providers.CheckSetting(c.Provider, name); err != nil {
			v.fault(at, "%v", err)
			continue
		}
		value, err := c.Secrets[name].Read(v.folder)
		if err != nil {
			v.fault(at, "%v", err)
		}
		c.secrets[name] = value
	}
	v.servers(key+".nameservers", c.Nameservers)
}

// hasPassword tells whether a text is a URL that names a user or a password.
func hasPassword(text string) bool {
	address, err := url.Parse(text)
	return strings.Contains(text, "://") && strings.Contains(text, "@") && (err != nil || address.User != nil)
}

// servers completes name servers with their port.
func (v *validator) servers(key string, servers []string) {
	for i, server := range servers {
		if !isEndpoint(server) {
			v.fault(fmt.Sprintf("%s[%d]", key, i), "%q is no server; write 10.0.0.53 or 10.0.0.53:53", server)
			continue
		}
		if _, _, err := net.SplitHostPort(server); err != nil {
			servers[i] = net.JoinHostPort(strings.Trim(server, "[]"), "53")
		}
	}
}

func systemRoots() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		// A host without a store of roots trusts nobody, which the first look at the CA says.
		return x509.NewCertPool()
	}
	return pool
}

// directory resolves a directory's name and checks its URL.
func (v *validator) directory(key, value string) string {
	if preset, ok := Presets[value]; ok || value == "" {
		return preset
	}
	address, err := url.Parse(value)
	if strings.Contains(value, "@") && (err != nil || address.User != nil) {
		v.hide(key)
		v.fault(key, "a URL here holds no user and no password")
		return ""
	}
	if err != nil || address.Scheme != "https" || address.Host == "" {
		v.fault(key, "%q is no https URL and none of: %s", value, strings.Join(slices.Sorted(maps.Keys(Presets)), ", "))
	}
	return value
}

// roots reads a file of trusted roots; nil stands for the system's.
func (v *validator) roots(key string, file *string) (*x509.CertPool, []byte) {
	if *file == "" {
		return nil, nil
	}
	*file = v.path(*file, "")
	text, err := os.ReadFile(*file)
	if err != nil {
		v.fault(key, "%v", withoutOp(err))
		return nil, nil
	}
	certs, err := certstore.ParseCertificates(text)
	if err != nil {
		v.fault(key, "%s: %v", *file, err)
		return nil, nil
	}
	pool := x509.NewCertPool()
	for _, cert := range certs {
		pool.AddCert(cert)
	}
	return pool, certstore.EncodeCertificates(certs)
}

func withoutOp(err error) error {
	var failed *fs.PathError
	if errors.As(err, &failed) {
		return fmt.Errorf("%s: %w", failed.Path, failed.Err)
	}
	return err
}

const impliedTarget = "maas"

func (v *validator) targets() {
	c := v.config
	if c.Targets == nil {
		c.Targets = map[string]Target{}
	}
	if _, ok := c.Targets[impliedTarget]; !ok {
		c.Targets[impliedTarget] = Target{Type: "maas"}
	}
	maasTargets := 0
	for _, name := range slices.Sorted(maps.Keys(c.Targets)) {
		t, key := c.Targets[name], "targets."+name
		t.Type = fallback(t.Type, "maas")
		switch {
		case t.Type != "maas":
			v.fault(key+".type", "%q is unknown; there is: maas", t.Type)
		case v.has(key):
			maasTargets++
		}
		if t.Port != 0 && !maasconfig.IsUsablePort(t.Port) {
			v.fault(key+".port", "%d cannot be MAAS's TLS port: it is out of range or used by MAAS itself", t.Port)
		}
		for i, endpoint := range t.Endpoints {
			at := fmt.Sprintf("%s.endpoints[%d]", key, i)
			_, port, err := net.SplitHostPort(endpoint)
			number, _ := strconv.Atoi(port)
			switch {
			case !isEndpoint(endpoint):
				v.fault(at, "%q is no host or host:port", endpoint)
			case err == nil && !maasconfig.IsUsablePort(number):
				v.fault(at, "%s: MAAS does not serve TLS there: it uses this port otherwise", endpoint)
			}
		}
		t.VerifyTimeout = v.duration(key+".verify_timeout", t.VerifyTimeout, 5*time.Minute)
		c.Targets[name] = t
	}
	if maasTargets > 1 {
		v.fault("targets", "a host belongs to one MAAS: only one target can be of type maas")
	}
}

// certificateNames are those that can name a document in the store and a file.
var certificateNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]{0,63}$`)

func (v *validator) certificates() {
	c := v.config
	if len(c.Certificates) == 0 {
		v.fault("certificates", "certificates is missing: at least one with a name and names")
	}
	seen, taken := map[string]bool{}, map[string]string{}
	for i := range c.Certificates {
		cert, key := &c.Certificates[i], fmt.Sprintf("certificates[%d]", i)
		if !certificateNames.MatchString(cert.Name) {
			v.fault(key+".name", "a certificate's name has 1 to 64 letters, digits, hyphens and underscores, not %q", cert.Name)
		}
		if seen[cert.Name] {
			v.fault(key+".name", "two certificates are called %q", cert.Name)
		}
		seen[cert.Name] = true
		v.names(key, cert)
		cert.Issuer = fallback(cert.Issuer, defaultIssuer)
		if issuer, ok := c.Issuers[cert.Issuer]; ok {
			v.provable(key, cert, &issuer)
			v.issuable(key, cert, &issuer)
		} else {
			v.fault(key+".issuer", "there is no issuer %q", cert.Issuer)
		}
		cert.KeyType = certstore.KeyType(fallback(string(cert.KeyType), string(certstore.RSA3072)))
		if !slices.Contains(certstore.KeyTypes, cert.KeyType) {
			v.fault(key+".key_type", "%q is unknown; there are: %s", cert.KeyType, join(certstore.KeyTypes))
		}
		if !v.has(key + ".keep") {
			cert.Keep = 5
		}
		if cert.Keep < 1 || cert.Keep > 1000 {
			v.fault(key+".keep", "%d is out of range: 1 to 1000 versions", cert.Keep)
		}
		if !v.has(key + ".targets") {
			cert.Targets = []string{impliedTarget}
		}
		for j, target := range cert.Targets {
			at := fmt.Sprintf("%s.targets[%d]", key, j)
			if _, ok := c.Targets[target]; !ok {
				v.fault(at, "there is no target %q", target)
			}
			if other, ok := taken[target]; ok {
				v.fault(at, "target %q already serves certificate %q", target, other)
			}
			taken[target] = cert.Name
		}
	}
	v.unused(taken)
}

// unused finds targets that were configured for nobody.
func (v *validator) unused(taken map[string]string) {
	for name := range v.config.Targets {
		if _, ok := taken[name]; !ok && v.has("targets."+name) {
			v.fault("targets."+name, "no certificate names target %q; a certificate without targets has [%s]", name, impliedTarget)
		}
	}
}

func (v *validator) names(key string, cert *Certificate) {
	if len(cert.Names) == 0 {
		v.fault(key, "names is missing: every name and address under which MAAS is reached")
	}
	for i, name := range cert.Names {
		at := fmt.Sprintf("%s.names[%d]", key, i)
		canonical, err := certstore.CanonicalName(name)
		switch {
		case err != nil:
			v.fault(at, "%v", err)
		case slices.Contains(cert.Names[:i], canonical):
			v.fault(at, "%s stands here twice", name)
		default:
			cert.Names[i] = canonical
		}
	}
}

// provable finds names that cannot be proven in the way that is chosen for them.
func (v *validator) provable(key string, cert *Certificate, issuer *Issuer) {
	for i, name := range cert.Names {
		at := fmt.Sprintf("%s.names[%d]", key, i)
		way := issuer.ChallengeFor(name).Type
		if !slices.Contains(challengeTypes, way) {
			continue
		}
		switch {
		case strings.HasPrefix(name, "*.") && way != "dns-01":
			v.fault(at, "%s: a wildcard is proven only by dns-01, not by %s: set it in the issuer's challenges", name, way)
		case certstore.IsAddress(name) && way == "dns-01":
			v.fault(at, "%s: an address cannot be proven by dns-01: set http-01 or tls-alpn-01 for it in the issuer's challenges", name)
		}
	}
}

// issuable finds names that a CA is known not to issue for.
func (v *validator) issuable(key string, cert *Certificate, issuer *Issuer) {
	wrong := acme.CheckNames(issuer.Directory, issuer.Profile, cert.Names)
	for i, name := range cert.Names {
		if err := wrong[name]; err != nil {
			v.fault(fmt.Sprintf("%s.names[%d]", key, i), "%v", err)
		}
	}
	if err := wrong[""]; err != nil {
		v.fault(key+".names", "%v", err)
	}
}

func (v *validator) maas() {
	m := &v.config.MAAS
	m.Timeout = v.duration("maas.timeout", m.Timeout, 2*time.Minute)
	if m.Version != "" {
		if _, err := maasconfig.ParseVersion(m.Version); err != nil {
			v.fault("maas.version", "%v; write 3.7.3", err)
		}
	}
	for _, dir := range []*string{&m.StageDir, &m.HTTPDir} {
		*dir = v.path(*dir, "")
	}
	if strings.Contains(m.Command, "/") {
		m.Command = v.path(m.Command, "")
	}
}

// path makes a path absolute: it is relative to the configuration's folder.
func (v *validator) path(name, otherwise string) string {
	name = fallback(name, otherwise)
	if name == "" || filepath.IsAbs(name) {
		return name
	}
	absolute, err := filepath.Abs(filepath.Join(v.folder, name))
	if err != nil {
		return filepath.Join(v.folder, name)
	}
	return absolute
}

func (v *validator) duration(key string, value, otherwise time.Duration) time.Duration {
	if !v.has(key) {
		return otherwise
	}
	if value < time.Second || value > time.Hour {
		v.fault(key, "%v is out of range: 1s to 1h", value)
	}
	return value
}

func fallback(value, otherwise string) string {
	if value == "" {
		return otherwise
	}
	return value
}

func join[T ~string](values []T) string {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = string(value)
	}
	return strings.Join(words, ", ")
}

// IsHostPort tells whether a text is an address to listen on: a port, with a host or without.
func IsHostPort(text string) bool {
	host, port, err := net.SplitHostPort(text)
	number, portErr := strconv.Atoi(port)
	return err == nil && portErr == nil && number > 0 && number < 65536 && (host == "" || isHost(host))
}

func isEndpoint(text string) bool {
	host, _, err := net.SplitHostPort(text)
	if err == nil {
		return host != "" && IsHostPort(text)
	}
	return isHost(strings.Trim(text, "[]"))
}

func isHost(text string) bool {
	name, err := certstore.CanonicalName(text)
	return err == nil && !strings.HasPrefix(name, "*.")
}
