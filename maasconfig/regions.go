package maasconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Region is a region controller as MAAS knows it (MAAS fact 4.2).
type Region struct {
	ID        string         // MAAS's own, for ever
	Name      string         // in MAAS's own DNS, which need not be the host's name
	Addresses []netip.Addr   // none: MAAS does not know them yet
	Subnets   []netip.Prefix // that it is in, as far as MAAS knows
}

// RegionsConfig is all that RegionHosts depends on.
type RegionsConfig struct {
	Lister   RegionLister
	Networks []netip.Prefix // of which the address is to be, where a region has one there
	MAASURL  func(ctx context.Context) (string, error)
	Resolve  func(ctx context.Context, host string) ([]netip.Addr, error)
	IsHere   func(address string) bool // whether one is this host's
	Dial     world.Dial
	Now      func() time.Time
}

// RegionHosts picks, of each region controller that MAAS knows, the address at which it is asked.
type RegionHosts struct {
	RegionsConfig
	turns chan struct{} // each connection that is tried takes one

	mu     sync.Mutex
	asked  time.Time
	listed []Region
	failed error
}

// NewRegionHosts makes it ready. It asks nothing yet.
func NewRegionHosts(config RegionsConfig) *RegionHosts {
	return &RegionHosts{RegionsConfig: config, turns: make(chan struct{}, mostAtOnce)}
}

// RegionHost is where a region is asked.
type RegionHost struct {
	Region   string // MAAS's number of it; empty: nobody knows
	Address  string
	Unlisted bool // MAAS does not list it any more
}

const (
	// regionsAge is for how long an answer about the regions is relied on: about as long as it takes several who want it to ask.
	regionsAge = 10 * time.Second
	// regionsTime bounds the wait for one: the regions themselves are asked after it, and a pass waits for them.
	regionsTime = 5 * time.Second
)

// Regions are MAAS's. Whoever asks within a moment shares one answer.
func (h *RegionHosts) Regions(ctx context.Context) ([]Region, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if now := h.Now().Round(0); h.asked.IsZero() || now.Sub(h.asked) > regionsAge || now.Before(h.asked) {
		bounded, cancel := context.WithTimeoutCause(ctx, regionsTime, fmt.Errorf("MAAS's API does not answer within %v", regionsTime))
		defer cancel()
		h.listed, h.failed = h.Lister.Regions(bounded)
		if ctx.Err() != nil { // whoever asks next is not to be answered with that
			return nil, context.Cause(ctx)
		}
		h.asked = h.Now().Round(0)
	}
	return h.listed, h.failed
}

// Find finds where each region is asked: at its first address within the networks, else that in the subnet of MAAS's own URL, else the
// first that takes a connection; where several will do, at the one that was asked before (known, by MAAS's number of the region). A region
// that was known and is not listed any more is asked on: who forgets it is the caller's decision. The error says which regions are not
// asked although there may be such.
func (h *RegionHosts) Find(ctx context.Context, known map[string]string) ([]RegionHost, error) {
	regions, err := h.Regions(ctx)
	if err != nil {
		return remembered(known), hint.Add(fmt.Errorf("which regions there are cannot be told, so only those are asked that were known: %w", err), "%s", hint.Of(err))
	}
	subnets, shared := h.subnetsOfURL(ctx, regions), sharedAddresses(regions)
	hosts := sideBySide(regions, func(region Region) RegionHost {
		return RegionHost{Region: region.ID, Address: h.pick(ctx, region, known[region.ID], subnets, shared)}
	})
	var unknown []string
	unlisted := maps.Clone(known)
	for i, host := range hosts {
		if host.Address == "" {
			unknown = append(unknown, regions[i].Name)
		}
		delete(unlisted, host.Region)
	}
	hosts = slices.DeleteFunc(hosts, func(host RegionHost) bool { return host.Address == "" })
	for _, host := range remembered(unlisted) {
		if !slices.ContainsFunc(hosts, func(listed RegionHost) bool { return listed.Address == host.Address }) { // it was installed anew
			host.Unlisted = true
			hosts = append(hosts, host)
		}
	}
	if len(unknown) > 0 {
		err = hint.Add(fmt.Errorf("MAAS knows no address of %s yet, or none that is its alone, so it is not asked", strings.Join(printable.Lines(unknown, 253, 10), ", ")),
			"it knows it when the region has commissioned itself; else set maas.networks, or list every region in the target's endpoints")
	}
	return hosts, err
}

