package config

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"maascert/certstore/sealed"
	"maascert/certstore/vaultkeys"
	"maascert/internal/secret"
)

// The types of stores.
const (
	FileStore     = "file"     // files of this host's
	PostgresStore = "postgres" // a database that several hosts share
)

// OfRegiond stands for the database that MAAS itself uses.
const OfRegiond = "regiond"

// Store says where certificates are kept, and what they are sealed with there.
type Store struct {
	Type string `yaml:"type"`
	Path string `yaml:"path,path"` // of a file store
	URL  string `yaml:"url"`       // of a database: a reference, or regiond
	Seal Seal   `yaml:"seal"`      // so that whoever reads that place finds no key there

	read func(secret.Reference) (string, error)
}

// Seal keeps private keys from whoever reads the store: documents are sealed with texts, of which the first seals and all open, or their
// keys are kept apart in Vault. Without any of it nothing is sealed.
type Seal struct {
	Texts References
	Vault *vaultkeys.Section `yaml:"vault"`
}

// IsSet tells whether anything keeps keys from who reads the store.
func (s Seal) IsSet() bool { return len(s.Texts) > 0 || s.Vault != nil }

// References are some secrets; one alone may stand without a list.
type References []secret.Reference

// IsShared tells whether other hosts use the store as well.
func (s Store) IsShared() bool { return s.Type == PostgresStore }

// Place is where the store is, for people. It holds no secret.
func (s Store) Place() string {
	if s.IsShared() {
		return "the database of " + s.URL
	}
	return s.Path
}

// Secrets are the references to secrets that there are.
func (s Store) Secrets() []secret.Reference {
	all := slices.Clone(s.Seal.Texts)
	if s.Seal.Vault != nil {
		all = append(all, s.Seal.Vault.Secrets()...)
	}
	if s.IsShared() && s.URL != OfRegiond {
		all = append(References{secret.Reference(s.URL)}, all...)
	}
	return all
}

// DatabaseURL reads the URL of the database.
func (s Store) DatabaseURL() (string, error) { return s.read(secret.Reference(s.URL)) }

// Seals reads what documents are sealed with.
func (s Store) Seals() ([]string, error) {
	var seals []string
	for _, reference := range s.Seal.Texts {
		text, err := s.read(reference)
		if err != nil {
			return nil, err
		}
		seals = append(seals, text)
	}
	return seals, nil
}

// store checks where certificates are kept.
func (v *validator) store(usual string) {
	s, at := &v.config.Store, v.place("store")
	s.Type, s.read = cmp.Or(s.Type, FileStore), at.Again
	switch s.Type {
	case FileStore:
		s.Path = cmp.Or(s.Path, usual)
		if s.URL != "" {
			at.Fault("url", "a store of type file has a path and no url")
		}
	case PostgresStore:
		if s.Path != "" {
			at.Fault("path", "a store of type postgres has a url and no path")
		}
		switch err := secret.Reference(s.URL).Check(); {
		case s.URL == "":
			at.Fault("url", "url is missing: a reference to the database's URL such as file:database.url, or %s", OfRegiond)
		case s.URL != OfRegiond && err != nil:
			at.Hide("url")
			at.Fault("url", "%v, or %s", err, OfRegiond)
		}
		if !s.Seal.IsSet() {
			at.Fault("seal", "seal is missing: what is in a database can be read by others; a reference to any text of %d bytes or more, the same on every host, or vault:", sealed.ShortestSeal)
		}
	default:
		at.Fault("type", "%q is unknown; there are: %s", s.Type, strings.Join([]string{FileStore, PostgresStore}, ", "))
	}
	switch {
	case s.Seal.Vault != nil:
		s.Seal.Vault.Check(at.Under("seal").Under("vault"))
	case !s.Seal.IsSet() && v.has("store.seal") && !s.IsShared():
		at.Fault("seal", "seal names nothing: a reference to any text of %d bytes or more, or vault:", sealed.ShortestSeal)
	}
	for i, reference := range s.Seal.Texts {
		key := "seal"
		if v.has(fmt.Sprintf("store.seal[%d]", i)) {
			key = fmt.Sprintf("seal[%d]", i)
		}
		if err := reference.Check(); err != nil {
			at.Hide(key)
			at.Fault(key, "%v", err)
			continue
		}
		if text := at.Secret(key, reference); text != "" && len(text) < sealed.ShortestSeal {
			at.Fault(key, "it has %d bytes; a seal takes %d or more, such as: openssl rand -base64 48", len(text), sealed.ShortestSeal)
		}
	}
}
