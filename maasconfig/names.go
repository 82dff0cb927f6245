package maasconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/section"
	"maascert/internal/world"
)

// NamesSection says in the configuration which names a certificate has because MAAS has them.
type NamesSection struct {
	MAASURL  bool     `yaml:"maas_url"`
	Regions  string   `yaml:"regions"`
	Networks []string `yaml:"networks"`
	OnChange string   `yaml:"on_change"`

	networks []netip.Prefix
}

// What is taken of each region.
const (
	noneOfRegions      = "none"
	namesOfRegions     = "fqdn"
	addressesOfRegions = "addresses"
	bothOfRegions      = "both"
)

// What is done when MAAS has more names.
const (
	onChangeReport  = "report"
	onChangeReissue = "reissue"
)

// Check fills in defaults and finds what is wrong. networks are those of the section maas:, which are taken where none are named here.
func (s *NamesSection) Check(at section.Place, networks []netip.Prefix) {
	s.Regions, s.OnChange = cmp.Or(s.Regions, noneOfRegions), cmp.Or(s.OnChange, onChangeReport)
	if !slices.Contains([]string{noneOfRegions, namesOfRegions, addressesOfRegions, bothOfRegions}, s.Regions) {
		at.Fault("regions", "%q is unknown; there are: none, fqdn, addresses, both", s.Regions)
	}
	if s.OnChange != onChangeReport && s.OnChange != onChangeReissue {
		at.Fault("on_change", "%q is unknown; there are: report, reissue", s.OnChange)
	}
	if !s.IsUsed() {
		at.Fault("", "it leads to no name: set maas_url or regions")
	}
	s.networks = checkNetworks(at, "networks", s.Networks)
	if len(s.Networks) == 0 {
		s.networks = networks
	}
	if s.wantsAddresses() && len(s.networks) == 0 {
		at.Fault("", "networks is missing: which of a region's addresses are certified; those of its bridges and containers are addresses as well")
	}
}

// IsUsed tells whether the section leads to any name.
func (s NamesSection) IsUsed() bool { return s.MAASURL || s.AsksRegions() }

// AsksRegions tells whether MAAS's API is asked.
func (s NamesSection) AsksRegions() bool { return s.Regions != "" && s.Regions != noneOfRegions }

// Reissues tells whether another certificate is ordered when MAAS has more names.
func (s NamesSection) Reissues() bool { return s.OnChange == onChangeReissue }

// wantsAddresses tells whether addresses of regions are certified.
func (s NamesSection) wantsAddresses() bool {
	return s.Regions == addressesOfRegions || s.Regions == bothOfRegions
}

// wantsNames tells whether names of regions are certified.
func (s NamesSection) wantsNames() bool {
	return s.Regions == namesOfRegions || s.Regions == bothOfRegions
}

// WantedNetworks are those that addresses are taken from; none where no addresses are certified.
func (s NamesSection) WantedNetworks() []netip.Prefix {
	if !s.wantsAddresses() {
		return nil
	}
	return s.networks
}

// Rule is what the section says in one word, as far as it says which names there are; empty for none. It is part of the wish.
func (s NamesSection) Rule() string {
	if !s.IsUsed() {
		return ""
	}
	words := []string{fmt.Sprintf("maas_url=%t", s.MAASURL), "regions=" + s.Regions}
	for _, network := range s.WantedNetworks() {
		words = append(words, network.String())
	}
	return strings.Join(words, " ")
}

// RuleHasURL tells whether a rule takes the name in MAAS's own URL.
func RuleHasURL(rule string) bool { return strings.Contains(rule, "maas_url=true") }

// checkNetworks reads networks, each as 10.0.0.0/24.
func checkNetworks(at section.Place, key string, texts []string) []netip.Prefix {
	var networks []netip.Prefix
	for i, text := range texts {
		network, err := netip.ParsePrefix(text)
		if err != nil {
			at.Fault(fmt.Sprintf("%s[%d]", key, i), "%q is no network; write 10.0.0.0/24", text)
			continue
		}
		networks = append(networks, network.Masked())
	}
	return networks
}

// Found are the names that a rule leads to, as far as they could be seen.
type Found struct {
	Names        []string // canonical
	URL          string   // the name in MAAS's own URL, as this host's region has it; empty: none
	NamesDoubt   error    // why there may be other DNS names than these; nil: there are none
	AddressDoubt error    // why there may be other addresses; likewise
	LeftOut      []string // names that no certificate can have here, each with the reason
}

// Doubt is why there may be other names; nil: these are all.
func (f Found) Doubt() error { return cmp.Or(f.NamesDoubt, f.AddressDoubt) }

// DoubtOf is why a name might be there although it was not seen; nil: it is not there.
func (f Found) DoubtOf(name string) error {
	if certstore.IsAddress(name) {
		return f.AddressDoubt
	}
	return f.NamesDoubt
}

// RegionLister lists MAAS's region controllers. An error says that it is not known which there are.
type RegionLister interface {
	Regions(ctx context.Context) ([]Region, error)
}

