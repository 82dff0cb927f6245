// Package sealed is a store whose documents are sealed before they are kept elsewhere, so that whoever reads that place, a dump of a
// database or a copy of a disk, finds no key there.
//
// It promises that a document can be opened only with a seal, and only under the name under which it was written; and that one which was
// changed, moved, or never sealed is refused rather than believed.
//
// Start reading at [New].
package sealed

import (
	"bytes"
	"context"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	"maascert/certstore"
	"maascert/internal/hint"
)

// ShortestSeal is how many bytes a seal has at least.
const ShortestSeal = 32

// magic begins every sealed document: what it is, and its format.
const magic = "maascert sealed 1\n"

// idLength is how many bytes tell which seal a document was sealed with.
const idLength = 8

// seal is one text that documents are sealed with: what is derived from it.
type seal struct {
	id   [idLength]byte
	aead cipher.AEAD
}

// Store seals what is written to another store, and opens what is read from it. Names and locks are as they are there.
type Store struct {
	base  certstore.Store
	seals []seal // the first seals, all open
}

var (
	_ certstore.Store    = (*Store)(nil)
	_ certstore.Gatherer = (*Store)(nil)
)

// New seals a store. The first seal seals, and all of them open, so that a seal can be replaced while documents of the one before are
// left. Each has at least ShortestSeal bytes.
func New(base certstore.Store, seals ...string) (*Store, error) {
	if len(seals) == 0 {
		return nil, errors.New("no seal is given")
	}
	s := &Store{base: base}
	for i, text := range seals {
		if len(text) < ShortestSeal {
			return nil, fmt.Errorf("seal %d has %d bytes; it takes %d or more", i+1, len(text), ShortestSeal)
		}
		one, err := derive(text)
		if err != nil {
			return nil, err
		}
		s.seals = append(s.seals, one)
	}
	return s, nil
}

// derive makes a key and its ID of a seal (RFC 5869). Neither tells anything of the other.
func derive(text string) (seal, error) {
	var one seal
	key, err := hkdf.Key(sha256.New, []byte(text), nil, "maascert seal 1: key", chacha20poly1305.KeySize)
	if err != nil {
		return one, err
	}
	id, err := hkdf.Key(sha256.New, []byte(text), nil, "maascert seal 1: id", idLength)
	if err != nil {
		return one, err
	}
	copy(one.id[:], id)
	one.aead, err = chacha20poly1305.NewX(key)
	return one, err
}

// close seals a document under its name.
func (s *Store) close(name string, data []byte) []byte {
	by := s.seals[0]
	head := append([]byte(magic), by.id[:]...)
	nonce := make([]byte, chacha20poly1305.NonceSizeX)
	rand.Read(nonce)
	return by.aead.Seal(append(head, nonce...), nonce, data, associated(head, name))
}

// associated is what is sealed with a document and not kept in it: that it is one of this format, and its name.
func associated(head []byte, name string) []byte { return append(bytes.Clone(head), name...) }

// open opens what was sealed under a name. No error holds what it holds.
func (s *Store) open(name string, data []byte) ([]byte, error) {
	const headLength = len(magic) + idLength
	if !bytes.HasPrefix(data, []byte(magic)) || len(data) < headLength+chacha20poly1305.NonceSizeX {
		return nil, hint.Add(fmt.Errorf("store: %s is not sealed", name), "what was kept before there was a seal is brought in by: maascert store copy, from a configuration without one")
	}
	head, rest := data[:headLength], data[headLength:]
	nonce, text := rest[:chacha20poly1305.NonceSizeX], rest[chacha20poly1305.NonceSizeX:]
	for _, one := range s.seals {
		if !bytes.Equal(one.id[:], head[len(magic):]) {
			continue
		}
		plain, err := one.aead.Open(nil, nonce, text, associated(head, name))
		if err != nil {
			return nil, hint.Add(fmt.Errorf("store: %s was changed, or moved to another name, since it was sealed", name), "put it back from a backup, or move it away (keep it); then: maascert renew")
		}
		return plain, nil
	}
	return nil, hint.Add(fmt.Errorf("store: %s is sealed with a seal that store.seal does not have", name), "is store.seal the same on every host? While it is replaced every host needs both: [NEW, OLD] seals with the first and opens with all")
}

// Read opens a document.
func (s *Store) Read(ctx context.Context, name string) ([]byte, certstore.Revision, error) {
	data, revision, err := s.base.Read(ctx, name)
	if err != nil {
		return nil, revision, err
	}
	plain, err := s.open(name, data)
	if err != nil {
		return nil, "", err
	}
	return plain, revision, nil
}

// Write seals a document.
func (s *Store) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	return s.base.Write(ctx, name, s.close(name, data), prev)
}

// Delete removes a document.
func (s *Store) Delete(ctx context.Context, name string) error { return s.base.Delete(ctx, name) }

// List lists a folder.
func (s *Store) List(ctx context.Context, folder string) ([]string, error) {
	return s.base.List(ctx, folder)
}

// Gather reads ahead, where that is faster.
func (s *Store) Gather(ctx context.Context, wanted certstore.Wanted) (certstore.Gathered, error) {
	gatherer, isFaster := s.base.(certstore.Gatherer)
	if !isFaster {
		return certstore.Gathered{}, errors.ErrUnsupported
	}
	gathered, err := gatherer.Gather(ctx, wanted)
	for name, one := range gathered.Documents {
		plain, opening := s.open(name, one.Data)
		if opening != nil { // which whoever reads it is told
			one.Revision = ""
		}
		one.Data = plain
		gathered.Documents[name] = one
	}
	return gathered, err
}

// Writable tells whether documents could be written.
func (s *Store) Writable(ctx context.Context) error { return s.base.Writable(ctx) }

// Lock takes a lock; what is written under it is sealed.
func (s *Store) Lock(ctx context.Context, name string) (*certstore.Held, error) {
	held, err := s.base.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	held.Store = &Store{base: held.Store, seals: s.seals}
	return held, nil
}

// Watch tells of what others write, where the store below can tell.
func (s *Store) Watch(ctx context.Context, changed func()) {
	if watcher, ok := s.base.(certstore.Watcher); ok {
		watcher.Watch(ctx, changed)
	}
}

// Close closes what the store below keeps open.
func (s *Store) Close() {
	if open, ok := s.base.(interface{ Close() }); ok {
		open.Close()
	}
}

// Holder tells who holds a lock.
func (s *Store) Holder(ctx context.Context, name string) (*certstore.Holder, error) {
	return s.base.Holder(ctx, name)
}
