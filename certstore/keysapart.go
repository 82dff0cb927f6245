package certstore

import (
	"bytes"
	"context"
	"crypto"
	"crypto/sha256"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"maascert/internal/hint"
)

// KeyKeeper keeps private keys apart from the documents that name them, such as HashiCorp Vault. A key has a name like a
// document's, and is never changed.
type KeyKeeper interface {
	// Put keeps a key under a name of its own. The same key again is no error, another one under that name is ErrConflict.
	Put(ctx context.Context, name string, key []byte) error
	// Get returns a key; ErrNotFound when there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	// Delete removes a key, and all that is known of it; one that does not exist is no error.
	Delete(ctx context.Context, name string) error
	// List returns the keys whose names are one part longer than folder, by their last parts, and the last parts of folders.
	List(ctx context.Context, folder string) (keys []string, folders []string, err error)
	// Since is when a key was put; ErrNotFound when there is none.
	Since(ctx context.Context, name string) (time.Time, error)
	// Ready tells without changing anything whether keys can be put and got now.
	Ready(ctx context.Context) error
}

// ErrKeysAway says that who keeps the private keys cannot be asked now, or refuses; most often that passes.
var ErrKeysAway = errors.New("the private keys cannot be had")

// KeysApart is a store whose documents hold no private key. Each is kept by a KeyKeeper before the document that names it is written,
// and removed after the document that names it no more. Reading asks nobody for a key: what names one is read as it stands there, and
// OpenKey has the key itself.
type KeysApart struct {
	Store
	keys KeyKeeper
	now  func() time.Time

	mu    sync.Mutex
	named map[string]naming // by document: what it names in the state that was seen last
}

// naming is what a document in one state names.
type naming struct {
	revision Revision
	keys     []string // names of its keys
}

var (
	_ Store    = (*KeysApart)(nil)
	_ Gatherer = (*KeysApart)(nil)
	_ Watcher  = (*KeysApart)(nil)
)

// NewKeysApart keeps the keys of a store's documents elsewhere.
func NewKeysApart(base Store, keys KeyKeeper, now func() time.Time) *KeysApart {
	return &KeysApart{Store: base, keys: keys, now: now, named: map[string]naming{}}
}

// referenceMark begins what stands in a document for a key that is kept apart: the SHA-256 of its public key (the SubjectPublicKeyInfo of
// RFC 5280 section 4.1.2.7) in hexadecimal digits follows.
const referenceMark = "kept apart: sha256:"

// IsKeptApart tells whether what stands in a document for a private key names one that is kept apart.
func IsKeptApart(key string) bool { return strings.HasPrefix(key, referenceMark) }

// referenceTo names a key by its public key, which anybody may know.
func referenceTo(public crypto.PublicKey) (string, error) {
	der, err := x509.MarshalPKIXPublicKey(public)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%x", referenceMark, sha256.Sum256(der)), nil
}

// keyName is under which name a document's key is kept.
func keyName(document, reference string) string {
	return document + "/" + strings.TrimPrefix(reference, referenceMark)
}

// keyFields are where documents hold keys: "key" of a version, "key" and "next_key" of the account, "key" of a record's order.
type keyFields struct {
	Key     string `json:"key"`
	NextKey string `json:"next_key"`
	Order   *struct {
		Key string `json:"key"`
	} `json:"order"`
}

// keysIn are what stands in a document for its keys: the keys themselves, or what names them.
func keysIn(name string, data []byte) []string {
	var fields keyFields
	if json.Unmarshal(data, &fields) != nil {
		return nil // it is no document of ours, and holds no field
	}
	var all []string
	switch folder, _, _ := strings.Cut(name, "/"); folder {
	case "versions":
		all = []string{fields.Key}
	case "account":
		all = []string{fields.Key, fields.NextKey}
	case "state":
		if fields.Order != nil {
			all = []string{fields.Order.Key}
		}
	}
	return slices.DeleteFunc(all, func(key string) bool { return key == "" })
}

// replaced is a document with other texts in the place of its keys. What comes from outside stands in strings of JSON, whose quotation marks are
// escaped, so that it cannot look like a field with a key.
func replaced(data []byte, old, now string) ([]byte, error) {
	for _, field := range []string{"key", "next_key"} {
		before, err := json.Marshal(old)
		if err != nil {
			return nil, err
		}
		after, err := json.Marshal(now)
		if err != nil {
			return nil, err
		}
		data = bytes.ReplaceAll(data, fmt.Appendf(nil, "%q: %s", field, before), fmt.Appendf(nil, "%q: %s", field, after))
	}
	return data, nil
}

