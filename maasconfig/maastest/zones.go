package maastest

import (
	"context"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"time"

	"maascert/maasconfig"
)

// zoneChange is a change in MAAS's database that concerns its DNS.
type zoneChange struct {
	kind               changeKind
	fqdn, rrtype, data string
}

type changeKind int

const (
	domainChanged changeKind = iota
	recordAdded
	recordChanged
	recordRemoved
)

// changeZones tells the regions' name servers; the caller holds the mutex.
func (d *Database) changeZones(change zoneChange) {
	d.rest.count()
	d.rest.published(change)
}

// NameServer is what a region publishes MAAS's zones with. Each zone is a text as zone files have it, by the zone's name.
type NameServer interface {
	Publish(zones map[string]string) error
}

// pollsZones is how often a region looks whether there is something to publish, from 3.7 on (MAAS fact 4.5).
const pollsZones = time.Minute

// publisher publishes MAAS's zones on one region, as soon or as late as its version of MAAS does (MAAS fact 4.5).
type publisher struct {
	database *Database
	server   NameServer
	version  maasconfig.Version
	poll     time.Duration
	address  netip.Addr // of the region
	changes  chan zoneChange

	shown   map[string][]string // by zone: its records
	pending bool
	serial  int
}

// maxChanges is how many changes a region has not heard yet at the most; one that is lost is published with a later one.
const maxChanges = 1000

func (p *publisher) tell(change zoneChange) {
	select {
	case p.changes <- change:
	default:
	}
}

// run publishes until the context ends.
func (p *publisher) run(ctx context.Context) {
	p.publishAll()
	ticker := time.NewTicker(p.poll)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case change := <-p.changes:
			p.hear(change)
		case <-ticker.C: // which only 3.7 and later look at
			if p.pending {
				p.pending = false
				p.publishAll()
			}
		}
	}
}

// hear takes notice of a change.
func (p *publisher) hear(change zoneChange) {
	switch {
	case p.version.AtLeast(3, 7):
		p.pending = true // until the region looks again
	case !p.version.AtLeast(3, 3), change.kind == domainChanged:
		p.publishAll()
	case change.kind == recordRemoved:
		line := zoneLine(change.fqdn, change.rrtype, change.data)
		for zone, lines := range p.shown {
			p.shown[zone] = slices.DeleteFunc(lines, func(have string) bool { return have == line })
		}
		p.publish()
	}
	// From 3.3 to 3.6 a record that is added is published with the next whole reload, and one that is changed breaks the update.
}

func (p *publisher) publishAll() {
	p.shown = p.database.zones()
	p.publish()
}

func (p *publisher) publish() {
	p.serial++
	texts := map[string]string{}
	for zone, lines := range p.shown {
		texts[zone] = fmt.Sprintf("$TTL 30\n%[1]s. IN SOA %[1]s. nobody.example.com. %[2]d 600 1800 604800 1\n%[1]s. IN NS %[1]s.\n%[1]s. IN A %[3]s\n%[4]s\n",
			zone, p.serial, p.address, strings.Join(lines, "\n"))
	}
	// A region's name server that cannot be told goes on with what it has.
	_ = p.server.Publish(texts)
}

// zoneLine is a record as it stands in a zone file: its data verbatim.
func zoneLine(fqdn, rrtype, data string) string { return fqdn + ". IN " + rrtype + " " + data }

// zones are the records of all zones that MAAS is authoritative for.
func (d *Database) zones() map[string][]string {
	d.mu.Lock()
	defer d.mu.Unlock()
	zones, names := map[string][]string{}, map[int]string{}
	for _, one := range d.rest.domains {
		if one.Authoritative {
			zones[one.Name], names[one.ID] = []string{}, one.Name
		}
	}
	add := func(zone, line string) {
		if lines, ok := zones[zone]; ok {
			zones[zone] = append(lines, line)
		}
	}
	for _, c := range d.rest.controllers {
		for _, address := range c.Addresses {
			add(strings.TrimPrefix(c.Name(), c.Hostname+"."), zoneLine(c.Name(), "A", address.Addr().String()))
		}
	}
	for _, r := range d.rest.resources {
		for _, address := range r.Addresses {
			add(names[r.domain], zoneLine(r.FQDN, "A", fmt.Sprint(address["ip"])))
		}
	}
	for _, r := range d.rest.records {
		add(names[r.domain], zoneLine(r.FQDN, r.RRType, r.RRData))
	}
	return zones
}

// AddHost gives a name in one of MAAS's domains an address.
func (d *Database) AddHost(name, domain string, address netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	in := d.rest.domain(domain)
	d.rest.resources = append(d.rest.resources, &resource{FQDN: name + "." + domain, name: name, domain: in.ID, Addresses: []map[string]any{{"ip": address.String()}}})
	d.changeZones(zoneChange{kind: domainChanged})
}
