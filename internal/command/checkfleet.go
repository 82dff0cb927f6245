package command

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sync/errgroup"

	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/report"
)

// checkFleet says of a certificate that hosts share what keeps one of them from standing in for another when a CA looks for answers.
func checkFleet(ctx context.Context, p *assembly, l look) []report.Item {
	configured := p.config.Certificate(l.cert.Name)
	issuer, isKnown := p.config.Issuers[configured.Issuer]
	if !isKnown || !p.config.Store.IsShared() {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	folders := map[string]bool{}
	for _, name := range l.names() {
		if way := issuer.ChallengeFor(name); way.Webroot != "" {
			folders[way.Webroot] = true
		}
	}
	var items []report.Item
	for _, folder := range slices.Sorted(maps.Keys(folders)) {
		items = append(items, report.Warning("fleet", "the store is shared and the webroot is this host's: a CA that comes to another host finds no answer", folder,
			"set the challenge's listen instead, or have each host's proxy answer: maascert account snippet; or let all hosts share this folder"))
	}
	regions := regionsOf(l)
	if len(regions) < 2 {
		return items
	}
	alone := map[string][]string{}
	var mu sync.Mutex
	var group errgroup.Group
	group.SetLimit(10)
	view := challenge.NewView(p.config.Resolvers, nil)
	// A name that came from MAAS is given up by itself when its region is gone.
	for _, name := range configured.Names {
		if issuer.ChallengeFor(name).Type == "dns-01" {
			continue
		}
		group.Go(func() error {
			if address := onlyAddress(ctx, view, name); slices.Contains(regions, address) {
				mu.Lock()
				defer mu.Unlock()
				alone[address] = append(alone[address], name)
			}
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	for _, address := range slices.Sorted(maps.Keys(alone)) {
		names := slices.Sorted(slices.Values(alone[address]))
		items = append(items, report.Warning("fleet", fmt.Sprintf("the region %s alone can prove %s: while it is down, no certificate with that can be ordered", address, strings.Join(names, ", ")),
			strings.Join(names, ", "), "have it lead to the virtual address, prove it by dns-01, or take it from names_from_maas, which gives it up by itself"))
	}
	return items
}

// regionsOf are the hosts of a certificate's endpoints that belong to the whole deployment.
func regionsOf(l look) []string {
	var hosts []string
	if l.err != nil {
		return nil
	}
	for i, target := range l.cert.Targets {
		if !target.Info().Shared {
			continue
		}
		for _, e := range l.view.State.Targets[i].Endpoints {
			if host, _, err := net.SplitHostPort(e.Address); err == nil {
				hosts = append(hosts, host)
			}
		}
	}
	slices.Sort(hosts)
	return slices.Compact(hosts)
}

// onlyAddress is the address that a name leads to, where it is one alone.
func onlyAddress(ctx context.Context, view *challenge.View, name string) string {
	if certstore.IsAddress(name) {
		return name
	}
	// That DNS does not say where a name leads is said where the name is looked at.
	addresses, _ := view.Addresses(ctx, name+".", "80")
	if len(addresses) != 1 {
		return ""
	}
	host, _, _ := net.SplitHostPort(addresses[0])
	return host
}
