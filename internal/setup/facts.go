// Package setup proposes a configuration for a region host from what is found there, and writes it down in words that a person can read. It
// looks and proposes; who asks and decides is elsewhere.
//
// Start reading at [Look], then [Answers], which are written down.
package setup

import (
	"bytes"
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/lineage"
	"maascert/internal/preflight"
	"maascert/internal/printable"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// Facts are what is so on a region host before maascert is set up.
type Facts struct {
	MAAS     maasconfig.Installation
	TLSPort  int  // on which this host's region serves TLS; 0: it does not
	TLSKnown bool // whether that could be seen
	Served   *x509.Certificate
	URL      string              // MAAS's own; empty: unknown
	Regions  []maasconfig.Region // that run now
	// Why it is not known which run; nil: it is.
	NoRegions error
	// Where each of Regions is asked, in their order; empty where no address of one takes connections that is its alone.
	Endpoints []string
	Virtual   []netip.Addr // that keepalived moves between hosts
	Host      string       // this host's name
	Owners    map[int]string
	Juju      string // unit; empty: none
	Managers  []lineage.Manager
	HAProxy   []Bind // of an HAProxy on this host
}

// The ports at which CAs look for answers (RFC 8555 section 8.3, RFC 8737).
const (
	httpPort = 80
	tlsPort  = 443
)

// Look finds the facts of a host that has a region.
func Look(ctx context.Context, host preflight.Host, here maasconfig.InstallationConfig) Facts {
	f := Facts{MAAS: host.MAAS, Virtual: host.VirtualAddresses(), Owners: map[int]string{}, Juju: maasconfig.JujuUnit(host.Files), Host: hostName(host.Files)}
	f.HAProxy = haproxyBinds(host.Files, f.Virtual)
	f.Managers, _ = lineage.Managers(host.Files)
	f.TLSPort, f.TLSKnown = maasconfig.LocalTLSPort(ctx, here)
	target := maasconfig.New(maasconfig.Config{
		Detect: func(context.Context) (maasconfig.Installation, error) { return host.MAAS, nil }, FS: host.Files, Runner: host.Runner, Dial: host.Dial, UID: host.UID,
	})
	if bundle, err := target.Backup(ctx); err == nil && f.TLSPort != 0 { // files stay behind when TLS is switched off
		f.Served = bundle.Leaf()
	}
	// What cannot be found is not proposed.
	f.URL, _ = maasconfig.ReadMAASURL(ctx, here)
	if f.NoRegions = world.CheckListener("127.0.0.1", "5240"); f.NoRegions == nil { // else a person stands in MAAS's place
		f.Regions, f.NoRegions = maasconfig.LiveRegions(ctx, host.Dial, "127.0.0.1")
	}
	f.Endpoints = f.findEndpoints(ctx, host.Dial)
	for _, port := range []int{httpPort, tlsPort} {
		for _, one := range host.Listening(port) {
			f.Owners[port] = cmp.Or(one.Program(), fmt.Sprintf("a program of user %d", one.Owner))
		}
	}
	return f
}

// hostName is this host's, with its domain where /etc/hosts says that (hosts(5): the first name of a line is the canonical one).
func hostName(files world.FS) string {
	short, err := os.Hostname()
	if err != nil || strings.Contains(short, ".") {
		return short
	}
	text, err := files.ReadFile("/etc/hosts")
	if err != nil {
		return short
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) > 1 && strings.HasPrefix(words[1], short+".") {
			return words[1]
		}
	}
	return short
}

// Bind is an address at which an HAProxy on this host serves a certificate, and the file that it has it from.
type Bind struct{ PEM, Endpoint string }

// haproxyBinds are what HAProxy's configuration here serves certificates at: the address and what follows crt on its lines bind. A folder of
// certificates is left out: which file is meant nobody knows; so is an address that is another host's now and then: who answers there is not known.
func haproxyBinds(files world.FS, virtual []netip.Addr) (found []Bind) {
	text, err := files.ReadFile("/etc/haproxy/haproxy.cfg")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "bind" {
			continue
		}
		for i, word := range words[:len(words)-1] {
			pem := words[i+1]
			info, err := files.Stat(pem)
			if word != "crt" || !filepath.IsAbs(pem) || err == nil && info.IsDir() || strings.HasSuffix(pem, "/") {
				continue
			}
			one := Bind{pem, reachable(words[1], virtual)}
			if one.Endpoint != "" && !slices.ContainsFunc(found, func(known Bind) bool { return known.PEM == pem }) && len(found) < mostBinds {
				found = append(found, one)
			}
		}
	}
	return found
}

// mostBinds bounds how many of them are proposed.
const mostBinds = 10

