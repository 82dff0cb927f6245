// Package config is the configuration file. It promises that all that is wrong is found at once, with its place; that nothing
// unknown is passed over; and that no secret is shown.
//
// Start reading at [Load].
package config

import (
	"cmp"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"
	"github.com/robfig/cron/v3"

	"maascert/acme"
	"maascert/acme/challenge"
	"maascert/acme/providers"
	"maascert/certstore"
	"maascert/internal/maintenance"
	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/maasconfig"
	"maascert/maasconfig/maasapi"
	"maascert/notify"
)

// Config is the configuration file. examples/maascert.yaml names every key and says what it means; a test keeps it so.
type Config struct {
	Node         string            `yaml:"node"`
	StateDir     string            `yaml:"state_dir,path"`
	ACME         Issuer            `yaml:"acme"`
	Issuers      map[string]Issuer `yaml:"issuers"`
	Certificates []Certificate     `yaml:"certificates"`
	Targets      map[string]Target `yaml:"targets"`
	MAAS         MAAS              `yaml:"maas"`
	Store        Store             `yaml:"store"`
	Schedule     string            `yaml:"schedule"`
	Rehearse     string            `yaml:"rehearse"`

	RehearseHooks bool `yaml:"rehearse_hooks"`

	Resolvers []string   `yaml:"resolvers"`
	Listen    *string    `yaml:"listen"`
	Metrics   Metrics    `yaml:"metrics"`
	Notify    []Notifier `yaml:"notify"`

	schedule   cron.Schedule
	rehearsals cron.Schedule // nil: as Rehearse says in a word
	file       string        // that it was read from
	digest     string        // of its text
}

// Metrics says where else than at Listen the metrics are to be found.
type Metrics struct {
	Textfile string `yaml:"textfile,path"`
}

// UsualStateDir is where what is remembered is kept, unless something else is configured.
const UsualStateDir = "/var/lib/maascert"

// usualListen is where the daemon tells how it is, unless something else is configured.
const usualListen = "127.0.0.1:9543"

// ListenAddress is where the daemon tells how it is; empty: nowhere.
func (c *Config) ListenAddress() string {
	if c.Listen == nil {
		return usualListen
	}
	return *c.Listen
}

// MAAS says where MAAS is, on this host and behind its API.
type MAAS struct {
	maasconfig.HostSection `yaml:",inline"`
	API                    maasapi.Section `yaml:"api"`
}

// Issuer is a CA, and how names are proven to it.
type Issuer struct {
	acme.Section `yaml:",inline"`
	Challenge    Challenge `yaml:"challenge"`
	Challenges   []Rule    `yaml:"challenges"`
}

