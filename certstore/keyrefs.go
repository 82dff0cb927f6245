package certstore

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"regexp"
	"slices"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/jwk"
)

// referenceMark begins what stands in a document for a private key that is kept apart: the thumbprint of its public key (RFC 7638) in
// hexadecimal digits follows.
const referenceMark = "kept apart: thumbprint:"

var reference = regexp.MustCompile("^" + referenceMark + "[0-9a-f]{64}$")

// IsKeptApart tells whether what stands in a document for a private key names one that is kept apart.
func IsKeptApart(key string) bool { return reference.MatchString(key) }

// referenceTo names a key by its public key, which anybody may know.
func referenceTo(public crypto.PublicKey) (string, error) {
	sum, err := jwk.Thumbprint(public)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("%s%x", referenceMark, sum), nil
}

// thumbprintOf is that of a private key, which stands in a document or is named there, in base64url.
func thumbprintOf(text string) (string, error) {
	named := text
	if !IsKeptApart(text) {
		key, err := ParseKey([]byte(text))
		if err != nil {
			return "", err
		}
		if named, err = referenceTo(key.Public()); err != nil {
			return "", err
		}
	}
	sum, err := hex.DecodeString(strings.TrimPrefix(named, referenceMark))
	return base64.RawURLEncoding.EncodeToString(sum), err
}

// keyFields are where documents hold keys: "key" of a version, "key" and "next_key" of the account, "key" of a record's order.
type keyFields struct {
	Key     string `json:"key"`
	NextKey string `json:"next_key"`
	Order   *struct {
		Key string `json:"key"`
	} `json:"order"`
}

// holdsKeys tells whether a document of that name has places for keys.
func holdsKeys(name string) bool {
	folder, _, _ := strings.Cut(name, "/")
	return folder == "versions" || folder == "account" || folder == "state"
}

// keysIn are what stands in a document for its keys: the keys themselves, or what names them.
func keysIn(name string, data []byte) []string {
	var fields keyFields
	if !holdsKeys(name) || json.Unmarshal(data, &fields) != nil {
		return nil // it is no document of ours, and holds no field
	}
	all := []string{fields.Key, fields.NextKey}
	if fields.Order != nil {
		all = append(all, fields.Order.Key)
	}
	return slices.DeleteFunc(all, func(key string) bool { return key == "" })
}

// namedIn are the keys that a document names, under the names that they are kept by.
func namedIn(name string, data []byte) (names []string) {
	for _, key := range keysIn(name, data) {
		if IsKeptApart(key) {
			names = append(names, keyName(name, key))
		}
	}
	return names
}

// keyName is under which name a document's key is kept, below the deployment's folder.
func keyName(document, reference string) string {
	return document + "/" + strings.TrimPrefix(reference, referenceMark)
}

// replaced is a document with other texts in the place of its keys. What comes from outside stands in strings of JSON, whose quotation marks are
// escaped, so that it cannot look like a field with a key.
func replaced(data []byte, old, now string) ([]byte, error) {
	before, err := json.Marshal(old)
	if err != nil {
		return nil, err
	}
	after, err := json.Marshal(now)
	if err != nil {
		return nil, err
	}
	for _, field := range []string{"key", "next_key"} {
		data = bytes.ReplaceAll(data, fmt.Appendf(nil, "%q: %s", field, before), fmt.Appendf(nil, "%q: %s", field, after))
	}
	return data, nil
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

// apart is a KeysApart, or what embeds one.
type apart interface{ self() *KeysApart }

func (s *KeysApart) self() *KeysApart { return s }

// keysApart is where a store has keys that are kept apart; nil: it keeps none apart.
func keysApart(store Store) *KeysApart {
	for store != nil {
		if own, is := store.(apart); is {
			return own.self()
		}
		on, is := store.(Layer)
		if !is {
			return nil
		}
		store = on.Below()
	}
	return nil
}

// ReadyKeys tells whether keys can be put and had now; nil as well where a store keeps none apart.
func ReadyKeys(ctx context.Context, store Store) error {
	if own := keysApart(store); own != nil {
		return own.ready(ctx)
	}
	return nil
}

// KeyFolder is where the keys of a deployment are, below the place where a store keeps keys apart; empty: it never kept any.
func KeyFolder(ctx context.Context, store Store) (string, error) {
	if own := keysApart(store); own != nil {
		return own.folder(ctx)
	}
	return "", nil
}

// keepKeys is a document for a store as it is kept there: with what names its keys, when those are kept apart. A rehearsal keeps none.
func keepKeys(ctx context.Context, store Store, name string, data []byte) ([]byte, error) {
	for at := store; at != nil; {
		switch one := at.(type) {
		case apart:
			return one.self().putKeys(ctx, name, data)
		case *Overlay:
			return data, nil
		case Layer:
			at = one.Below()
		default:
			return data, nil
		}
	}
	return data, nil
}

// SweepKeys removes the keys below a folder of documents that no document names: those of runs that were killed between a key and its document,
// or could not remove them. Those put within the last day are left where isYoungKept is set: a document that is going to name one is written
// within seconds, under a lock that is lost long before. The caller holds the lock for what is in the folder.
func SweepKeys(ctx context.Context, store Store, folder string, isYoungKept bool) error {
	if own := keysApart(store); own != nil {
		return own.sweep(ctx, folder, isYoungKept)
	}
	return nil
}

// ReadWhole reads a document with its keys in it, for who brings it into another store.
func ReadWhole(ctx context.Context, store Store, name string) ([]byte, Revision, error) {
	data, revision, err := store.Read(ctx, name)
	if err != nil {
		return nil, "", err
	}
	for _, named := range keysIn(name, data) {
		if !IsKeptApart(named) {
			continue
		}
		key, err := KeyText(ctx, store, name, named)
		if err != nil {
			return nil, "", err
		}
		if data, err = replaced(data, named, key); err != nil {
			return nil, "", err
		}
	}
	return data, revision, nil
}

// KeyText is the private key that stands in a document, or that it names: PEM. It is asked for where it is kept.
func KeyText(ctx context.Context, store Store, document, text string) (string, error) {
	own := keysApart(store)
	switch {
	case !IsKeptApart(text):
		return text, nil
	case own == nil:
		return "", errNowhere(document)
	default:
		return own.openKey(ctx, document, text)
	}
}

// checkKey tells whether a private key that a document names is kept; ErrKeyLost when it is not, and ErrKeysAway when nobody knows.
func checkKey(ctx context.Context, store Store, document, text string) error {
	own := keysApart(store)
	switch {
	case !IsKeptApart(text):
		return nil
	case own == nil:
		return errNowhere(document)
	default:
		return own.checkKey(ctx, document, text)
	}
}

func errNowhere(document string) error {
	return hint.Add(fmt.Errorf("store: the private key of %s is kept apart, and this configuration does not say where", document), "store.seal: {vault: …} as on the host that wrote it")
}

// signer is the private key that a document names.
func signer(ctx context.Context, store Store, document, text string) (crypto.Signer, error) {
	pem, err := KeyText(ctx, store, document, text)
	if err != nil {
		return nil, err
	}
	return ParseKey([]byte(pem))
}