// Forget has the next question be asked of MAAS: since it was given another certificate, its API may be trusted where it was not before.
func (h *RegionHosts) Forget() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.asked = time.Time{}
}

func remembered(known map[string]string) []RegionHost {
	var hosts []RegionHost
	for _, id := range slices.Sorted(maps.Keys(known)) {
		if address, err := netip.ParseAddr(known[id]); err == nil && address.Zone() == "" {
			hosts = append(hosts, RegionHost{Region: id, Address: known[id]})
		}
	}
	return hosts
}

// connectTime bounds the wait for a region to take a connection.
const connectTime = 2 * time.Second

// mostDialled is how many of a region's addresses are tried, and mostAtOnce how many of all regions' at the same time.
const (
	mostDialled = 8
	mostAtOnce  = 64
)

// pick picks one of a region's addresses; where MAAS does not know any, the one that was known. An address that other regions have as
// well, such as that of a bridge for containers, leads to whoever asks.
func (h *RegionHosts) pick(ctx context.Context, region Region, before string, subnets []netip.Prefix, shared map[netip.Addr]bool) string {
	usable := slices.DeleteFunc(slices.Clone(region.Addresses), func(address netip.Addr) bool {
		return address.IsLinkLocalUnicast() || (shared[address] || address.IsLoopback()) && !contains(h.Networks, address)
	})
	if len(usable) == 0 {
		return before
	}
	within := addressesIn(usable, h.Networks)
	if len(within) == 0 {
		within = addressesIn(usable, subnets)
	}
	isBefore := func(address netip.Addr) bool { return address.String() == before }
	if len(within) > 0 {
		return within[max(0, slices.IndexFunc(within, isBefore))].String()
	}
	if at := slices.IndexFunc(usable, isBefore); at > 0 {
		usable[0], usable[at] = usable[at], usable[0]
	}
	usable = usable[:min(len(usable), mostDialled)]
	taken := sideBySide(usable, func(address netip.Addr) bool { return h.connects(ctx, address) })
	return usable[max(0, slices.Index(taken, true))].String()
}

// connects tells whether somebody takes a connection where a region would.
func (h *RegionHosts) connects(ctx context.Context, address netip.Addr) bool {
	select {
	case h.turns <- struct{}{}:
		defer func() { <-h.turns }()
	case <-ctx.Done():
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	conn, err := h.Dial(ctx, "tcp", net.JoinHostPort(address.String(), strconv.Itoa(httpPort)))
	if err != nil {
		return false
	}
	// Somebody accepted, which is all that matters.
	_ = conn.Close()
	return true
}

// sharedAddresses are those that several regions have.
func sharedAddresses(regions []Region) map[netip.Addr]bool {
	seen, shared := map[netip.Addr]bool{}, map[netip.Addr]bool{}
	for _, region := range regions {
		for _, address := range region.Addresses {
			shared[address] = shared[address] || seen[address]
		}
		for _, address := range region.Addresses {
			seen[address] = true
		}
	}
	return shared
}

func addressesIn(addresses []netip.Addr, networks []netip.Prefix) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addresses), func(address netip.Addr) bool { return !contains(networks, address) })
}

// subnetsOfURL are the subnets of regions that hold the address of MAAS's own URL; none where that cannot be told.
func (h *RegionHosts) subnetsOfURL(ctx context.Context, regions []Region) []netip.Prefix {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	text, err := h.MAASURL(ctx)
	if err != nil {
		return nil
	}
	address, err := url.Parse(text)
	if err != nil {
		return nil
	}
	at, err := h.Resolve(ctx, address.Hostname())
	if err != nil {
		return nil
	}
	var found []netip.Prefix
	for _, region := range regions {
		for _, subnet := range region.Subnets {
			if slices.ContainsFunc(at, func(address netip.Addr) bool { return subnet.Contains(address.Unmap()) }) {
				found = append(found, subnet)
			}
		}
	}
	return found
}

// Nameservers are those of all regions, as host:port: each answers for MAAS's zones. all is whether there are no others, as far as MAAS
// knows.
func (h *RegionHosts) Nameservers(ctx context.Context) (servers []string, all bool, err error) {
	hosts, err := h.Find(ctx, nil)
	if len(hosts) == 0 {
		return nil, false, errors.Join(errors.New("no region is known"), err)
	}
	for _, host := range hosts {
		servers = append(servers, net.JoinHostPort(host.Address, "53"))
	}
	slices.Sort(servers)
	return slices.Compact(servers), err == nil, nil
}