// Challenge says how names are proven.
type Challenge struct {
	challenge.Section `yaml:",inline"`
	DNS               providers.Section `yaml:"dns"`
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
func (i Issuer) ChallengeFor(name string) Challenge {
	for _, rule := range i.Challenges {
		for _, pattern := range rule.Match {
			// A pattern that is none was refused when it was read.
			if ok, _ := path.Match(pattern, name); ok {
				return rule.Challenge
			}
		}
	}
	return i.Challenge
}

// Certificate is one certificate.
type Certificate struct {
	Name    string            `yaml:"name"`
	Issuer  string            `yaml:"issuer"`
	Names   []string          `yaml:"names"`
	KeyType certstore.KeyType `yaml:"key_type"`
	Keep    int               `yaml:"keep"`
	Targets []string          `yaml:"targets"`

	RenewBefore   string                  `yaml:"renew_before"`
	Window        []string                `yaml:"window"`
	NamesFromMAAS maasconfig.NamesSection `yaml:"names_from_maas"`

	renewBefore certstore.Left
	windows     maintenance.Windows
}

// Timing says when a certificate is renewed: with how much of its lifetime left where the CA says nothing, nothing for the usual; and in
// which windows, none for always.
func (c Certificate) Timing() (before certstore.Left, windows maintenance.Windows) {
	return c.renewBefore, c.windows
}

// Target is one place that serves a certificate: its type, and the keys that this type has.
type Target struct {
	Type                     string
	maasconfig.TargetSection // nil when there is no such type
}

// Notifier is one who is told of events: its type, and the keys that this type has.
type Notifier struct {
	Type           string
	notify.Section // nil when there is no such type
}

// choose makes ready for the keys of a type. The error says that there is no such type.
func (n *Notifier) choose(_ maasconfig.Types, kind string) (any, error) {
	types := notify.Types()
	n.Type = kind
	usual, ok := types[kind]
	switch known := thereAre(slices.Sorted(maps.Keys(types))); {
	case kind == "":
		return nil, fmt.Errorf("type is missing; %s", known)
	case !ok:
		return nil, fmt.Errorf("%q is unknown; %s", kind, known)
	}
	n.Section = usual()
	return n.Section, nil
}

// choose makes ready for the keys of a type, the usual one where none is named. The error says that there is no such type.
func (t *Target) choose(types maasconfig.Types, kind string) (any, error) {
	t.Type = cmp.Or(kind, maasconfig.UsualType)
	usual, ok := types[t.Type]
	if !ok {
		return nil, fmt.Errorf("%q is unknown; %s", t.Type, thereAre(slices.Sorted(maps.Keys(types))))
	}
	t.TargetSection = usual()
	return t.TargetSection, nil
}

func thereAre(names []string) string {
	if len(names) == 1 {
		return "there is: " + names[0]
	}
	return "there are: " + strings.Join(names, ", ")
}

// Times are those of the schedule.
func (c *Config) Times() cron.Schedule { return c.schedule }

// The words that Rehearse may be instead of a schedule.
const (
	rehearseAuto  = "auto"
	rehearseNever = "never"
)

// Rehearsals says when renewals are rehearsed: at the times of a schedule, or by themselves where that bothers nobody.
func (c *Config) Rehearsals() (schedule cron.Schedule, isAuto bool) {
	return c.rehearsals, c.Rehearse == rehearseAuto
}

// Digest identifies the text of the file.
func (c *Config) Digest() string { return c.digest }

// File is the path of the file, as it was named.
func (c *Config) File() string { return c.file }

// SecretFiles are the paths of all files that hold secrets.
func (c *Config) SecretFiles() []string {
	references := append([]secret.Reference{c.MAAS.API.Key}, c.Store.Secrets()...)
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		references = append(references, c.Issuers[name].EAB.HMAC)
		for _, way := range c.Issuers[name].Ways() {
			references = append(references, slices.Collect(maps.Values(way.DNS.Secrets))...)
		}
	}
	for _, one := range c.Notify {
		references = append(references, one.Secrets()...)
	}
	var files []string
	for _, reference := range references {
		if file := reference.File(filepath.Dir(c.file)); file != "" && !slices.Contains(files, file) {
			files = append(files, file)
		}
	}
	return files
}

// Certificate is the one of a name; one without a name when there is none.
func (c *Config) Certificate(name string) Certificate {
	for _, cert := range c.Certificates {
		if cert.Name == name {
			return cert
		}
	}
	return Certificate{}
}

// Ways are all ways in which names are proven, that of most names first.
func (i Issuer) Ways() []Challenge {
	ways := []Challenge{i.Challenge}
	for _, rule := range i.Challenges {
		ways = append(ways, rule.Challenge)
	}
	return ways
}

// Load reads and checks a configuration file, whose targets are of some types. Its error is an *Errors where the text is wrong,
// with all that is wrong.
func Load(file string, types maasconfig.Types) (*Config, error) { return load(file, types, false) }

// LoadAlone reads and checks a configuration file by itself: no file, variable or credential that it refers to is read.
func LoadAlone(file string, types maasconfig.Types) (*Config, error) { return load(file, types, true) }

// CheckAlone checks the text of a configuration file by itself, as LoadAlone does, without the file.
func CheckAlone(file string, text []byte, types maasconfig.Types) error {
	_, err := read(file, text, types, true)
	return err
}

// Sections are the sections of one configuration that another has not; of a text that is none there are none.
func Sections(before, after []byte) []string {
	keys := func(text []byte) map[string]any {
		var all map[string]any
		// What cannot be read has no sections.
		_ = yaml.Unmarshal(text, &all)
		return all
	}
	var lost []string
	has := keys(after)
	for _, name := range slices.Sorted(maps.Keys(keys(before))) {
		if _, isThere := has[name]; !isThere {
			lost = append(lost, name)
		}
	}
	return lost
}

func load(file string, types maasconfig.Types, alone bool) (*Config, error) {
	text, err := os.ReadFile(file)
	if err != nil {
		return nil, withoutOp(err)
	}
	return read(file, text, types, alone)
}

func read(file string, text []byte, types maasconfig.Types, alone bool) (*Config, error) {
	config := Config{MAAS: MAAS{HostSection: maasconfig.UsualHostSection()}, file: file, digest: fmt.Sprintf("%x", sha256.Sum256(text))}
	doc := decodeYAML(file, text, types, alone, &config)
	if !doc.broken {
		v := &validator{document: doc, config: &config}
		v.run()
	}
	if len(doc.errors) > 0 {
		return nil, doc.failure()
	}
	return &config, nil
}