// Names finds the names that a section leads to.
type Names struct {
	Section NamesSection
	Regions RegionLister
	MAASURL func(ctx context.Context) (string, error)
	Check   func(name string) error // why a name cannot be certified here; nil: it can
}

// Find asks MAAS. Whatever cannot be told is a doubt, never a name less.
func (n Names) Find(ctx context.Context) Found {
	var f Found
	if n.Section.MAASURL {
		n.addURL(ctx, &f)
	}
	if n.Section.AsksRegions() {
		n.addRegions(ctx, &f)
	}
	slices.Sort(f.Names)
	f.Names = slices.Compact(f.Names)
	if len(f.Names) > MostNames {
		err := fmt.Errorf("MAAS leads to %d names; more than %d are not believed", len(f.Names), MostNames)
		f.doubt(err, err)
	}
	return f
}

// MostNames is how many names MAAS is believed to have.
const MostNames = 100

func (n Names) addURL(ctx context.Context, f *Found) {
	text, err := n.MAASURL(ctx)
	if err != nil {
		f.doubt(err, err)
		return
	}
	address, err := url.Parse(text)
	if err != nil || address.Hostname() == "" {
		err := fmt.Errorf("maas_url is no URL: %s", printable.Phrase(text))
		f.doubt(err, err)
		return
	}
	if name, err := certstore.CanonicalName(address.Hostname()); err == nil && IsOfThisHost(name) {
		f.LeftOut = append(f.LeftOut, name+" (maas_url): it means another host to everybody who asks")
		return
	}
	f.URL = n.checked(f, address.Hostname())
}

// IsOfThisHost tells whether a name means the host that uses it.
func IsOfThisHost(name string) bool {
	address, err := netip.ParseAddr(name)
	return name == "localhost" || strings.HasSuffix(name, ".localhost") || err == nil && (address.IsLoopback() || address.IsUnspecified())
}

func (n Names) addRegions(ctx context.Context, f *Found) {
	regions, err := n.Regions.Regions(ctx)
	if err == nil && len(regions) == 0 {
		err = errors.New("MAAS lists no region")
	}
	if err != nil {
		f.doubt(err, err)
		return
	}
	for _, region := range regions {
		if n.Section.wantsNames() {
			f.add(n.checked(f, region.Name))
		}
		if !n.Section.wantsAddresses() {
			continue
		}
		if len(region.Addresses) == 0 {
			f.doubt(nil, fmt.Errorf("MAAS does not know the addresses of %s yet", region.Name))
		}
		within := addressesIn(region.Addresses, n.Section.networks)
		for _, address := range within {
			f.add(n.checked(f, address.String()))
		}
		if len(within) == 0 && len(region.Addresses) > 0 {
			f.LeftOut = append(f.LeftOut, printable.Line(region.Name, 253)+": none of its addresses is in the networks of names_from_maas")
		}
	}
}

func contains(networks []netip.Prefix, address netip.Addr) bool {
	return slices.ContainsFunc(networks, func(network netip.Prefix) bool { return network.Contains(address) })
}

func (f *Found) doubt(names, addresses error) {
	f.NamesDoubt, f.AddressDoubt = cmp.Or(f.NamesDoubt, names), cmp.Or(f.AddressDoubt, addresses)
}

func (f *Found) add(name string) {
	if name != "" {
		f.Names = append(f.Names, name)
	}
}

// checked is a name in its one spelling; empty where no certificate can have it, which is noted.
func (n Names) checked(f *Found, text string) string {
	name, err := certstore.CanonicalName(text)
	if err == nil && strings.HasPrefix(name, "*.") {
		err = errors.New("a host has no wildcard for a name")
	}
	if err == nil && n.Check != nil {
		err = n.Check(name)
	}
	if err != nil {
		f.LeftOut = append(f.LeftOut, fmt.Sprintf("%s: %v", printable.Line(text, 253), err))
		return ""
	}
	return name
}

// regiondConf is where each kind of installation keeps regiond's configuration (MAAS fact 5.2).
var regiondConf = map[string]string{"snap": "/var/snap/maas/current/regiond.conf", "deb": debRegion}

// RegiondConf is the path of regiond's configuration; empty: unknown.
func (i Installation) RegiondConf() string {
	if path := regiondConf[i.Kind]; path != "" || i.HTTPDir == "" {
		return path
	}
	return filepath.Join(filepath.Dir(i.HTTPDir), "regiond.conf") // an installation of somebody's own keeps it beside
}

// Regiond is what a region's own configuration says of what it needs (MAAS facts 5.2 and 7.1). No method prints its password, or what it logs
// in to Vault with.
type Regiond struct {
	MAASURL  string `yaml:"maas_url"`
	Host     string `yaml:"database_host"`
	Port     string `yaml:"database_port"`
	Name     string `yaml:"database_name"`
	User     string `yaml:"database_user"`
	Password string `yaml:"database_pass"`
	Vault    string `yaml:"vault_url"`

	VaultMount  string `yaml:"vault_secrets_mount"`
	VaultPath   string `yaml:"vault_secrets_path"`
	VaultRole   string `yaml:"vault_approle_id"`
	VaultSecret string `yaml:"vault_secret_id"`
}