// reachable is where somebody on this host connects to what HAProxy calls *:443, :443 or 10.0.0.10:443; empty: nowhere that is known.
func reachable(bind string, virtual []netip.Addr) string {
	host, port, err := net.SplitHostPort(strings.Split(bind, ",")[0])
	if _, portErr := strconv.ParseUint(port, 10, 16); err != nil || portErr != nil {
		return ""
	}
	address, err := netip.ParseAddr(host)
	switch {
	case host == "" || host == "*" || err == nil && address.IsUnspecified():
		return net.JoinHostPort("127.0.0.1", port)
	case err != nil || slices.Contains(virtual, address) || !world.IsThisHost(address.String()):
		return ""
	}
	return net.JoinHostPort(address.String(), port)
}

// Words are the facts for a person, a line each.
func (f Facts) Words() []string {
	lines := []string{printable.Text(fmt.Sprintf("MAAS %s, %s %s", f.MAAS.Version, f.MAAS.Kind, f.MAAS.Mode))}
	add := func(format string, args ...any) { lines = append(lines, printable.Text(fmt.Sprintf(format, args...))) }
	switch {
	case f.TLSPort != 0 && f.Served != nil:
		add("TLS is on, on port %d, with a certificate of %s until %s", f.TLSPort, cmp.Or(f.Served.Issuer.CommonName, f.Served.Issuer.String()), printable.Time(f.Served.NotAfter))
	case f.TLSPort != 0:
		add("TLS is on, on port %d", f.TLSPort)
	case f.TLSKnown:
		add("TLS is off")
	default:
		add("whether TLS is on cannot be seen here (are you root?)")
	}
	if f.NoRegions != nil {
		add("which regions run could not be seen: %v", f.NoRegions)
	} else {
		add("regions that run: %s", strings.Join(f.regionNames(), ", "))
	}
	for _, address := range f.Virtual {
		add("keepalived moves %s between hosts", address)
	}
	for _, port := range []int{httpPort, tlsPort} {
		if owner := f.Owners[port]; owner != "" {
			add("port %d belongs to %s", port, owner)
		} else {
			add("port %d is free", port)
		}
	}
	for _, one := range f.HAProxy {
		add("HAProxy serves at %s what is in %s", one.Endpoint, one.PEM)
	}
	if f.Juju != "" {
		add("Juju manages this region (%s) and may put its own certificate back", f.Juju)
	}
	for _, one := range f.Managers {
		add("%s gives MAAS a certificate as well (%s); later: %s", one.Client, one.File, one.Off)
	}
	return lines
}

func (f Facts) regionNames() []string {
	var names []string
	for i, region := range f.Regions {
		names = append(names, fmt.Sprintf("%s (%s)", region.Name, cmp.Or(f.Endpoints[i], "no address of its own answers")))
	}
	return names
}

// connectTime bounds one connection that is tried.
const connectTime = 2 * time.Second