// validator fills in defaults and finds what is wrong beyond the types. What is wrong within a section, its package knows.
type validator struct {
	*document
	config *Config
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
	c.StateDir = cmp.Or(c.StateDir, UsualStateDir)
	section.CheckServers(v.place(""), "resolvers", c.Resolvers)
	if address := c.ListenAddress(); address != "" && !section.IsHostPort(address) {
		v.fault("listen", "%q is no address to listen on; write %s, or \"\" for none", address, usualListen)
	}
	v.maas()
	v.issuers()
	v.targets()
	v.certificates()
	v.notifiers()
	v.store(filepath.Join(c.StateDir, "store"))
	c.Schedule, c.Rehearse = cmp.Or(c.Schedule, "@every 12h"), cmp.Or(c.Rehearse, rehearseAuto)
	c.schedule = v.times("schedule", c.Schedule, "@every 12h")
	if c.Rehearse != rehearseAuto && c.Rehearse != rehearseNever {
		c.rehearsals = v.times("rehearse", c.Rehearse, "auto, never, @every 168h")
	}
}

// times reads a schedule.
func (v *validator) times(key, text, example string) cron.Schedule {
	schedule, err := cron.ParseStandard(text)
	switch {
	case err != nil:
		v.fault(key, "%q is no schedule: write %s, or five fields as cron takes them", text, example)
	case schedule.Next(time.Now()).IsZero():
		v.fault(key, "%q never comes", text)
	}
	return schedule
}

// maas checks where MAAS is. What needs its API is an error without a key for it.
func (v *validator) maas() {
	maas := &v.config.MAAS
	maas.HostSection.Check(v.place("maas"))
	maas.API.Check(v.place("maas.api"))
	if maas.Align {
		v.needsAPI("maas.align_expiry_notice")
	}
}

// notifiers checks who is told, each by the name that it has in messages.
func (v *validator) notifiers() {
	seen := map[string]bool{}
	for i, one := range v.config.Notify {
		key := fmt.Sprintf("notify[%d]", i)
		if one.Section == nil {
			if one.Type == "" && !v.has(key+".type") { // nothing stands there
				v.fault(key, "type is missing; %s", thereAre(slices.Sorted(maps.Keys(notify.Types()))))
			}
			continue
		}
		one.Check(v.place(key))
		usual := one.Usual()
		if seen[usual.Name] {
			v.fault(key+".name", "two notifiers are called %q", usual.Name)
		}
		seen[usual.Name] = true
		for j, cert := range usual.Certificates {
			if v.config.Certificate(cert).Name == "" {
				v.fault(fmt.Sprintf("%s.certificates[%d]", key, j), "there is no certificate %q", cert)
			}
		}
		if one.Type == "maas" {
			v.needsAPI(key)
		}
	}
}

// needsAPI finds a key that cannot do without MAAS's API.
func (v *validator) needsAPI(key string) {
	if !v.config.MAAS.API.IsUsed() {
		v.fault(key, "this asks MAAS's API, which needs maas.api.key: a reference to an API key of an administrator, such as file:api.key")
	}
}

