package maasapi

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/secret"
	"maascert/internal/section"
)

// UsualURL is where a region host's own MAAS answers, whether TLS is on or not (MAAS fact 2.6).
const UsualURL = "http://127.0.0.1:5240/MAAS"

// Section says in the configuration where MAAS's API is, and who asks it.
type Section struct {
	URL string           `yaml:"url"`
	Key secret.Reference `yaml:"key"`

	read func() (Key, error)
}

// IsUsed tells whether there is a key, without which nothing is asked.
func (s Section) IsUsed() bool { return s.Key != "" }

// APIKey reads the key that the reference leads to now: another one may have been put there.
func (s Section) APIKey() (Key, error) { return s.read() }

// Check fills in defaults and finds what is wrong.
func (s *Section) Check(at section.Place) {
	if !s.IsUsed() {
		if s.URL != "" {
			at.Fault("", "key is missing: a reference to an API key of an administrator, such as file:api.key")
		}
		return
	}
	s.URL = checkURL(at, s.URL)
	// What is in the file is looked at when it is needed: a bad key keeps nobody from renewing.
	if err := s.Key.Check(); err != nil {
		at.Fault("key", "%v", err)
	}
	s.read = func() (Key, error) {
		text, err := at.Again(s.Key)
		if err != nil {
			return Key{}, hint.Add(fmt.Errorf("the API key cannot be read: %w", err), "write one there: maas apikey --username ADMIN")
		}
		key, err := ParseKey(text)
		if err != nil {
			return Key{}, hint.Add(fmt.Errorf("%s: %w", s.Key, err), "write one there: maas apikey --username ADMIN")
		}
		return key, nil
	}
}

// checkURL fills in the usual URL, and brings one to its usual spelling: a scheme and a host mean the same in capitals.
func checkURL(at section.Place, text string) string {
	text = strings.TrimRight(cmp.Or(text, UsualURL), "/")
	address, err := url.Parse(text)
	if strings.Contains(text, "@") {
		at.Hide("url")
		at.Fault("url", "a URL here holds no user and no password")
		return UsualURL
	}
	if err != nil || address.Scheme != "http" && address.Scheme != "https" || address.Hostname() == "" || address.RawQuery != "" || address.Fragment != "" {
		at.Fault("url", "%q is no URL of MAAS; write %s", text, UsualURL)
		return UsualURL
	}
	address.Host = strings.ToLower(address.Host)
	if port, err := strconv.Atoi(cmp.Or(address.Port(), "1")); err != nil || port < 1 || port > 65535 {
		at.Fault("url", "%q has no port of TCP's", text)
	}
	if !strings.HasSuffix(address.Path, "/MAAS") {
		at.Fault("url", "the URL ends with /MAAS: write %s://%s/MAAS", address.Scheme, address.Host)
	}
	return address.String()
}

// IsPlain tells whether what is sent to a URL, the key with it, can be read on a network.
func IsPlain(text string) bool {
	address, err := url.Parse(text)
	if err != nil || address.Scheme != "http" || address.Hostname() == "localhost" {
		return false
	}
	ip, err := netip.ParseAddr(address.Hostname())
	return err != nil || !ip.IsLoopback()
}

// Key is an API key of MAAS's (MAAS fact 4.1).
type Key struct{ consumer, token, secret string }

// ParseKey reads a key as `maas apikey` prints it: three parts with colons between them. The error does not repeat it.
func ParseKey(text string) (Key, error) {
	parts := strings.Split(text, ":")
	if len(parts) != 3 || strings.ContainsAny(text, " \t\r\n\"\\,") {
		return Key{}, errors.New("it holds no API key, which is one line of three parts with colons between them (maas apikey --username ADMIN prints it)")
	}
	if slices.Contains(parts, "") {
		return Key{}, errors.New("it holds half an API key: one of its three parts is empty")
	}
	return Key{parts[0], parts[1], parts[2]}, nil
}

// String keeps the secret.
func (k Key) String() string { return k.consumer + ":…" }

// GoString keeps it as well.
func (k Key) GoString() string { return k.String() }

func (k Key) text() string { return k.consumer + ":" + k.token + ":" + k.secret }