// Read returns a document with what names its keys.
func (s *KeysApart) Read(ctx context.Context, name string) ([]byte, Revision, error) {
	data, revision, err := s.Store.Read(ctx, name)
	if err == nil {
		s.sees(name, data, revision)
	}
	return data, revision, err
}

// sees remembers what a document names.
func (s *KeysApart) sees(name string, data []byte, revision Revision) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.named[name] = naming{revision, namesOfKeys(name, data)}
}

func namesOfKeys(name string, data []byte) (names []string) {
	for _, key := range keysIn(name, data) {
		if IsKeptApart(key) {
			names = append(names, keyName(name, key))
		}
	}
	return names
}

// Write keeps the keys of a document apart, then writes the document, and then removes the keys that it names no more.
func (s *KeysApart) Write(ctx context.Context, name string, data []byte, prev Revision) (Revision, error) {
	data, err := s.putKeys(ctx, name, data)
	if err != nil {
		return "", err
	}
	former, err := s.formerKeys(ctx, name, prev)
	if err != nil {
		return "", err
	}
	revision, err := s.Store.Write(ctx, name, data, prev)
	if err != nil {
		return "", err
	}
	s.sees(name, data, revision)
	still := namesOfKeys(name, data)
	for _, key := range former {
		if !slices.Contains(still, key) {
			// What stays for now is swept away later.
			_ = s.keys.Delete(ctx, key)
		}
	}
	return revision, nil
}

// putKeys is a document whose keys are kept, and named in it.
func (s *KeysApart) putKeys(ctx context.Context, name string, data []byte) ([]byte, error) {
	for _, text := range keysIn(name, data) {
		if IsKeptApart(text) {
			continue
		}
		key, err := ParseKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("store: %s: %w", name, err)
		}
		reference, err := referenceTo(key.Public())
		if err != nil {
			return nil, fmt.Errorf("store: %s: %w", name, err)
		}
		if err := s.keys.Put(ctx, keyName(name, reference), []byte(text)); err != nil {
			return nil, fmt.Errorf("store: %s: its key: %w", name, err)
		}
		if data, err = replaced(data, text, reference); err != nil {
			return nil, err
		}
	}
	if bytes.Contains(data, []byte("PRIVATE KEY-----")) {
		return nil, fmt.Errorf("store: %s would hold a private key, which is to be kept apart", name)
	}
	return data, nil
}

// formerKeys are those that the document which is to be replaced names.
func (s *KeysApart) formerKeys(ctx context.Context, name string, prev Revision) ([]string, error) {
	if prev == "" {
		return nil, nil
	}
	s.mu.Lock()
	seen := s.named[name]
	s.mu.Unlock()
	if seen.revision == prev {
		return seen.keys, nil
	}
	data, revision, err := s.Store.Read(ctx, name)
	if errors.Is(err, ErrNotFound) || err == nil && revision != prev {
		return nil, fmt.Errorf("store: %s: %w", name, ErrConflict)
	}
	return namesOfKeys(name, data), err
}

// Delete removes a document, and then its keys. When they cannot be removed now it says so, and a sweep removes them later.
func (s *KeysApart) Delete(ctx context.Context, name string) error {
	if err := s.Store.Delete(ctx, name); err != nil {
		return err
	}
	s.mu.Lock()
	delete(s.named, name)
	s.mu.Unlock()
	keys, _, err := s.keys.List(ctx, name)
	for _, key := range keys {
		err = errors.Join(err, s.keys.Delete(ctx, name+"/"+key))
	}
	return err
}

