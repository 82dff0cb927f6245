package preflight

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"net/url"
	"regexp"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"maascert/certstore"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/maasconfig"
)

// Resolver asks DNS, and DNS alone.
type Resolver interface {
	// Addresses are a name's, with a port. The error says that it is not known whether there are others.
	Addresses(ctx context.Context, name, port string) ([]string, error)
	// Zone is the one that a name is in.
	Zone(ctx context.Context, name string) (string, error)
}

// Wanted are the names that a certificate is to have, and where MAAS is to be found.
type Wanted struct {
	Names   []string // canonical
	MAASURL string   // MAAS's own; empty: unknown
	Regions []maasconfig.Region
	TLS     bool // MAAS serves TLS, or is about to
}

// sight is what DNS says of a name.
type sight struct {
	addresses []string // without ports
	err       error
	isApex    bool // of a zone
	zoneErr   error
}

// atOnce is how many names are looked up side by side.
const atOnce = 10

// CheckNames tells whether the names of a certificate lead to what they are to lead to, and whether all are among them by which people come.
func (h Host) CheckNames(ctx context.Context, wanted Wanted, resolver Resolver) []report.Item {
	seen := map[string]sight{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(atOnce)
	for _, name := range wanted.Names {
		if certstore.IsAddress(name) || strings.HasPrefix(name, "*.") {
			continue
		}
		group.Go(func() error {
			one := look(ctx, resolver, name)
			mu.Lock()
			defer mu.Unlock()
			seen[name] = one
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	return slices.Concat(h.checkResolved(wanted, seen), h.checkApex(wanted, seen), h.checkCovered(wanted, seen))
}

func look(ctx context.Context, resolver Resolver, name string) (s sight) {
	found, err := resolver.Addresses(ctx, name+".", "0")
	for _, address := range found {
		host, _, _ := net.SplitHostPort(address)
		s.addresses = append(s.addresses, host)
	}
	zone, zoneErr := resolver.Zone(ctx, name+".")
	s.err, s.zoneErr, s.isApex = err, zoneErr, zoneErr == nil && zone == name+"."
	return s
}

// checkResolved compares DNS with this host's own file.
func (h Host) checkResolved(wanted Wanted, seen map[string]sight) []report.Item {
	own := h.hostsFile()
	var items []report.Item
	var well []string
	for _, name := range wanted.Names {
		one, isName := seen[name]
		if !isName {
			continue
		}
		at := strings.Join(one.addresses, ", ")
		here := own[name]
		switch isElsewhere := slices.ContainsFunc(here, func(address string) bool { return !slices.Contains(one.addresses, address) }); {
		case one.err != nil && len(one.addresses) == 0:
			items = append(items, report.Warning("resolves", fmt.Sprintf("DNS does not say where %s is: %s", name, printable.Error(one.err)), name, "mend the name servers that this host asks (resolvers:, or /etc/resolv.conf)"))
		case len(one.addresses) == 0:
			items = append(items, report.Warning("resolves", fmt.Sprintf("%s has no address in DNS: nobody finds MAAS by it", name), name, fmt.Sprintf("give %s an address in DNS, or take it out of this certificate's names", name)))
		case isElsewhere:
			items = append(items, report.Warning("resolves", fmt.Sprintf("/etc/hosts leads %s elsewhere than DNS: what is tried from this host is not what others see", name),
				fmt.Sprintf("%s: /etc/hosts: %s; DNS: %s", name, strings.Join(here, ", "), at), "take "+name+" out of /etc/hosts"))
		default:
			well = append(well, name+": "+at)
		}
	}
	if len(items) == 0 && len(well) > 0 {
		items = append(items, report.Asked("resolves", "DNS has an address for every name", strings.Join(well, "; "), nil))
	}
	return items
}

// hostsFile are the addresses that /etc/hosts gives names, but for those that lead back to this host itself, as installers write them.
func (h Host) hostsFile() map[string][]string {
	found := map[string][]string{}
	for line := range strings.Lines(string(h.read("/etc/hosts"))) {
		line, _, _ = strings.Cut(line, "#")
		words := strings.Fields(line)
		if len(words) < 2 {
			continue
		}
		address, err := netip.ParseAddr(words[0])
		if err != nil || address.IsLoopback() {
			continue
		}
		for _, name := range words[1:] {
			name = strings.ToLower(strings.TrimSuffix(name, "."))
			found[name] = append(found[name], address.Unmap().String())
		}
	}
	return found
}

// checkApex finds names below which there may be others: MAAS's HSTS is about all of them (MAAS fact 2.6).
func (h Host) checkApex(wanted Wanted, seen map[string]sight) []report.Item {
	var items []report.Item
	for _, name := range wanted.Names {
		if err := seen[name].zoneErr; wanted.TLS && err != nil && len(items) == 0 {
			items = append(items, report.Warning("hsts", fmt.Sprintf("whether %s is a zone of its own, about all of which MAAS's HSTS would be, DNS does not say: %s", name, printable.Error(err)), name,
				"mend the name servers that this host asks (resolvers:, or /etc/resolv.conf)"))
		}
		if !wanted.TLS || !seen[name].isApex {
			continue
		}
		items = append(items, report.Warning("hsts", fmt.Sprintf("%s is a zone of its own, and MAAS has browsers ask every host below it by HTTPS alone, for %s", name, hstsTime(h.MAAS.Version)), name,
			fmt.Sprintf("give MAAS a name below it, maas.%[1]s say, and that to this certificate instead of %[1]s", name)))
	}
	if len(items) == 0 && wanted.TLS {
		items = append(items, report.Asked("hsts", "no name of the certificate is a zone of its own, about all of which MAAS's HSTS would be", strings.Join(wanted.Names, ", "), nil))
	}
	return items
}

// hstsTime is for how long browsers remember (MAAS fact 2.6).
func hstsTime(version maasconfig.Version) string {
	switch {
	case !version.IsKnown() || version.AtLeast(3, 7):
		return "two years"
	case version.AtLeast(3, 4):
		return "180 days"
	default:
		return "a day"
	}
}

// checkCovered tells whether those are among the names by which people and programs come: MAAS's own URL, each region, the address that moves
// between them.
func (h Host) checkCovered(wanted Wanted, seen map[string]sight) []report.Item {
	var items []report.Item
	var well []string
	judge := func(what, name, adds string, isCovered bool) {
		if isCovered {
			well = append(well, what)
			return
		}
		items = append(items, report.Warning("coverage", fmt.Sprintf("%s is none of the certificate's names: whoever comes by it is shown one for others", what), name, fmt.Sprintf("add %s to this certificate's names", adds)))
	}
	if address, err := url.Parse(wanted.MAASURL); err == nil {
		if name, err := certstore.CanonicalName(address.Hostname()); err == nil && !maasconfig.IsOfThisHost(name) {
			judge("MAAS's own URL, "+name+",", name, name, maasconfig.Covers(wanted.Names, name))
		}
	}
	leads := func(address netip.Addr) bool {
		for _, one := range seen {
			if slices.Contains(one.addresses, address.String()) {
				return true
			}
		}
		return slices.Contains(wanted.Names, address.String())
	}
	// Where people come by an address that leads to all, nobody asks one region by its name.
	isReached := len(well) > 0 || slices.ContainsFunc(h.VirtualAddresses(), leads)
	for _, region := range wanted.Regions {
		if isReached {
			break
		}
		name := printable.Phrase(region.Name)
		adds := name
		if len(region.Addresses) > 0 {
			adds = "the name under which it is reached, or " + region.Addresses[0].String() + ","
		}
		judge("region "+name, name, adds, maasconfig.Covers(wanted.Names, region.Name) || slices.ContainsFunc(region.Addresses, leads))
	}
	for _, address := range h.VirtualAddresses() {
		judge("the virtual address "+address.String(), address.String(), address.String(), leads(address))
	}
	if len(items) == 0 && len(well) > 0 {
		items = append(items, report.Asked("coverage", "the certificate is for every way that leads to MAAS, as far as is known here", strings.Join(well, "; "), nil))
	}
	return items
}

// keepalivedComment is one of keepalived's.
var keepalivedComment = regexp.MustCompile(`(?m)[#!].*$`)

// mostAddresses bounds how many virtual addresses are believed.
const mostAddresses = 20

// VirtualAddresses are those that keepalived moves between hosts, as its configuration here says.
func (h Host) VirtualAddresses() (found []netip.Addr) {
	const folder = "/etc/keepalived"
	files := []string{folder + "/keepalived.conf"}
	for _, entry := range h.entries(folder + "/conf.d") {
		files = append(files, folder+"/conf.d/"+entry.Name())
	}
	for _, file := range files {
		isWithin := false
		text := keepalivedComment.ReplaceAllString(string(h.read(file)), "")
		for line := range strings.Lines(strings.NewReplacer("{", "\n", "}", "\n}\n").Replace(text)) {
			word := (append(strings.Fields(line), ""))[0] // what follows an address is about it
			bare, _, _ := strings.Cut(word, "/")
			address, err := netip.ParseAddr(bare)
			switch {
			case word == "virtual_ipaddress" || word == "virtual_ipaddress_excluded":
				isWithin = true
			case word == "}":
				isWithin = false
			case isWithin && err == nil && len(found) < mostAddresses && !slices.Contains(found, address):
				found = append(found, address)
			}
		}
	}
	return found
}
