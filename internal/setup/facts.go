// Package setup proposes a configuration for a region host from what is found there, and writes it down in words that a person can read. It
// looks and proposes; who asks and decides is elsewhere.
package setup

import (
	"cmp"
	"context"
	"crypto/x509"
	"fmt"
	"net/netip"
	"os"
	"slices"
	"strings"

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
	URL      string // MAAS's own; empty: unknown
	Regions  []maasconfig.Region
	Virtual  []netip.Addr // that keepalived moves between hosts
	Host     string       // this host's name
	Owners   map[int]string
	Juju     string // unit; empty: none
	Managers []lineage.Manager
	HAProxy  []string // PEM files that HAProxy here serves certificates from
}

// The ports at which CAs look for answers (RFC 8555 section 8.3, RFC 8737).
const (
	httpPort = 80
	tlsPort  = 443
)

// Look finds the facts of a host that has a region.
func Look(ctx context.Context, host preflight.Host, here maasconfig.InstallationConfig) Facts {
	f := Facts{MAAS: host.MAAS, Virtual: host.VirtualAddresses(), Owners: map[int]string{}, Juju: maasconfig.JujuUnit(host.Files), Managers: lineage.Managers(host.Files), HAProxy: haproxyPEMs(host.Files)}
	f.TLSPort, f.TLSKnown = maasconfig.LocalTLSPort(ctx, here)
	target := maasconfig.New(maasconfig.Config{
		Detect: func(context.Context) (maasconfig.Installation, error) { return host.MAAS, nil }, FS: host.Files, Runner: host.Runner, Dial: host.Dial, UID: host.UID,
	})
	if bundle, err := target.Backup(ctx); err == nil && f.TLSPort != 0 { // files stay behind when TLS is switched off
		f.Served = bundle.Leaf()
	}
	// What cannot be found is not proposed.
	f.URL, _ = maasconfig.ReadMAASURL(ctx, here)
	f.Regions, _ = maasconfig.LiveRegions(ctx, host.Dial, "127.0.0.1")
	f.Host = hostName(host.Files)
	for _, port := range []int{httpPort, tlsPort} {
		for _, one := range host.Listening(port) {
			f.Owners[port] = cmp.Or(one.Program, fmt.Sprintf("a program of user %d", one.Owner))
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

// haproxyPEMs are the files that HAProxy's configuration here serves certificates from: what follows crt on its lines bind.
func haproxyPEMs(files world.FS) (found []string) {
	text, err := files.ReadFile("/etc/haproxy/haproxy.cfg")
	if err != nil {
		return nil
	}
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) == 0 || words[0] != "bind" {
			continue
		}
		for i, word := range words[:len(words)-1] {
			if word == "crt" && strings.HasPrefix(words[i+1], "/") && !slices.Contains(found, words[i+1]) {
				found = append(found, words[i+1])
			}
		}
	}
	return found
}

// Words are the facts for a person, a line each.
func (f Facts) Words() []string {
	lines := []string{strings.TrimSpace(fmt.Sprintf("MAAS %s, %s %s", f.MAAS.Version, f.MAAS.Kind, f.MAAS.Mode))}
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
	if len(f.Regions) > 0 {
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
	if len(f.HAProxy) > 0 {
		add("HAProxy serves certificates from %s", strings.Join(f.HAProxy, ", "))
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
	for _, region := range f.Regions {
		words := region.Name
		if len(region.Addresses) > 0 {
			words += " (" + region.Addresses[0].String() + ")"
		}
		names = append(names, words)
	}
	return names
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
	if f.Served != nil && f.Served.CheckSignatureFrom(f.Served) != nil { // one that nobody signed was made by somebody in a hurry
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
	isKnown := func(name string) bool {
		found, err := resolver.Addresses(ctx, name+".", "80")
		return err == nil && len(found) > 0
	}
	if strings.Contains(f.Host, ".") {
		add(f.Host, "this host", isKnown(f.Host))
	}
	for _, region := range f.Regions {
		if strings.Contains(region.Name, ".") {
			add(region.Name, "a region", isKnown(region.Name))
		}
	}
	isAlone := !slices.ContainsFunc(all, func(one Name) bool { return one.Tick })
	for i, region := range f.Regions {
		for _, address := range region.Addresses {
			add(address.String(), "address of region "+region.Name, isAlone && i == 0)
		}
	}
	slices.SortStableFunc(all, func(a, b Name) int { return boolean(b.Tick) - boolean(a.Tick) })
	return all
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
	if hasAPI && !hasAddress {
		ways = append(ways, Challenge{Type: "dns-01", Provider: "maas", Why: "MAAS's own DNS has the names, and the CA asks it"})
	}
	return ways
}
