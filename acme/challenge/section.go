package challenge

import (
	"cmp"
	"slices"
	"strings"

	"maascert/internal/section"
)

// Section says in the configuration how names are proven (RFC 8555 section 8, RFC 8737). That of dns-01 has more keys, which
// are the DNS provider's.
type Section struct {
	Type    string `yaml:"type"`
	Listen  string `yaml:"listen"`
	Webroot string `yaml:"webroot,path"`

	Before []string `yaml:"before,program"`
	After  []string `yaml:"after,program"`
}

// HasHooks tells whether programs are run around the answers.
func (s Section) HasHooks() bool { return len(s.Before)+len(s.After) > 0 }

// Types are the ways to prove names.
var Types = []string{"http-01", "tls-alpn-01", "dns-01"}

// Check fills in defaults and finds what is wrong.
func (s *Section) Check(at section.Place) {
	s.Type = cmp.Or(s.Type, "http-01")
	for key, command := range map[string][]string{"before": s.Before, "after": s.After} {
		if len(command) > 0 && command[0] == "" {
			at.Fault(key, "the first word is the program: [ufw, allow, 80/tcp]")
		}
	}
	listen := map[string]string{"http-01": ":80", "tls-alpn-01": ":443"}[s.Type]
	switch {
	case !slices.Contains(Types, s.Type):
		at.Fault("type", "%q is unknown; there are: %s", s.Type, strings.Join(Types, ", "))
	case s.Type == "dns-01":
		if s.Listen != "" || s.Webroot != "" {
			at.Fault("", "dns-01 listens nowhere and has no webroot")
		}
	case s.Webroot == "":
		s.Listen = cmp.Or(s.Listen, listen)
		if !section.IsHostPort(s.Listen) {
			at.Fault("listen", "%q is no address to listen on; write %s or 10.0.0.10%s", s.Listen, listen, listen)
		}
	case s.Listen != "":
		at.Fault("webroot", "listen and webroot exclude each other")
	case s.Type != "http-01":
		at.Fault("webroot", "only http-01 can be answered by files")
	}
}
