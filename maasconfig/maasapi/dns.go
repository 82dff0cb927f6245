package maasapi

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"github.com/canonical/gomaasclient/entity"

	"maascert/internal/hint"
	"maascert/internal/printable"
)

// longestName is how many characters of a name, without its domain, MAAS takes (MAAS fact 4.5).
const longestName = 191

// place is a name as MAAS's API takes it. MAAS's own way to take a whole name apart knows no leading underscore (MAAS fact 4.5).
type place struct {
	fqdn, name string
	domain     entity.Domain
}

var errNoDomain = errors.New("no domain")

// find finds which name in which domain of MAAS's a whole name is.
func find(a api, fqdn string) (place, error) {
	fqdn = strings.ToLower(strings.TrimSuffix(fqdn, "."))
	domains, err := a.Domains.Get()
	if err != nil {
		return place{}, err
	}
	p := place{fqdn: fqdn}
	var names []string
	for _, one := range domains {
		names = append(names, one.Name)
		if strings.HasSuffix(fqdn, "."+strings.ToLower(one.Name)) && len(one.Name) > len(p.domain.Name) {
			p.domain = one
		}
	}
	if p.domain.Name == "" {
		return p, hint.Add(fmt.Errorf("MAAS has %w for %s; it has: %s", errNoDomain, fqdn, strings.Join(printable.Lines(names, 253, 20), ", ")),
			"make one (maas PROFILE domains create name=…), or prove this name in another way")
	}
	p.name = fqdn[:len(fqdn)-len(p.domain.Name)-1]
	return p, nil
}

// check tells why a record there would not be taken, or not be published.
func (p place) check() error {
	switch {
	case !p.domain.Authoritative:
		return hint.Add(fmt.Errorf("MAAS is not authoritative for the domain %s of %s: its name servers do not answer for it", p.domain.Name, p.fqdn),
			"maas PROFILE domain update %d authoritative=true, or prove this name in another way", p.domain.ID)
	case len(p.name) > longestName:
		return fmt.Errorf("%s has %d characters in the domain %s; MAAS takes %d", p.fqdn, len(p.name), p.domain.Name, longestName)
	default:
		return nil
	}
}

// CheckZone finds the domain of MAAS's that a name belongs to. The error says that there is none, or none whose records MAAS publishes.
func (c *Client) CheckZone(ctx context.Context, fqdn string) (domain string, err error) {
	err = c.call(ctx, maxAnswer, func(a api) error {
		at, err := find(a, fqdn)
		domain = at.domain.Name
		return cmp.Or(err, at.check())
	})
	return domain, c.named(err)
}

// txtRecord is a record as MAAS shows it. Canonical's client does not tell a TTL of nothing from none.
type txtRecord struct {
	ID   int    `json:"id"`
	Data string `json:"rrdata"`
	TTL  *int   `json:"ttl"`
}

// list are the TXT records at a place.
func list(a api, at place) ([]txtRecord, error) {
	var records []txtRecord
	text, err := a.get("dnsresourcerecords/", url.Values{"rrtype": {"TXT"}, "name": {at.name}, "domain": {at.domain.Name}})
	if err == nil {
		err = json.Unmarshal(text, &records)
	}
	return records, err
}

// PutTXT puts a TXT record beside others of its name, unless it is there. It has a TTL only where the others have one: MAAS takes
// either for all of a name, or for none (MAAS fact 4.5).
func (c *Client) PutTXT(ctx context.Context, fqdn, value string) error {
	return c.named(c.call(ctx, maxAnswer, func(a api) error {
		at, err := find(a, fqdn)
		if err = cmp.Or(err, at.check()); err != nil {
			return err
		}
		records, err := list(a, at)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(records, func(one txtRecord) bool { return one.Data == value }) {
			return nil
		}
		form := url.Values{"name": {at.name}, "domain": {at.domain.Name}, "rrtype": {"TXT"}, "rrdata": {value}}
		for _, one := range records {
			if one.TTL != nil {
				form.Set("ttl", strconv.Itoa(*one.TTL))
			}
		}
		_, err = a.raw.Post(&url.URL{Path: "dnsresourcerecords/"}, "", form, nil)
		return err
	}))
}

// RemoveTXT takes a TXT record away by MAAS's number of it, as often as it is there. None, and a domain that is gone, is no error.
func (c *Client) RemoveTXT(ctx context.Context, fqdn, value string) error {
	return c.named(c.call(ctx, maxAnswer, func(a api) error {
		at, err := find(a, fqdn)
		if errors.Is(err, errNoDomain) || len(at.name) > longestName {
			return nil
		}
		if err != nil {
			return err
		}
		records, err := list(a, at)
		if err != nil {
			return ignoreNotFound(err)
		}
		records = slices.DeleteFunc(records, func(one txtRecord) bool { return one.Data != value })
		for _, one := range records[:min(len(records), mostCopies)] {
			if err := ignoreNotFound(a.DNSResourceRecord.Delete(one.ID)); err != nil {
				return err
			}
		}
		if len(records) > mostCopies {
			return fmt.Errorf("it lists %d copies of one record", len(records))
		}
		return nil
	}))
}

// mostCopies is how many copies of one record are taken away at a time.
const mostCopies = 10
