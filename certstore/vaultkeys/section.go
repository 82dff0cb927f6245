package vaultkeys

import (
	"cmp"
	"crypto/x509"
	"net/url"
	"strings"
	"time"

	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/world"
)

// Section is vault: below store.seal.
type Section struct {
	Address   string           `yaml:"address"`
	Namespace string           `yaml:"namespace"`
	Mount     string           `yaml:"mount"`
	Path      string           `yaml:"path"`
	AppRole   string           `yaml:"approle"`
	RoleID    secret.Reference `yaml:"role_id"`
	SecretID  secret.Reference `yaml:"secret_id"`
	Root      string           `yaml:"root,path"`

	roots *x509.CertPool
	read  func(secret.Reference) (string, error)
}

// Place is where keys are, for people.
func (s *Section) Place() string { return s.Address + ", " + s.Mount + "/" + s.Path }

// Secrets are the references to secrets that there are.
func (s *Section) Secrets() []secret.Reference { return []secret.Reference{s.RoleID, s.SecretID} }

// Check fills in defaults, finds what is wrong, and reads the root.
func (s *Section) Check(at section.Place) {
	address, err := url.Parse(s.Address)
	switch {
	case s.Address == "":
		at.Fault("address", "address is missing: Vault's URL, https://vault.example.internal:8200")
	case err != nil || address.Scheme != "https" || address.Host == "" || address.User != nil || strings.Trim(address.Path, "/") != "":
		at.Fault("address", "%q is no https URL without a path, such as https://vault.example.internal:8200", s.Address)
	}
	s.Mount, s.Path, s.AppRole = cmp.Or(s.Mount, "secret"), cmp.Or(s.Path, "maascert"), cmp.Or(s.AppRole, "approle")
	for key, text := range map[string]string{"mount": s.Mount, "path": s.Path, "approle": s.AppRole} {
		if !isPath(text) {
			at.Fault(key, "%q is no path in Vault: parts of letters, digits, dots, hyphens and underscores with slashes between them", text)
		}
	}
	for key, reference := range map[string]secret.Reference{"role_id": s.RoleID, "secret_id": s.SecretID} {
		if reference == "" {
			at.Fault(key, "%s is missing: a reference to what a role of Vault's AppRole logs in with, such as file:%s", key, key)
			continue
		}
		if err := reference.Check(); err != nil {
			at.Hide(key)
			at.Fault(key, "%v", err)
			continue
		}
		at.Secret(key, reference)
	}
	s.roots, _ = section.ReadRoots(at, "root", s.Root)
	s.read = at.Again
}

// isPath tells whether a text can be a path in Vault.
func isPath(text string) bool {
	for part := range strings.SplitSeq(text, "/") {
		if part == "" || strings.HasPrefix(part, ".") || strings.ContainsFunc(part, func(r rune) bool {
			return !(r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z' || r >= '0' && r <= '9' || strings.ContainsRune("._-", r))
		}) {
			return false
		}
	}
	return true
}

// Open makes what keeps the keys there. It asks nobody yet.
func (s *Section) Open(dial world.Dial, now func() time.Time) (*Keys, error) {
	return New(Config{
		Address: s.Address, Namespace: s.Namespace, Mount: s.Mount, Path: s.Path, AppRole: s.AppRole, Roots: s.roots, Dial: dial, Now: now,
		RoleID: func() (string, error) { return s.read(s.RoleID) }, SecretID: func() (string, error) { return s.read(s.SecretID) },
	})
}
