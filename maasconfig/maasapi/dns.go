package maasapi

import (
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

// CheckZone finds the domain of MAAS's that a name belongs to. The error says that there is none, or none whose records MAAS publishes.
func (c *Client) CheckZone(ctx context.Context, fqdn string) (domain string, err error) {
	err = c.call(ctx, maxAnswer, func(a api) error {
		_, domain, err = split(a, fqdn)
		return err
	})
	return domain, c.named(err)
}

var errNoDomain = errors.New("no domain")

// split finds which name in which domain of MAAS's a whole name is: MAAS's own way to do that knows no leading underscore (MAAS fact 4.5).
func split(a api, fqdn string) (name, domain string, err error) {
	fqdn = strings.ToLower(strings.TrimSuffix(fqdn, "."))
	domains, err := a.Domains.Get()
	if err != nil {
		return "", "", err
	}
	var best *entity.Domain
	var names []string
	for i, one := range domains {
		names = append(names, one.Name)
		if strings.HasSuffix(fqdn, "."+strings.ToLower(one.Name)) && (best == nil || len(one.Name) > len(best.Name)) {
			best = &domains[i]
		}
	}
	if best == nil {
		return "", "", hint.Add(fmt.Errorf("MAAS has %w for %s; it has: %s", errNoDomain, fqdn, strings.Join(printable.Lines(names, 253, 20), ", ")),
			"make one (maas PROFILE domains create name=…), or prove this name in another way")
	}
	if !best.Authoritative {
		return "", "", hint.Add(fmt.Errorf("MAAS is not authoritative for the domain %s of %s: its name servers do not answer for it", best.Name, fqdn),
			"maas PROFILE domain update %d authoritative=true, or prove this name in another way", best.ID)
	}
	name = fqdn[:len(fqdn)-len(best.Name)-1]
	if len(name) > longestName {
		return "", "", fmt.Errorf("%s has %d characters in the domain %s; MAAS takes %d", fqdn, len(name), best.Name, longestName)
	}
	return name, best.Name, nil
}

// txtRecord is a record as MAAS shows it. Canonical's client does not tell a TTL of nothing from none.
type txtRecord struct {
	ID   int    `json:"id"`
	Data string `json:"rrdata"`
	TTL  *int   `json:"ttl"`
}

func list(a api, name, domain string) ([]txtRecord, error) {
	var records []txtRecord
	text, err := a.get("dnsresourcerecords/", url.Values{"rrtype": {"TXT"}, "name": {name}, "domain": {domain}})
	if err == nil {
		err = json.Unmarshal(text, &records)
	}
	return records, err
}

// PutTXT puts a TXT record beside others of its name, unless it is there. It has a TTL only where the others have one: MAAS takes
// either for all of a name, or for none (MAAS fact 4.5).
func (c *Client) PutTXT(ctx context.Context, fqdn, value string) error {
	return c.named(c.call(ctx, maxAnswer, func(a api) error {
		name, domain, err := split(a, fqdn)
		if err != nil {
			return err
		}
		records, err := list(a, name, domain)
		if err != nil {
			return err
		}
		if slices.ContainsFunc(records, func(one txtRecord) bool { return one.Data == value }) {
			return nil
		}
		form := url.Values{"name": {name}, "domain": {domain}, "rrtype": {"TXT"}, "rrdata": {value}}
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
		name, domain, err := split(a, fqdn)
		if errors.Is(err, errNoDomain) {
			return nil
		}
		if err != nil {
			return err
		}
		records, err := list(a, name, domain)
		if err != nil {
			return ignoreNotFound(err)
		}
		for _, one := range records {
			if one.Data == value {
				err = errors.Join(err, ignoreNotFound(a.DNSResourceRecord.Delete(one.ID)))
			}
		}
		return err
	}))
}