// Discover finds out which regions there are, where no endpoints are configured. known are those that were asked before.
func (m *MAAS) Discover(ctx context.Context, known map[string]string) {
	if m.config.Regions == nil {
		return
	}
	if len(m.config.Endpoints) > 0 {
		m.compareEndpoints(ctx)
		return
	}
	if len(known) == 0 { // the store may be out of reach: this process may remember
		known = map[string]string{}
		for _, host := range m.endpoints() {
			if host.Region != "" {
				known[host.Region] = host.Address
			}
		}
	}
	hosts, err := m.config.Regions.Find(ctx, known)
	_, listErr := m.config.Regions.Regions(ctx) // which was asked just now
	isHere := slices.ContainsFunc(hosts, func(host RegionHost) bool { return m.config.Regions.IsHere(host.Address) })
	if _, notHere := m.installation(ctx); len(hosts) > 0 && !isHere && notHere == nil {
		hosts = append(slices.Clone(hosts), thisHost...)
		err = cmp.Or(err, hint.Add(errors.New("this host's own region is not among those that MAAS lists; it is asked all the same"), "is maas.api.url the MAAS that this host belongs to?"))
	}
	if len(hosts) == 0 {
		hosts = thisHost
		err = hint.Add(fmt.Errorf("only this host is asked: %w", err), "%s", hint.Of(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.regions, m.unsure, m.noList = hosts, err, listErr != nil
}

// compareEndpoints finds regions that MAAS has and that nobody configured.
func (m *MAAS) compareEndpoints(ctx context.Context) {
	unlisted := m.config.Regions.Unlisted(ctx, m.config.Endpoints)
	m.mu.Lock()
	defer m.mu.Unlock()
	m.unlisted = nil
	if len(unlisted) > 0 {
		m.unlisted = hint.Add(fmt.Errorf("no endpoint is an address of %s, which MAAS lists: nobody sees what is served there", strings.Join(unlisted, ", ")),
			"add it to targets.%s.endpoints, or leave endpoints out, and all regions are found", m.config.Name)
	}
}

// Unlisted are the names of regions of which no address is among some endpoints (host or host:port). Where MAAS cannot be asked, or a
// region has no address yet, or an endpoint's name cannot be resolved, there are none as far as is known.
func (h *RegionHosts) Unlisted(ctx context.Context, endpoints []string) []string {
	regions, err := h.Regions(ctx)
	if err != nil {
		return nil
	}
	asked, err := h.addressesOf(ctx, endpoints)
	if err != nil {
		return nil
	}
	var unlisted []string
	isHereAsked := slices.ContainsFunc(asked, netip.Addr.IsLoopback)
	for _, region := range regions {
		isAsked := len(region.Addresses) == 0 || slices.ContainsFunc(region.Addresses, func(address netip.Addr) bool {
			return slices.Contains(asked, address) || isHereAsked && !address.IsLoopback() && h.IsHere(address.String())
		})
		if !isAsked {
			unlisted = append(unlisted, region.Name)
		}
	}
	return printable.Lines(unlisted, 253, 10)
}

// addressesOf are the addresses of endpoints.
func (h *RegionHosts) addressesOf(ctx context.Context, endpoints []string) ([]netip.Addr, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
	var all []netip.Addr
	for _, endpoint := range endpoints {
		host, _ := splitEndpoint(endpoint)
		if address, err := netip.ParseAddr(host); err == nil {
			all = append(all, address.Unmap())
			continue
		}
		found, err := h.Resolve(ctx, host)
		if err != nil {
			return nil, err
		}
		for _, address := range found {
			all = append(all, address.Unmap())
		}
	}
	return all, nil
}

// thisHost is asked where nobody knows of another region.
var thisHost = []RegionHost{{Address: "127.0.0.1"}}

// endpoints are all regions: as they are configured, or as they were found last.
func (m *MAAS) endpoints() []RegionHost {
	if len(m.config.Endpoints) > 0 {
		hosts := make([]RegionHost, len(m.config.Endpoints))
		for i, endpoint := range m.config.Endpoints {
			hosts[i] = RegionHost{Address: endpoint}
		}
		return hosts
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if len(m.regions) == 0 {
		return thisHost
	}
	return m.regions
}
