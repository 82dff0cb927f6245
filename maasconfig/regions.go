package maasconfig

import (
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

// RegionHosts picks, of each region controller that MAAS knows, the address at which it is asked.
type RegionHosts struct {
	Lister   RegionLister
	Networks []netip.Prefix // of which the address is to be, where a region has one there
	MAASURL  func(ctx context.Context) (string, error)
	Resolve  func(ctx context.Context, host string) ([]netip.Addr, error)
	Dial     world.Dial

	Now func() time.Time // nil: time.Now

	mu     sync.Mutex
	asked  time.Time
	listed []Region
	failed error
}

// RegionHost is where a region is asked.
type RegionHost struct {
	Region  string // MAAS's number of it; empty: nobody knows
	Address string
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
	clock := h.Now
	if clock == nil {
		clock = time.Now
	}
	if now := clock().Round(0); h.asked.IsZero() || now.Sub(h.asked) > regionsAge || now.Before(h.asked) {
		bounded, cancel := context.WithTimeoutCause(ctx, regionsTime, fmt.Errorf("MAAS's API does not answer within %v", regionsTime))
		defer cancel()
		h.listed, h.failed = h.Lister.Regions(bounded)
		if ctx.Err() != nil { // whoever asks next is not to be answered with that
			return nil, context.Cause(ctx)
		}
		h.asked = clock().Round(0)
	}
	return h.listed, h.failed
}

// Find finds where each region is asked: where it was before (known, by MAAS's number of the region) as long as MAAS says that it still is
// there; else its first address within the networks, else that in the subnet of MAAS's own URL, else the first that takes a connection. The
// error says which regions are not in the list although there may be such.
func (h *RegionHosts) Find(ctx context.Context, known map[string]string) ([]RegionHost, error) {
	regions, err := h.Regions(ctx)
	if err != nil {
		return remembered(known), hint.Add(fmt.Errorf("which regions there are cannot be told, so only those are asked that were known: %w", err), "%s", hint.Of(err))
	}
	subnets := h.subnetsOfURL(ctx, regions)
	hosts := sideBySide(regions, func(region Region) RegionHost {
		return RegionHost{region.ID, h.pick(ctx, region, known[region.ID], subnets)}
	})
	var unknown []string
	for i, host := range hosts {
		if host.Address == "" {
			unknown = append(unknown, regions[i].Name)
		}
	}
	hosts = slices.DeleteFunc(hosts, func(host RegionHost) bool { return host.Address == "" })
	if len(unknown) > 0 {
		err = hint.Add(fmt.Errorf("MAAS does not know an address of %s yet, so it is not asked", strings.Join(printable.Lines(unknown, 253, 10), ", ")),
			"it knows it when the region has commissioned itself; or list every region in the target's endpoints")
	}
	return hosts, err
}

func remembered(known map[string]string) []RegionHost {
	var hosts []RegionHost
	for _, id := range slices.Sorted(maps.Keys(known)) {
		hosts = append(hosts, RegionHost{id, known[id]})
	}
	return hosts
}

// connectTime bounds the wait for a region to take a connection.
const connectTime = 2 * time.Second

// pick picks one of a region's addresses; where MAAS does not know any, the one that was known.
func (h *RegionHosts) pick(ctx context.Context, region Region, before string, subnets []netip.Prefix) string {
	addresses := slices.DeleteFunc(slices.Clone(region.Addresses), netip.Addr.IsLinkLocalUnicast)
	if len(addresses) == 0 {
		return before
	}
	within := addressesIn(addresses, h.Networks)
	if len(within) == 0 {
		within = addressesIn(addresses, subnets)
	}
	candidates := within
	if len(candidates) == 0 {
		candidates = addresses
	}
	if slices.ContainsFunc(candidates, func(address netip.Addr) bool { return address.String() == before }) {
		return before
	}
	if len(within) > 0 {
		return within[0].String()
	}
	taken := sideBySide(candidates, func(address netip.Addr) bool {
		ctx, cancel := context.WithTimeout(ctx, connectTime)
		defer cancel()
		conn, err := h.Dial(ctx, "tcp", net.JoinHostPort(address.String(), strconv.Itoa(httpPort)))
		if err != nil {
			return false
		}
		// Somebody accepted, which is all that matters.
		_ = conn.Close()
		return true
	})
	return candidates[max(0, slices.Index(taken, true))].String()
}

func addressesIn(addresses []netip.Addr, networks []netip.Prefix) []netip.Addr {
	return slices.DeleteFunc(slices.Clone(addresses), func(address netip.Addr) bool { return !contains(networks, address) })
}

// subnetsOfURL are the subnets of regions that hold the address of MAAS's own URL; none where that cannot be told.
func (h *RegionHosts) subnetsOfURL(ctx context.Context, regions []Region) []netip.Prefix {
	text, err := h.MAASURL(ctx)
	if err != nil {
		return nil
	}
	address, err := url.Parse(text)
	if err != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, connectTime)
	defer cancel()
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

// Nameservers are those of all regions, as host:port: each answers for MAAS's zones.
func (h *RegionHosts) Nameservers(ctx context.Context) ([]string, error) {
	hosts, err := h.Find(ctx, nil)
	if len(hosts) == 0 {
		return nil, errors.Join(errors.New("no region is known"), err)
	}
	servers := make([]string, len(hosts))
	for i, host := range hosts {
		servers[i] = net.JoinHostPort(host.Address, "53")
	}
	return servers, nil
}

// Discover finds out which regions there are, where no endpoints are configured. known are those that were asked before.
func (m *MAAS) Discover(ctx context.Context, known map[string]string) {
	if m.config.Regions == nil {
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
	if len(hosts) == 0 {
		hosts = thisHost
		err = hint.Add(fmt.Errorf("only this host is asked: %w", err), "%s", hint.Of(err))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	m.regions, m.unsure = hosts, err
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
