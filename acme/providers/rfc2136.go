package providers

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"time"

	"github.com/go-acme/lego/v4/challenge"
	"github.com/go-acme/lego/v4/challenge/dns01"
	"github.com/go-acme/lego/v4/providers/dns/rfc2136"
	"github.com/miekg/dns"
)

var rfc2136Prefixes = []string{"RFC2136_", "DNSUPDATE_"}

// newRFC2136 builds the provider from a configuration: with no zones in the environment lego's own way takes the root
// for the zone of every name.
func newRFC2136() (challenge.Provider, error) {
	config := rfc2136.NewDefaultConfig()
	setting := func(name string) string {
		for _, prefix := range rfc2136Prefixes {
			if value := os.Getenv(prefix + name); value != "" {
				return value
			}
		}
		return ""
	}
	config.Nameserver = setting("NAMESERVER")
	if zones := setting("ZONES"); zones != "" {
		config.Zones = strings.Split(zones, ",")
	}
	config.TSIGFile, config.TSIGKey, config.TSIGSecret = setting("TSIG_FILE"), setting("TSIG_KEY"), setting("TSIG_SECRET")
	if (config.TSIGKey == "") != (config.TSIGSecret == "") {
		// lego would send updates that are not signed.
		return nil, errors.New("rfc2136: RFC2136_TSIG_KEY, the key's name, and RFC2136_TSIG_SECRET belong together")
	}
	config.TSIGGSSRealm, config.TSIGGSSUsername = setting("TSIG_GSS_REALM"), setting("TSIG_GSS_USERNAME")
	config.TSIGGSSPassword, config.TSIGGSSKeytabFile = setting("TSIG_GSS_PASSWORD"), setting("TSIG_GSS_KEYTAB_FILE")
	provider, err := rfc2136.NewDNSProviderConfig(config)
	if err != nil || config.TSIGGSSUsername != "" {
		return provider, err // lego alone knows GSS
	}
	return &adding{DNSProvider: provider, config: config}, nil
}

// adding puts records beside those that are there. lego's own update first removes all TXT records of the name, which
// would be somebody's SPF record when a forged CNAME names that place. The key's update-policy should allow no more than
// is needed: grant KEY name _acme-challenge.NAME. TXT;
type adding struct {
	*rfc2136.DNSProvider
	config *rfc2136.Config // as lego completed it
}

var _ placing = (*adding)(nil)

// PresentAt adds a record (RFC 2136 section 2.5.1).
func (a *adding) PresentAt(fqdn, value string) error {
	return a.update(fqdn, value, (*dns.Msg).Insert)
}

// CleanUpAt removes a record and no other of its name (RFC 2136 section 2.5.4).
func (a *adding) CleanUpAt(fqdn, value string) error {
	return a.update(fqdn, value, (*dns.Msg).Remove)
}

func (a *adding) update(fqdn, value string, change func(*dns.Msg, []dns.RR)) error {
	zone, err := a.zone(fqdn)
	if err != nil {
		return fmt.Errorf("rfc2136: %w", err)
	}
	update := new(dns.Msg).SetUpdate(zone)
	change(update, []dns.RR{&dns.TXT{
		Hdr: dns.RR_Header{Name: fqdn, Rrtype: dns.TypeTXT, Class: dns.ClassINET, Ttl: uint32(a.config.TTL)}, Txt: []string{value},
	}})
	client := &dns.Client{Timeout: a.config.DNSTimeout}
	if a.config.TSIGKey != "" {
		update.SetTsig(a.config.TSIGKey, a.config.TSIGAlgorithm, 300, time.Now().Unix())
		client.TsigSecret = map[string]string{a.config.TSIGKey: a.config.TSIGSecret}
	}
	reply, _, err := client.Exchange(update, a.config.Nameserver)
	if err == nil && reply.Rcode != dns.RcodeSuccess {
		err = fmt.Errorf("the server answers %s", dns.RcodeToString[reply.Rcode])
	}
	if err != nil {
		return fmt.Errorf("rfc2136: changing %s: %w", fqdn, err)
	}
	return nil
}

// zone is the one that is configured for a name, or else the one that the server has.
func (a *adding) zone(fqdn string) (string, error) {
	if len(a.config.Zones) == 0 {
		return dns01.FindZoneByFqdnCustom(fqdn, []string{a.config.Nameserver})
	}
	for _, zone := range a.config.Zones { // the longest first
		if zone = dns.Fqdn(zone); dns.IsSubDomain(zone, fqdn) {
			return zone, nil
		}
	}
	return "", fmt.Errorf("none of the zones holds %s", fqdn)
}