// Mount is where in Vault MAAS's secrets are mounted.
func (r Regiond) Mount() string { return cmp.Or(r.VaultMount, "secret") }

// ReadRegiond reads the configuration of this host's region.
func ReadRegiond(fsys world.FS, here Installation) (Regiond, error) {
	var conf Regiond
	path := here.RegiondConf()
	text, err := fsys.ReadFile(path)
	if err != nil {
		return conf, err
	}
	if yaml.Unmarshal(text, &conf) != nil { // the parser's words may quote it
		return conf, fmt.Errorf("%s cannot be read as YAML", path)
	}
	return conf, nil
}

// Database is where the region finds PostgreSQL: a network and an address, as a dialler takes them.
func (r Regiond) Database() (network, address string) {
	port := cmp.Or(r.Port, "5432")
	if strings.HasPrefix(r.Host, "/") { // a socket's folder
		return "unix", filepath.Join(r.Host, ".s.PGSQL."+port)
	}
	return "tcp", net.JoinHostPort(cmp.Or(r.Host, "localhost"), port)
}

// ReadDatabaseURL reads which database this region uses, and as whom, from its configuration (MAAS fact 5.2). Where MAAS keeps its
// database's credentials in Vault they do not stand there, and are nobody else's. No error holds them.
func ReadDatabaseURL(ctx context.Context, config InstallationConfig) (string, error) {
	here, err := Detect(ctx, config)
	if err != nil {
		return "", err
	}
	conf, err := ReadRegiond(config.FS, here)
	if err != nil {
		return "", fmt.Errorf("regiond's database: %w", err)
	}
	if conf.Vault != "" && conf.Password == "" {
		return "", hint.Add(fmt.Errorf("regiond's database: MAAS keeps its credentials in Vault, and %s has none", here.RegiondConf()), "store.url: a reference to the URL of a database and a user of maascert's own")
	}
	network, at := conf.Database()
	address := url.URL{Scheme: "postgres", User: url.UserPassword(cmp.Or(conf.User, "maas"), conf.Password), Path: "/" + cmp.Or(conf.Name, "maasdb"), Host: at}
	if network == "unix" {
		address.Host, address.RawQuery = "", url.Values{"host": {conf.Host}, "port": {cmp.Or(conf.Port, "5432")}}.Encode()
	}
	return address.String(), nil
}

// apiKeys are what the maas command prints of one, in a line.
var apiKeys = regexp.MustCompile(`^[A-Za-z0-9]+:[A-Za-z0-9]+:[A-Za-z0-9]+$`)

// MakeAPIKey has MAAS make another API key of an administrator, with our name on it. No error holds it.
func MakeAPIKey(ctx context.Context, runner world.Runner, here Installation, user string) (string, error) {
	result, err := runner.Run(ctx, world.Command{Path: here.Command, Args: []string{"apikey", "--generate", "--name", "maascert", "--username", user}, Timeout: time.Minute})
	if err != nil {
		return "", fmt.Errorf("maas apikey: %w", err)
	}
	key := ""
	for line := range strings.Lines(string(result.Stdout)) { // the last one counts: it lists those that there are
		if line = strings.TrimSpace(line); apiKeys.MatchString(line) {
			key = line
		}
	}
	if result.Exit != 0 || key == "" {
		said := strings.Split(strings.TrimSpace(string(result.Stderr)), "\n")
		return "", hint.Add(fmt.Errorf("maas apikey: no key of %s was made (exit %d): %s", printable.Phrase(user), result.Exit, printable.Phrase(said[len(said)-1])), "is this a MAAS administrator, and are you root?")
	}
	return key, nil
}

// ReadMAASURL reads MAAS's own URL from this region's configuration, or has the snap tell it. The API does not tell it (MAAS fact 4.3).
func ReadMAASURL(ctx context.Context, config InstallationConfig) (string, error) {
	here, err := Detect(ctx, config)
	if err != nil {
		return "", err
	}
	conf, readErr := ReadRegiond(config.FS, here)
	if readErr == nil && conf.MAASURL != "" {
		return conf.MAASURL, nil
	}
	readErr = cmp.Or(readErr, fmt.Errorf("%s does not say maas_url", here.RegiondConf()))
	if here.Kind != "snap" {
		return "", fmt.Errorf("maas_url: %w", readErr)
	}
	result, err := config.Runner.Run(ctx, world.Command{Path: here.Command, Args: []string{"config", "--parsable"}, Timeout: 10 * time.Second})
	if err != nil {
		return "", fmt.Errorf("maas_url: %w", err)
	}
	for line := range strings.Lines(string(result.Stdout)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "maas_url="); ok && value != "" {
			return value, nil
		}
	}
	return "", fmt.Errorf("maas_url: maas config --parsable does not say it (exit %d)", result.Exit)
}
