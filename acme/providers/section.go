package providers

import (
	"maps"
	"net/url"
	"slices"
	"strings"

	"maascert/internal/secret"
	"maascert/internal/section"
)

// Section says in the configuration who puts TXT records.
type Section struct {
	Provider    string                      `yaml:"provider"`
	Settings    map[string]string           `yaml:"settings"`
	Secrets     map[string]secret.Reference `yaml:"secrets"`
	Nameservers []string                    `yaml:"nameservers"`

	secrets map[string]string // what the references led to
}

// SecretSettings are what the references under secrets led to, by name.
func (s Section) SecretSettings() map[string]string { return s.secrets }

// Check finds what is wrong, and reads the secrets.
func (s *Section) Check(at section.Place) {
	if s.Provider == "" {
		at.Fault("", "dns.provider is missing; there are: %s", strings.Join(Names(), ", "))
		return
	}
	if err := CheckName(s.Provider); err != nil {
		at.Fault("provider", "%v", err)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(s.Settings)) {
		s.checkSetting(at, name)
	}
	s.secrets = map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(s.Secrets)) {
		key := "secrets." + name
		if err := CheckSetting(s.Provider, name); err != nil {
			at.Fault(key, "%v", err)
			continue
		}
		s.secrets[name] = at.Secret(key, s.Secrets[name])
	}
	section.CheckServers(at, "nameservers", s.Nameservers)
}

// checkSetting finds what is wrong with one setting that everybody may read.
func (s *Section) checkSetting(at section.Place, name string) {
	key, value := "settings."+name, s.Settings[name]
	_, doubled := s.Secrets[name]
	switch err := CheckSetting(s.Provider, name); {
	case IsSecret(name):
		at.Hide(key)
		at.Fault(key, "%s is a secret: it belongs under secrets, as file:PATH, env:NAME or cred:NAME", name)
	case err != nil:
		at.Fault(key, "%v", err)
	case doubled:
		at.Fault(key, "%s stands under secrets as well", name)
	case hasPassword(value):
		at.Hide(key)
		at.Fault(key, "a URL here holds no user and no password: where the provider has settings for them, they belong under secrets")
	default:
		if err := CheckValue(name, value); err != nil {
			at.Fault(key, "%v", err)
		}
	}
}

// hasPassword tells whether a text is a URL that names a user or a password.
func hasPassword(text string) bool {
	address, err := url.Parse(text)
	return strings.Contains(text, "://") && strings.Contains(text, "@") && (err != nil || address.User != nil)
}
