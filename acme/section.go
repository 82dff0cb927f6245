package acme

import (
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"maps"
	"net/url"
	"regexp"
	"slices"
	"strings"

	"maascert/internal/secret"
	"maascert/internal/section"
)

// Section says in the configuration which CA issues and on what terms. How names are proven to it stands beside these keys.
type Section struct {
	Directory      string        `yaml:"directory"`
	Root           string        `yaml:"root,path"`
	IssuerRoot     string        `yaml:"issuer_root,path"`
	AcceptTerms    bool          `yaml:"accept_terms"`
	DryRun         DryRunSection `yaml:"dry_run"`
	Email          string        `yaml:"email"`
	EAB            EABSection    `yaml:"eab"`
	Profile        string        `yaml:"profile"`
	PreferredChain string        `yaml:"preferred_chain"`

	roots, issuerRoots       *x509.CertPool
	rootsPEM, issuerRootsPEM []byte // of roots and issuerRoots; empty for the system's
	external                 *ExternalAccount
}

// EABSection binds the ACME account to one that the CA knows otherwise (RFC 8555 section 7.3.4).
type EABSection struct {
	KeyID string           `yaml:"key_id"`
	HMAC  secret.Reference `yaml:"hmac"`
}

// DryRunSection names the CA for rehearsals.
type DryRunSection struct {
	Directory string `yaml:"directory"`
	Root      string `yaml:"root,path"`

	roots *x509.CertPool
}

// Roots are those that the directory's own certificate leads to; nil stands for the system's.
func (s Section) Roots() *x509.CertPool { return s.roots }

// RootsPEM are the same as text; empty for the system's.
func (s Section) RootsPEM() []byte { return s.rootsPEM }

// IssuerRoots are those that issued certificates lead to, the system's where none are configured.
func (s Section) IssuerRoots() *x509.CertPool { return s.issuerRoots }

// IssuerRootsPEM are the same as text; empty for the system's.
func (s Section) IssuerRootsPEM() []byte { return s.issuerRootsPEM }

// External is the account that the ACME account is bound to, or nil.
func (s Section) External() *ExternalAccount { return s.external }

// Roots are those that the directory's own certificate leads to; nil stands for the system's.
func (s DryRunSection) Roots() *x509.CertPool { return s.roots }

// Presets are the directories that can be called by name.
var Presets = map[string]string{"letsencrypt": LetsEncrypt, "letsencrypt-staging": LetsEncryptStaging}

// IsMailAddress tells whether a text could be a mail address that a CA writes to.
func IsMailAddress(text string) bool { return mailAddress.MatchString(text) }

var mailAddress = regexp.MustCompile(`^[^@\s]+@[^@\s]+$`)

// Check fills in defaults, finds what is wrong, and reads roots and secrets.
func (s *Section) Check(at section.Place) {
	if s.Directory == "" {
		at.Fault("", "%s.directory is missing: the URL of the CA's ACME directory, or letsencrypt", at.Path())
	}
	if s.Directory == "letsencrypt" && s.DryRun.Directory == "" {
		s.DryRun.Directory = "letsencrypt-staging"
	}
	s.Directory = checkDirectory(at, "directory", s.Directory)
	s.DryRun.Directory = checkDirectory(at, "dry_run.directory", s.DryRun.Directory)
	if s.DryRun.Directory != "" && s.DryRun.Directory == s.Directory {
		at.Fault("dry_run.directory", "a rehearsal would issue at the CA itself; leave it out, and names are proven without issuing")
	}
	s.roots, s.rootsPEM = section.ReadRoots(at, "root", s.Root)
	s.issuerRoots, s.issuerRootsPEM = s.roots, s.rootsPEM
	if s.IssuerRoot != "" {
		s.issuerRoots, s.issuerRootsPEM = section.ReadRoots(at, "issuer_root", s.IssuerRoot)
	}
	if s.issuerRoots == nil {
		s.issuerRoots = systemRoots()
	}
	s.DryRun.roots, _ = section.ReadRoots(at, "dry_run.root", s.DryRun.Root)
	if s.Email != "" && !mailAddress.MatchString(s.Email) {
		at.Fault("email", "%q is no mail address", s.Email)
	}
	s.external = s.EAB.account(at.Under("eab"))
}

// account reads the account that the CA knows otherwise; nil when none is named.
func (s EABSection) account(at section.Place) *ExternalAccount {
	if s == (EABSection{}) {
		return nil
	}
	if s.KeyID == "" {
		at.Fault("", "key_id is missing")
	}
	hmac := strings.TrimRight(at.Secret("hmac", s.HMAC), "=")
	if _, err := base64.RawURLEncoding.DecodeString(hmac); err != nil {
		at.Fault("hmac", "%s does not hold a base64url key", s.HMAC)
	}
	return &ExternalAccount{KeyID: s.KeyID, HMAC: hmac}
}

// checkDirectory resolves a directory's name and checks its URL.
func checkDirectory(at section.Place, key, value string) string {
	if value == "" {
		return ""
	}
	resolved, err := DirectoryURL(value)
	if errors.Is(err, errUserInURL) {
		at.Hide(key)
	}
	if err != nil {
		at.Fault(key, "%v", err)
	}
	return resolved
}

var errUserInURL = errors.New("a URL here holds no user and no password")

// DirectoryURL is the URL of a directory that is called by name or by its URL.
func DirectoryURL(text string) (string, error) {
	if preset, ok := Presets[text]; ok {
		return preset, nil
	}
	address, err := url.Parse(text)
	switch {
	case strings.Contains(text, "@") && (err != nil || address.User != nil):
		return "", errUserInURL
	case err != nil || address.Scheme != "https" || address.Host == "":
		return text, fmt.Errorf("%q is no https URL and none of: %s", text, strings.Join(slices.Sorted(maps.Keys(Presets)), ", "))
	}
	return text, nil
}

func systemRoots() *x509.CertPool {
	pool, err := x509.SystemCertPool()
	if err != nil {
		// A host without a store of roots trusts nobody, which the first look at the CA says.
		return x509.NewCertPool()
	}
	return pool
}
