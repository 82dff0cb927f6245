package certstore

import (
	"bytes"
	"context"
	"crypto"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/jwk"
)

// referenceMark begins what stands in a document for a private key that is kept apart: the thumbprint of its public key (RFC 7638) in
// hexadecimal digits follows.
const referenceMark = "kept apart: thumbprint:"

var (
	reference  = regexp.MustCompile("^" + referenceMark + "[0-9a-f]{64}$")
	references = regexp.MustCompile(referenceMark + "[0-9a-f]{64}")
)

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

// holdsKeys tells whether a document of that name has places for keys.
func holdsKeys(name string) bool {
	folder, _, _ := strings.Cut(name, "/")
	return folder == "versions" || folder == "account" || folder == "state"
}

// Documents hold keys in these fields: "key" of a version, "key" and "next_key" of the account, "key" of a record's "order".
const (
	keyField     = "key"
	nextKeyField = "next_key"
	orderField   = "order"
)

// keysIn are what stands in a document for its keys: the keys themselves, or what names them. A document that others could read in two ways is
// an error: a field twice, one spelled otherwise, which encoding/json takes all the same, and one that holds something else.
func keysIn(name string, data []byte) (keys []string, err error) {
	if !holdsKeys(name) {
		return nil, nil
	}
	fields, err := fieldsOf(data, keyField, nextKeyField, orderField)
	if err != nil {
		return nil, damaged(name, err.Error())
	}
	if text, isThere := fields[orderField]; isThere {
		within, err := fieldsOf(text, keyField)
		if err != nil {
			return nil, damaged(name, err.Error())
		}
		keys = append(keys, texts(within)...)
		delete(fields, orderField)
	}
	return append(keys, texts(fields)...), nil
}

// fieldsOf are some fields of a JSON object, each an object or a text that is not empty.
func fieldsOf(data []byte, wanted ...string) (map[string]json.RawMessage, error) {
	fields, seen := map[string]json.RawMessage{}, map[string]bool{}
	if !json.Valid(data) {
		return fields, nil // nobody reads anything in it
	}
	decoder := json.NewDecoder(bytes.NewReader(data))
	if start, err := decoder.Token(); err != nil || start != json.Delim('{') {
		return fields, err
	}
	for decoder.More() {
		token, err := decoder.Token()
		if err != nil {
			return nil, err
		}
		name, _ := token.(string)
		var value json.RawMessage
		if err := decoder.Decode(&value); err != nil {
			return nil, err
		}
		at := slices.IndexFunc(wanted, func(one string) bool { return strings.EqualFold(one, name) })
		if at < 0 {
			continue
		}
		isObject := name == orderField && value[0] == '{'
		isText := name != orderField && value[0] == '"'
		isNone := string(value) == "null" && name == orderField
		if name != wanted[at] || seen[name] || !isObject && !isText && !isNone {
			return nil, fmt.Errorf("its field %s is there twice, or is none", wanted[at])
		}
		seen[name] = true
		if !isNone && string(value) != `""` {
			fields[name] = value
		}
	}
	return fields, nil
}

func texts(fields map[string]json.RawMessage) (all []string) {
	for _, name := range slices.Sorted(maps.Keys(fields)) {
		var text string
		if json.Unmarshal(fields[name], &text) == nil { // which it is, as its first byte says
			all = append(all, text)
		}
	}
	return all
}

// namedIn are the keys that a document names, under the names that they are kept by: all that look like one, wherever they stand, so that no
// key is taken from a document that nobody understands.
func namedIn(name string, data []byte) (names []string) {
	if !holdsKeys(name) {
		return nil
	}
	for _, found := range references.FindAll(data, -1) {
		names = append(names, keyName(name, string(found)))
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
	for _, field := range []string{keyField, nextKeyField} {
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
		at, _, err := own.folder(ctx)
		return at.Folder, err
	}
	return "", nil
}

// AcceptLostKeys has the place where keys are kept apart count as that of the deployment, although none of them is there: those that documents
// name are lost from then on. This store is the one which removes keys there that it does not name. Where they are there nothing else changes.
func AcceptLostKeys(ctx context.Context, store Store) error {
	_, _, err := store.Read(ctx, folderDocument) // which opens it, and so may say that it cannot be read
	if own := changeable(store); own != nil && (err == nil || errors.Is(err, ErrNotFound)) {
		return own.acceptLoss(ctx)
	}
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// OwnsKeys tells whether a store removes keys that it does not name from where they are kept apart: nil when it does, or keeps none there.
func OwnsKeys(ctx context.Context, store Store) error {
	own := keysApart(store)
	if own == nil {
		return nil
	}
	at, _, err := own.folder(ctx)
	if err != nil || at.Folder == "" {
		return err
	}
	return own.isOurs(ctx, at)
}

// RemoveKeys removes every private key of a deployment from where keys are kept apart, and returns how many: its documents name keys then that
// nobody has.
func RemoveKeys(ctx context.Context, store Store) (removed int, err error) {
	if own := changeable(store); own != nil {
		return own.removeAll(ctx)
	}
	return 0, nil
}

// keepKeys is a document for a store as it is kept there: with what names its keys, when those are kept apart. A rehearsal keeps none.
func keepKeys(ctx context.Context, store Store, name string, data []byte) ([]byte, error) {
	if own := changeable(store); own != nil {
		return own.putKeys(ctx, name, data)
	}
	return data, nil
}

// changeable is keysApart for who changes keys: nil where a rehearsal stands between.
func changeable(store Store) *KeysApart {
	for store != nil {
		switch one := store.(type) {
		case apart:
			return one.self()
		case *Overlay:
			return nil
		case Layer:
			store = one.Below()
		default:
			return nil
		}
	}
	return nil
}

// SweepKeys removes keys below a folder of documents that no document names: those of runs that were killed between a key and its document,
// or could not remove them. Those put within the last day are left where isYoungKept is set: a document that is going to name one is written
// within seconds, under a lock that is lost long before. The caller holds the lock for what is in the folder.
func SweepKeys(ctx context.Context, store Store, folder string, isYoungKept bool) error {
	if own := changeable(store); own != nil {
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
	keys, err := keysIn(name, data)
	if err != nil {
		return nil, "", err
	}
	for _, named := range keys {
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
	if keys, err = keysIn(name, data); err != nil {
		return nil, "", err
	}
	if slices.ContainsFunc(keys, IsKeptApart) { // it was written by somebody else, with other spaces
		return nil, "", damaged(name, "the key that it names cannot take its place")
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