// nodeNames are those that can name a document in the store.
var nodeNames = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9.-]{0,63}$`)

// defaultIssuer is the section acme: as certificates name it.
const defaultIssuer = "acme"

// issuers fills in all CAs and finds them under their names. The section acme: may be left out.
func (v *validator) issuers() {
	c := v.config
	if c.Issuers == nil {
		c.Issuers = map[string]Issuer{}
	}
	if _, taken := c.Issuers[defaultIssuer]; taken {
		v.fault("issuers."+defaultIssuer, "the issuer called %q is the section acme:", defaultIssuer)
	}
	if len(c.Certificates) == 0 || v.has("acme") {
		v.issuer("acme", &c.ACME)
		c.Issuers[defaultIssuer] = c.ACME
	}
	for _, name := range slices.Sorted(maps.Keys(c.Issuers)) {
		if name != defaultIssuer {
			issuer := c.Issuers[name]
			v.issuer("issuers."+name, &issuer)
			c.Issuers[name] = issuer
		}
	}
}

// issuer checks one CA.
func (v *validator) issuer(key string, a *Issuer) {
	a.Section.Check(v.place(key))
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

// challenge checks one way to prove names. Only that of dns-01 has a provider.
func (v *validator) challenge(key string, c *Challenge) {
	at := v.place(key)
	c.Section.Check(at)
	switch {
	case c.Type == "dns-01":
		c.DNS.Check(at.Under("dns"))
		if c.DNS.Provider == providers.MAAS {
			v.needsAPI(key + ".dns.provider")
		}
	case slices.Contains(challenge.Types, c.Type) && v.has(key+".dns"):
		at.Fault("dns", "only dns-01 has a dns section")
	}
}

func withoutOp(err error) error {
	if failed, ok := errors.AsType[*fs.PathError](err); ok {
		return fmt.Errorf("%s: %w", failed.Path, failed.Err)
	}
	return err
}

const impliedTarget = maasconfig.UsualType

func (v *validator) targets() {
	c := v.config
	if c.Targets == nil {
		c.Targets = map[string]Target{}
	}
	if _, ok := c.Targets[impliedTarget]; !ok {
		c.Targets[impliedTarget] = Target{}
	}
	named := map[string]maasconfig.TargetSection{}
	for _, name := range slices.Sorted(maps.Keys(c.Targets)) {
		t, key := c.Targets[name], "targets."+name
		if t.Type == "" { // nothing stands there
			if _, err := t.choose(v.types, ""); err != nil {
				v.fault(key, "%v", err)
			}
		}
		if v.has(key) {
			named[name] = t.TargetSection
		}
		if t.TargetSection != nil {
			t.Check(v.place(key))
		}
		c.Targets[name] = t
	}
	if err := maasconfig.CheckTogether(named); err != nil {
		v.fault("targets", "%v", err)
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
		v.timing(key, cert)
		if v.has("acme") || len(c.Issuers) > 0 {
			cert.Issuer = cmp.Or(cert.Issuer, defaultIssuer)
		}
		// Without any CA what a person brings in is watched.
		switch issuer, ok := c.Issuers[cert.Issuer]; {
		case ok:
			v.provable(key, cert, &issuer)
			v.issuable(key, cert, &issuer)
		case cert.Issuer != "":
			v.fault(key+".issuer", "there is no issuer %q", cert.Issuer)
		}
		cert.KeyType = cmp.Or(cert.KeyType, certstore.RSA3072)
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
	v.aligned(taken)
}

// timing checks when a certificate is to be renewed.
func (v *validator) timing(key string, cert *Certificate) {
	if cert.RenewBefore != "" {
		var err error
		if cert.renewBefore, err = certstore.ParseLeft(cert.RenewBefore); err != nil {
			v.fault(key+".renew_before", "%v", err)
		} else if share := cert.renewBefore.Share(); share > 2.0/3 || cert.renewBefore.IsZero() {
			v.fault(key+".renew_before", "%s is out of range: from a little above 0%% to 66%% of the lifetime, or a time", cert.RenewBefore)
		}
	}
	for i, text := range cert.Window {
		window, err := maintenance.Parse(text)
		if err != nil {
			v.fault(fmt.Sprintf("%s.window[%d]", key, i), "%v", err)
		}
		cert.windows = append(cert.windows, window)
	}
}

// aligned finds that MAAS's own notice is to follow a certificate that there is not.
func (v *validator) aligned(taken map[string]string) {
	for target := range taken {
		if v.config.Targets[target].Type == maasconfig.UsualType {
			return
		}
	}
	if v.config.MAAS.Align {
		v.fault("maas.align_expiry_notice", "no certificate has a target of type maas")
	}
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
	if v.has(key + ".names_from_maas") {
		cert.NamesFromMAAS.Check(v.place(key+".names_from_maas"), v.config.MAAS.WantedNetworks())
	}
	if cert.NamesFromMAAS.AsksRegions() {
		v.needsAPI(key + ".names_from_maas.regions")
	}
	if len(cert.Names) == 0 && !cert.NamesFromMAAS.IsUsed() {
		v.fault(key+".names", "names is missing: every name and address under which MAAS is reached")
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
		if !slices.Contains(challenge.Types, way) {
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

// CheckName says why a name that nobody wrote down cannot be certified by an issuer; nil: it can, as far as is known before it is asked.
func (i Issuer) CheckName(name string) error {
	if certstore.IsAddress(name) && i.ChallengeFor(name).Type == "dns-01" {
		return errors.New("an address cannot be proven by dns-01: set http-01 or tls-alpn-01 for it in the issuer's challenges")
	}
	return acme.CheckNames(i.Directory, i.Profile, []string{name})[name]
}

// issuable finds names that a CA is known not to issue for.
func (v *validator) issuable(key string, cert *Certificate, issuer *Issuer) {
	named := slices.DeleteFunc(slices.Clone(cert.Names), func(name string) bool { return name == "" }) // which was found already
	wrong := acme.CheckNames(issuer.Directory, issuer.Profile, named)
	for i, name := range cert.Names {
		if err := wrong[name]; err != nil && name != "" {
			v.fault(fmt.Sprintf("%s.names[%d]", key, i), "%v", err)
		}
	}
	if err := wrong[""]; err != nil {
		v.fault(key+".names", "%v", err)
	}
}

func join[T ~string](values []T) string {
	words := make([]string, len(values))
	for i, value := range values {
		words[i] = string(value)
	}
	return strings.Join(words, ", ")
}
