package acme

import (
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strings"

	"golang.org/x/net/publicsuffix"

	"maascert/certstore"
)

// publicCAs are the hosts of the directories of CAs that browsers trust, and that therefore may not issue for internal
// names and reserved addresses (CA/Browser Forum Baseline Requirements 4.2.2).
var publicCAs = []string{
	"acme-v02.api.letsencrypt.org", "acme-staging-v02.api.letsencrypt.org",
	"acme.zerossl.com", "dv.acme-v02.api.pki.goog", "dv.acme-v02.test-api.pki.goog", "acme.ssl.com",
	"acme.sectigo.com", "acme.digicert.com", "acme-api.actalis.com",
}

// isPublic tells whether a directory belongs to a CA that browsers trust.
func isPublic(directory string) bool {
	address, err := url.Parse(directory)
	return err == nil && slices.Contains(publicCAs, strings.ToLower(address.Hostname()))
}

// isLetsEncrypt tells whether a directory is one of Let's Encrypt's.
func isLetsEncrypt(directory string) bool {
	return directory == LetsEncrypt || directory == LetsEncryptStaging
}

// Let's Encrypt takes so many names in one certificate, and addresses only with one profile.
const (
	letsEncryptNames = 100
	shortLivedNames  = 25
	shortLived       = "shortlived"
)

// CheckNames tells which names a CA is known not to issue for, before it is asked: the reasons by name, and one for all
// under "".
func CheckNames(directory, profile string, names []string) map[string]error {
	wrong := map[string]error{}
	if !isPublic(directory) {
		return wrong
	}
	for _, name := range names {
		if err := notPublic(name); err != nil {
			wrong[name] = fmt.Errorf("%s: %w, and this CA issues only for public ones: use a private CA for it", name, err)
		} else if isLetsEncrypt(directory) && certstore.IsAddress(name) && profile != shortLived {
			wrong[name] = fmt.Errorf("%s: Let's Encrypt issues for addresses only with profile: %s", name, shortLived)
		}
	}
	most := letsEncryptNames
	if profile == shortLived || profile == "tlsserver" {
		most = shortLivedNames
	}
	if isLetsEncrypt(directory) && len(names) > most {
		wrong[""] = fmt.Errorf("%d names are more than the %d that Let's Encrypt puts into one certificate of this profile", len(names), most)
	}
	return wrong
}

// reserved are addresses that are public by their form only (IANA's special-purpose address registries).
var reserved = []netip.Prefix{
	netip.MustParsePrefix("0.0.0.0/8"), netip.MustParsePrefix("100.64.0.0/10"), netip.MustParsePrefix("192.0.0.0/24"),
	netip.MustParsePrefix("192.0.2.0/24"), netip.MustParsePrefix("198.18.0.0/15"), netip.MustParsePrefix("198.51.100.0/24"),
	netip.MustParsePrefix("203.0.113.0/24"), netip.MustParsePrefix("240.0.0.0/4"), netip.MustParsePrefix("2001:db8::/32"),
	netip.MustParsePrefix("64:ff9b:1::/48"), netip.MustParsePrefix("100::/64"), netip.MustParsePrefix("3fff::/20"),
}

// specialUse are domains of which no part is ever public (IANA's special-use domain names), though the list of public
// suffixes knows some of them.
var specialUse = []string{"internal", "maas", "local", "localhost", "test", "example", "invalid", "alt", "onion", "arpa", "lan", "home", "corp", "intranet", "private"}

// notPublic explains why no public CA may issue for a canonical name; nil when one may.
func notPublic(name string) error {
	if address, err := netip.ParseAddr(name); err == nil {
		special := slices.ContainsFunc(reserved, func(p netip.Prefix) bool { return p.Contains(address) })
		if special || !address.IsGlobalUnicast() || address.IsPrivate() {
			return errors.New("it is a private or reserved address")
		}
		return nil
	}
	bare := strings.TrimPrefix(name, "*.")
	last := bare[strings.LastIndexByte(bare, '.')+1:]
	if slices.Contains(specialUse, last) {
		return fmt.Errorf("it is an internal name: .%s is not public", last)
	}
	suffix, listed := publicsuffix.PublicSuffix(bare)
	switch {
	case !listed && suffix == last:
		return fmt.Errorf("it is an internal name: there is no public .%s", last)
	case listed && suffix == bare:
		return errors.New("it is a public suffix, which belongs to nobody")
	}
	return nil
}