// findEndpoints finds, for each region that runs, the address at which it is asked: one that no other region has as well, that does not move
// between hosts, that is this host's for this host alone, and that takes connections where MAAS answers.
func (f Facts) findEndpoints(ctx context.Context, dial world.Dial) []string {
	short, _, _ := strings.Cut(f.Host, ".")
	endpoints := make([]string, len(f.Regions))
	var group errgroup.Group
	for i, region := range f.Regions {
		group.Go(func() error {
			for _, address := range region.Addresses {
				isShared := slices.Contains(f.Virtual, address)
				for j, other := range f.Regions {
					isShared = isShared || i != j && slices.Contains(other.Addresses, address)
				}
				isHere := world.IsThisHost(address.String())
				if isShared || len(f.Regions) > 1 && isHere && short != "" && !strings.EqualFold(region.Name, short) && f.hasRegion(short) || !connects(ctx, dial, address) {
					continue
				}
				endpoints[i] = address.String()
				return nil
			}
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	return endpoints
}

func (f Facts) hasRegion(name string) bool {
	return slices.ContainsFunc(f.Regions, func(region maasconfig.Region) bool { return strings.EqualFold(region.Name, name) })
}

func connects(ctx context.Context, dial world.Dial, address netip.Addr) bool {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := dial(ctx, "tcp", net.JoinHostPort(address.String(), "5240"))
	if err != nil {
		return false
	}
	// That it was accepted is all that matters.
	_ = conn.Close()
	return true
}

// Name is one that the certificate may have.
type Name struct {
	Name string
	Why  string
	Tick bool // it is proposed
}

// Names are those that lead to this MAAS, those that are proposed first: what is served now, what MAAS calls itself, what moves between its
// hosts, and this host's own name where DNS knows it. Those that the CA would refuse are left out.
func (f Facts) Names(ctx context.Context, resolver preflight.Resolver, directory string) []Name {
	var all []Name
	add := func(text, why string, tick bool) {
		name, err := certstore.CanonicalName(text)
		if err != nil || maasconfig.IsOfThisHost(name) || slices.ContainsFunc(all, func(one Name) bool { return one.Name == name }) || acme.CheckNames(directory, "", []string{name})[name] != nil {
			return
		}
		all = append(all, Name{name, why, tick})
	}
	if f.Served != nil && !bytes.Equal(f.Served.RawIssuer, f.Served.RawSubject) { // one that signed itself was made for a moment, with whatever names
		for _, name := range certstore.CertificateNames(f.Served) {
			add(name, "served now", true)
		}
	}
	if host := urlHost(f.URL); host != "" {
		add(host, "MAAS's own URL", true)
	}
	for _, address := range f.Virtual {
		add(address.String(), "moves between region hosts", true)
	}
	var hosts []Name
	if strings.Contains(f.Host, ".") {
		hosts = append(hosts, Name{Name: f.Host, Why: "this host"})
	}
	for _, region := range f.Regions {
		if strings.Contains(region.Name, ".") {
			hosts = append(hosts, Name{Name: region.Name, Why: "a region"})
		}
	}
	for i, isKnown := range inDNS(ctx, resolver, hosts) {
		add(hosts[i].Name, hosts[i].Why, isKnown)
	}
	isAlone := !slices.ContainsFunc(all, func(one Name) bool { return one.Tick })
	for i, endpoint := range f.Endpoints {
		if endpoint != "" {
			add(endpoint, "address of region "+f.Regions[i].Name, isAlone && world.IsThisHost(endpoint))
		}
	}
	slices.SortStableFunc(all, func(a, b Name) int { return boolean(b.Tick) - boolean(a.Tick) })
	return all
}

// lookUpTime bounds the questions which names DNS knows.
const lookUpTime = 10 * time.Second

// inDNS tells which names DNS has an address for.
func inDNS(ctx context.Context, resolver preflight.Resolver, names []Name) []bool {
	ctx, cancel := context.WithTimeout(ctx, lookUpTime)
	defer cancel()
	known := make([]bool, len(names))
	var group errgroup.Group
	group.SetLimit(20)
	for i, one := range names {
		group.Go(func() error {
			found, err := resolver.Addresses(ctx, strings.TrimSuffix(one.Name, ".")+".", "80")
			known[i] = err == nil && len(found) > 0
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	return known
}

func boolean(is bool) int {
	if is {
		return 1
	}
	return 0
}

// Challenge is a way to prove the names, and why it can work here.
type Challenge struct {
	Type     string
	Webroot  string // folder; empty: maascert answers itself
	Provider string // of dns-01
	Why      string
}

// snippets are the programs for which maascert prints what has them answer http-01.
var snippets = []string{"haproxy", "nginx", "apache2"}

// Challenges are the ways to prove some names, the one that is proposed first. hasAPI tells whether MAAS's DNS can be asked for records.
func (f Facts) Challenges(names []string, hasAPI bool) []Challenge {
	var ways []Challenge
	isWild := slices.ContainsFunc(names, func(name string) bool { return strings.HasPrefix(name, "*.") })
	hasAddress := slices.ContainsFunc(names, certstore.IsAddress)
	http := Challenge{Type: "http-01", Why: "port 80 is free: it is bound while the CA looks"}
	alpn := Challenge{Type: "tls-alpn-01", Why: "port 443 is free: it is bound while the CA looks"}
	owner := f.Owners[httpPort]
	if owner != "" {
		http.Why = "port 80 belongs to " + owner + ": it has to lead /.well-known/acme-challenge/ to maascert, or to answer itself"
	}
	for _, program := range snippets {
		if strings.HasPrefix(owner, program+" ") {
			http.Why = fmt.Sprintf("port 80 belongs to %s, which answers by the lines that this prints: maascert account snippet %s", owner, strings.TrimSuffix(program, "2"))
		}
	}
	if !isWild {
		ways = append(ways, http)
		if f.Owners[tlsPort] == "" {
			ways = append(ways, alpn)
		}
		if owner != "" && len(ways) > 1 && !slices.ContainsFunc(snippets, func(program string) bool { return strings.HasPrefix(owner, program+" ") }) {
			slices.Reverse(ways)
		}
	}
	if hasAPI && !hasAddress && f.publishes() {
		ways = append(ways, Challenge{Type: "dns-01", Provider: "maas", Why: "MAAS's own DNS takes the records, where it has the names' zones"})
	}
	return ways
}

// publishes tells whether MAAS's DNS shows a new record by itself (MAAS fact 4.5).
func (f Facts) publishes() bool {
	return f.MAAS.Version.AtLeast(3, 7) || f.MAAS.Version.IsKnown() && !f.MAAS.Version.AtLeast(3, 3)
}

// WhyNot says why names cannot be proven by dns-01 in MAAS's own DNS; empty: they can.
func (f Facts) WhyNot(names []string, hasAPI bool) string {
	addresses := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !certstore.IsAddress(name) })
	switch {
	case len(addresses) > 0:
		return "dns-01 cannot prove addresses: " + strings.Join(addresses, ", ")
	case !hasAPI:
		return "records in MAAS's DNS need its API: --api-user"
	case !f.publishes():
		return fmt.Sprintf("MAAS %s does not publish new records by itself", f.MAAS.Version)
	}
	return ""
}