// OpenKey is the key that a document names.
func (s *KeysApart) OpenKey(ctx context.Context, document, reference string) (string, error) {
	text, err := s.keys.Get(ctx, keyName(document, reference))
	if errors.Is(err, ErrNotFound) {
		return "", hint.Add(fmt.Errorf("store: the private key of %s is not where keys are kept: %w", document, err), "was it deleted there? maascert renew --force obtains another certificate with another key")
	}
	if err != nil {
		return "", fmt.Errorf("store: the private key of %s: %w", document, err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return "", fmt.Errorf("store: the private key of %s: %w", document, err)
	}
	if is, err := referenceTo(key.Public()); err != nil || is != reference {
		return "", fmt.Errorf("store: what is kept as the private key of %s is another one", document)
	}
	return string(text), nil
}

// ReadyKeys tells whether keys can be put and got now.
func (s *KeysApart) ReadyKeys(ctx context.Context) error { return s.keys.Ready(ctx) }

// sweepAge is how old a key is before it is swept away: a document that is going to name it is written within seconds after it was put, and
// under a lock that is lost long before.
const sweepAge = 24 * time.Hour

// Sweep removes keys below a folder that are older than a day and that no document names: those of runs that were killed between a key
// and its document, or could not remove them.
func (s *KeysApart) Sweep(ctx context.Context, folder string) error {
	keys, folders, err := s.keys.List(ctx, folder)
	if err != nil {
		return err
	}
	var named []string
	if len(keys) > 0 {
		data, _, err := s.Store.Read(ctx, folder)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		named = namesOfKeys(folder, data)
	}
	var failures []error
	for _, key := range keys {
		name := folder + "/" + key
		if slices.Contains(named, name) {
			continue
		}
		since, err := s.keys.Since(ctx, name)
		if err == nil && s.now().Sub(since) >= sweepAge {
			err = s.keys.Delete(ctx, name)
		}
		if !errors.Is(err, ErrNotFound) {
			failures = append(failures, err)
		}
	}
	for _, below := range folders {
		failures = append(failures, s.Sweep(ctx, folder+"/"+below))
	}
	return errors.Join(failures...)
}

// Gather reads ahead, where that is faster.
func (s *KeysApart) Gather(ctx context.Context, wanted Wanted) (Gathered, error) {
	gatherer, isFaster := s.Store.(Gatherer)
	if !isFaster {
		return Gathered{}, errors.ErrUnsupported
	}
	gathered, err := gatherer.Gather(ctx, wanted)
	for name, one := range gathered.Documents {
		s.sees(name, one.Data, one.Revision)
	}
	return gathered, err
}

// Lock takes a lock; the keys of what is written under it are kept apart.
func (s *KeysApart) Lock(ctx context.Context, name string) (*Held, error) {
	held, err := s.Store.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	held.Store = NewKeysApart(held.Store, s.keys, s.now)
	return held, nil
}

// Watch tells of what others write, where the store below can tell.
func (s *KeysApart) Watch(ctx context.Context, changed func()) {
	if watcher, ok := s.Store.(Watcher); ok {
		watcher.Watch(ctx, changed)
	}
}

// Close closes what the store below keeps open, and who keeps the keys.
func (s *KeysApart) Close() {
	for _, one := range []any{s.Store, s.keys} {
		if open, ok := one.(interface{ Close() }); ok {
			open.Close()
		}
	}
}

// keyOpener is a store that has keys which are kept apart.
type keyOpener interface {
	OpenKey(ctx context.Context, document, reference string) (string, error)
}

// Layer is a store that stands on another one, and has the keys that are kept apart from there.
type Layer interface {
	// Below is that other one; nil: there is none yet.
	Below() Store
}

// Below is the store whose lock it is.
func (h *Held) Below() Store { return h.Store }

func (a *ahead) Below() Store { return a.Store }

// Below is the store that is rehearsed upon.
func (o *Overlay) Below() Store { return o.base }

// ReadWhole reads a document with its keys in it, for who brings it into another store.
func ReadWhole(ctx context.Context, store Store, name string) ([]byte, Revision, error) {
	data, revision, err := store.Read(ctx, name)
	if err != nil {
		return nil, "", err
	}
	for _, reference := range keysIn(name, data) {
		if !IsKeptApart(reference) {
			continue
		}
		key, err := KeyText(ctx, store, name, reference)
		if err != nil {
			return nil, "", err
		}
		if data, err = replaced(data, reference, key); err != nil {
			return nil, "", err
		}
	}
	return data, revision, nil
}

// KeyText is the private key that stands in a document, or that it names: PEM. It is asked for where it is kept.
func KeyText(ctx context.Context, store Store, document, text string) (string, error) {
	if !IsKeptApart(text) {
		return text, nil
	}
	for store != nil {
		if opener, ok := store.(keyOpener); ok {
			return opener.OpenKey(ctx, document, text)
		}
		on, ok := store.(Layer)
		if !ok {
			break
		}
		store = on.Below()
	}
	return "", hint.Add(fmt.Errorf("store: the private key of %s is kept apart, and this configuration does not say where", document), "store.seal: {vault: …} as on the host that wrote it")
}

// signer is the private key that a document names.
func signer(ctx context.Context, store Store, document, reference string) (crypto.Signer, error) {
	text, err := KeyText(ctx, store, document, reference)
	if err != nil {
		return nil, err
	}
	return ParseKey([]byte(text))
}
