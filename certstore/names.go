package certstore

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"golang.org/x/net/idna"
)

// CanonicalName is the one spelling of a DNS name (lower case, A-labels, no final dot) or IP address (RFC 5952) under
// which CAs know it. Wildcards are DNS names. The error says what is wrong with the name.
func CanonicalName(name string) (string, error) {
	if name == "" {
		return "", errors.New("empty name")
	}
	if address, err := netip.ParseAddr(name); err == nil {
		if address.Zone() != "" {
			return "", fmt.Errorf("%s: an address with a zone cannot be certified", name)
		}
		return address.Unmap().String(), nil
	}
	bare, wildcard := strings.CutPrefix(strings.TrimSuffix(name, "."), "*.")
	ascii, err := nameRules.ToASCII(bare)
	if err == nil && ascii != bare { // what is no text maps to a name that is none
		var again string
		if again, err = nameRules.ToASCII(ascii); err == nil && again != ascii {
			err = errors.New("it has no one spelling")
		}
	}
	if err != nil {
		return "", whyNoName(name)
	}
	if last := ascii[strings.LastIndexByte(ascii, '.')+1:]; strings.Trim(last, "0123456789") == "" {
		return "", whyNoName(name)
	}
	if wildcard {
		ascii = "*." + ascii
	}
	return ascii, nil
}

// nameRules are those for looking a name up, with the lengths of RFC 1035 and letters, digits and hyphens only.
var nameRules = idna.New(idna.MapForLookup(), idna.StrictDomainName(true), idna.VerifyDNSLength(true), idna.BidiRule())

// IsAddress tells whether a canonical name is an IP address.
func IsAddress(name string) bool {
	_, err := netip.ParseAddr(name)
	return err == nil
}

// Wish describes the certificate that is wanted: everything whose change calls for a new one.
type Wish struct {
	Names     []string `json:"names"` // canonical
	KeyType   KeyType  `json:"key_type"`
	Directory string   `json:"directory"` // of the CA
	Profile   string   `json:"profile,omitempty"`
	Rule      string   `json:"rule,omitempty"` // that leads to further names; empty: none
}

// Hash identifies a wish; the order of the names does not count.
func (w Wish) Hash() string {
	w.Names = slices.Sorted(slices.Values(w.Names))
	// A struct of strings always marshals.
	text, _ := json.Marshal(w)
	sum := sha256.Sum256(text)
	return "sha256:" + hex.EncodeToString(sum[:])
}
