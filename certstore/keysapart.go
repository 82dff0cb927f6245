package certstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"maascert/internal/hint"
)

// KeyKeeper keeps private keys apart from the documents that name them, such as HashiCorp Vault. A key has a name like a
// document's, and is never changed.
type KeyKeeper interface {
	// Put keeps a key under a name of its own. The same key again is no error, another one under that name is ErrOtherKey.
	Put(ctx context.Context, name string, key []byte) error
	// Get returns a key; ErrNotFound when it is certain that there is none.
	Get(ctx context.Context, name string) ([]byte, error)
	// Delete removes a key, and all that is known of it; one that does not exist is no error.
	Delete(ctx context.Context, name string) error
	// List returns the keys whose names are one part longer than folder, by their last parts, and the last parts of folders.
	List(ctx context.Context, folder string) (keys []string, folders []string, err error)
	// Age is how long ago a key was put, by the keeper's clock alone; ErrNotFound when it is certain that there is none.
	Age(ctx context.Context, name string) (time.Duration, error)
	// Ready tells without changing anything whether keys can be put, had, listed and deleted now.
	Ready(ctx context.Context) error
}

var (
	// ErrKeysAway says that who keeps the private keys cannot be asked now, or refuses; most often that passes.
	ErrKeysAway = errors.New("the private keys cannot be had")
	// ErrKeyLost says that a private key is not where keys are kept, although others of the deployment are: it was deleted there.
	ErrKeyLost = errors.New("the private key is not kept any more")
	// ErrOtherKey says that another key is kept under a name.
	ErrOtherKey = errors.New("another private key is kept there")
)

// lostAfter is how old a key is at least that may count as lost.
const lostAfter = time.Hour

// NotYetLost is an error about a key, and ErrKeysAway in place of ErrKeyLost when that key was made less than an hour ago: who keeps keys may have
// several servers, of which one does not know yet what is new.
func NotYetLost(err error, made, now time.Time) error {
	if errors.Is(err, ErrKeyLost) && now.Sub(made) < lostAfter {
		return hint.Add(fmt.Errorf("%w: one that is less than an hour old is not there (yet?)", ErrKeysAway), "it is waited for until then; where it is gone for good: maascert renew --force --accept keys-lost")
	}
	return err
}

// KeysApart is a store whose documents hold no private key. Each is kept by a KeyKeeper before the document that names it is written,
// and removed after the document that names it no more. Reading asks nobody for a key: what names one is read as it stands there, and
// KeyText has the key itself. A document that holds a key itself is refused: whoever may write it elsewhere chooses no keys.
//
// Deployments may share one place for keys: each has a folder of its own there, whose name the document "keys" tells.
type KeysApart struct {
	Store
	keys  KeyKeeper
	named *namings
}

var (
	_ Store    = (*KeysApart)(nil)
	_ Gatherer = (*KeysApart)(nil)
	_ Watcher  = (*KeysApart)(nil)
)

// NewKeysApart keeps the keys of a store's documents elsewhere.
func NewKeysApart(base Store, keys KeyKeeper) *KeysApart {
	return &KeysApart{Store: base, keys: keys, named: &namings{seen: map[string]naming{}}}
}

// namings are what documents were seen to name last, so that one which is replaced need not be read again.
type namings struct {
	mu   sync.Mutex
	seen map[string]naming // by document
}

// naming is what a document in one state names.
type naming struct {
	revision Revision
	keys     []string // names of its keys
}

func (n *namings) sees(name string, data []byte, revision Revision) {
	if !holdsKeys(name) {
		return
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.seen[name] = naming{revision, namedIn(name, data)}
}

func (n *namings) forgets(name string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.seen, name)
}

func (n *namings) of(name string) naming {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[name]
}

// folderDocument names the document that tells in which folder the keys of a deployment are.
const folderDocument = "keys"

// keyFolder is that document. Generation is another one with each sweep: of stores with the same folder, such as a copy of a database and its
// original, only the one that swept last may remove keys.
type keyFolder struct {
	V          int    `json:"v"`
	Folder     string `json:"folder"`
	Generation string `json:"generation"`
}

var randomName = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// mark is kept beside the keys of a deployment. While it is there, a key that is not is lost; without it, nobody looks at the right place. What
// is kept below generations says whose the folder is.
const (
	mark        = "deployment"
	generations = "generation"
	markText    = "maascert keeps the private keys of one deployment here"
)

func (f keyFolder) mark() string       { return f.Folder + "/" + mark }
func (f keyFolder) generation() string { return f.Folder + "/" + generations + "/" + f.Generation }

// folder is where the keys of this deployment are; an empty one: none was ever kept.
func (s *KeysApart) folder(ctx context.Context) (at keyFolder, revision Revision, err error) {
	revision, err = load(ctx, s.Store, folderDocument, &at, func() int { return at.V })
	if err == nil && revision != "" && !(randomName.MatchString(at.Folder) && randomName.MatchString(at.Generation)) {
		err = damaged(folderDocument, "it names no folder")
	}
	return at, revision, err
}

// knownFolder is folder, which has to be there: a document names a key in it.
func (s *KeysApart) knownFolder(ctx context.Context) (keyFolder, error) {
	at, _, err := s.folder(ctx)
	if err == nil && at.Folder == "" {
		err = hint.Add(fmt.Errorf("%w: the store has lost the document %q, which tells where they are", ErrKeysAway, folderDocument),
			"restore it from a copy of the store; where there is none: maascert renew --force --accept keys-lost, which orders with other keys")
	}
	return at, err
}

// ownFolder is folder for the key of a document, which is made where there is none.
func (s *KeysApart) ownFolder(ctx context.Context, document string) (keyFolder, error) {
	at, _, err := s.folder(ctx)
	if err != nil || at.Folder != "" {
		return at, err
	}
	if isNamed, err := s.namesKeys(ctx, document); err != nil {
		return at, err
	} else if isNamed {
		return s.knownFolder(ctx)
	}
	return s.makeFolder(ctx)
}

// makeFolder makes one, unless another host is faster.
func (s *KeysApart) makeFolder(ctx context.Context) (at keyFolder, err error) {
	made := keyFolder{format, rand.Text(), rand.Text()}
	for _, name := range []string{made.mark(), made.generation()} {
		if err := s.keys.Put(ctx, name, []byte(markText)); err != nil {
			return at, err
		}
	}
	_, failure := save(ctx, s.Store, folderDocument, made, "")
	if failure == nil {
		return made, nil
	}
	at, _, err = s.folder(ctx)
	if err == nil && at.Folder != made.Folder {
		// Another host was faster, or nothing was written: nobody will ever look there.
		for _, name := range []string{made.generation(), made.mark()} {
			_ = s.keys.Delete(ctx, name)
		}
	}
	if errors.Is(failure, ErrConflict) {
		return at, err
	}
	return at, failure
}

// namesKeys tells whether any document names a key: of the account, and of certificates that have a record, or are those of a document.
func (s *KeysApart) namesKeys(ctx context.Context, document string) (bool, error) {
	names := []string{"account"}
	certs, err := s.Store.List(ctx, "state")
	if parts := strings.Split(document, "/"); len(parts) > 1 {
		certs = append(certs, parts[1])
	}
	slices.Sort(certs)
	for _, cert := range slices.Compact(certs) {
		names = append(names, "state/"+cert)
		numbers, failure := s.Store.List(ctx, "versions/"+cert)
		for _, number := range numbers {
			names = append(names, "versions/"+cert+"/"+number)
		}
		err = errors.Join(err, failure)
	}
	for _, name := range names {
		data, _, failure := s.Store.Read(ctx, name)
		if len(namedIn(name, data)) > 0 {
			return true, nil
		}
		if !errors.Is(failure, ErrNotFound) {
			err = errors.Join(err, failure)
		}
	}
	return false, err
}

// isMarked tells whether keys are looked for at the right place.
func (s *KeysApart) isMarked(ctx context.Context, at keyFolder) error {
	_, err := s.keys.Get(ctx, at.mark())
	if errors.Is(err, ErrNotFound) {
		return hint.Add(fmt.Errorf("%w: nothing of this deployment is kept there", ErrKeysAway), "do the address, namespace, mount and path of store.seal's vault name the place where they were kept? Where they are gone for good: maascert renew --force --accept keys-lost, which orders with other keys")
	}
	return err
}

// acceptLoss marks the place anew, as the deployment's and as this store's. Where the document that tells of it is lost as well, there is another
// place, and nothing in it.
func (s *KeysApart) acceptLoss(ctx context.Context) error {
	at, _, err := s.folder(ctx)
	if err != nil {
		return err
	}
	if at.Folder == "" {
		_, err := s.makeFolder(ctx)
		return err
	}
	return errors.Join(s.keys.Put(ctx, at.mark(), []byte(markText)), s.keys.Put(ctx, at.generation(), []byte(markText)))
}

// errNotOurs says that keys may be those of another copy of the store.
var errNotOurs = errors.New("private keys that nobody names any more stay where they are: what says that it is this store which removes them is not there")

// isOurs tells whether keys may be removed. What another copy of the store still names is not to be removed by this one.
func (s *KeysApart) isOurs(ctx context.Context, at keyFolder) error {
	_, err := s.keys.Get(ctx, at.generation())
	if errors.Is(err, ErrNotFound) {
		var now keyFolder
		if now, _, err = s.folder(ctx); err == nil && now.Generation != at.Generation { // another host swept meanwhile
			_, err = s.keys.Get(ctx, now.generation())
		} else if err == nil {
			err = ErrNotFound
		}
	}
	if errors.Is(err, ErrNotFound) {
		return hint.Add(errNotOurs, "is this store a copy of another one, which goes on? Then maascert store copy gives it keys of its own. Was it, or where its keys are kept, restored from an older copy? Then maascert renew --accept keys-lost")
	}
	return err
}

// ready tells whether keys can be put and had now, and whether those of this deployment are there.
func (s *KeysApart) ready(ctx context.Context) error {
	if err := s.keys.Ready(ctx); err != nil {
		return err
	}
	at, _, err := s.folder(ctx)
	if err != nil || at.Folder != "" {
		if err == nil {
			err = s.isMarked(ctx, at)
		}
		return err
	}
	if data, _, err := s.Store.Read(ctx, "account"); err == nil && len(namedIn("account", data)) > 0 {
		_, err = s.knownFolder(ctx)
		return err
	}
	return nil
}

// Read returns a document with what names its keys.
func (s *KeysApart) Read(ctx context.Context, name string) ([]byte, Revision, error) {
	data, revision, err := s.Store.Read(ctx, name)
	if err != nil {
		return nil, "", err
	}
	if err := checkNames(name, data); err != nil {
		return nil, "", err
	}
	s.named.sees(name, data, revision)
	return data, revision, nil
}

// checkNames refuses a document that holds a key itself.
func checkNames(name string, data []byte) error {
	keys, err := keysIn(name, data)
	if err == nil && slices.ContainsFunc(keys, func(key string) bool { return !IsKeptApart(key) }) {
		err = hint.Add(fmt.Errorf("store: %s does not name its private key, and keys are kept apart", name),
			"was it written before they were? maascert store copy brings a store's keys there; else find out who wrote it")
	}
	return err
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
	s.named.sees(name, data, revision)
	still := namedIn(name, data)
	// What cannot be removed now is swept away later.
	_ = s.remove(ctx, slices.DeleteFunc(former, func(key string) bool { return slices.Contains(still, key) }))
	return revision, nil
}

// putKeys is a document whose keys are kept, and named in it.
func (s *KeysApart) putKeys(ctx context.Context, name string, data []byte) ([]byte, error) {
	keys, err := keysIn(name, data)
	if err != nil {
		return nil, err
	}
	for _, text := range keys {
		if IsKeptApart(text) {
			continue
		}
		key, err := ParseKey([]byte(text))
		if err != nil {
			return nil, fmt.Errorf("store: %s: %w", name, err)
		}
		named, err := referenceTo(key.Public())
		if err != nil {
			return nil, fmt.Errorf("store: %s: %w", name, err)
		}
		at, err := s.ownFolder(ctx, name)
		if err == nil {
			err = s.keys.Put(ctx, at.Folder+"/"+keyName(name, named), []byte(text))
		}
		if err != nil {
			return nil, fmt.Errorf("store: the private key of %s: %w", name, err)
		}
		if data, err = replaced(data, text, named); err != nil {
			return nil, err
		}
	}
	return data, checkNames(name, data)
}

// formerKeys are those that the document which is to be replaced names.
func (s *KeysApart) formerKeys(ctx context.Context, name string, prev Revision) ([]string, error) {
	if prev == "" || !holdsKeys(name) {
		return nil, nil
	}
	if seen := s.named.of(name); seen.revision == prev {
		return slices.Clone(seen.keys), nil
	}
	data, revision, err := s.Store.Read(ctx, name)
	if errors.Is(err, ErrNotFound) || err == nil && revision != prev {
		return nil, fmt.Errorf("store: %s: %w", name, ErrConflict)
	}
	return namedIn(name, data), err
}

// removeTime is how long the removal of keys may take that nobody names any more.
const removeTime = 10 * time.Second

// remove removes keys of this deployment.
func (s *KeysApart) remove(ctx context.Context, names []string) error {
	if len(names) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, removeTime)
	defer cancel()
	at, err := s.knownFolder(ctx)
	if err == nil {
		err = s.isOurs(ctx, at)
	}
	for _, name := range names {
		if err == nil {
			err = s.keys.Delete(ctx, at.Folder+"/"+name)
		}
	}
	if errors.Is(err, errNotOurs) {
		return nil // they stay for whoever names them
	}
	return err
}

// removeAll removes every key of the deployment, and the marks last, so that it can be done again where it ended early. It returns how many.
func (s *KeysApart) removeAll(ctx context.Context) (removed int, err error) {
	at, _, err := s.folder(ctx)
	if err != nil || at.Folder == "" {
		return 0, err
	}
	_, folders, err := s.keys.List(ctx, at.Folder)
	if err != nil || len(folders) == 0 {
		return 0, err // the last of the marks is in one
	}
	if err := s.isOurs(ctx, at); err != nil {
		return 0, err
	}
	for _, folder := range folders {
		if folder == generations {
			continue
		}
		n, err := s.removeBelow(ctx, at.Folder+"/"+folder, 2)
		if removed += n; err != nil {
			return removed, err
		}
	}
	for _, name := range []string{at.mark(), at.generation()} {
		if err := s.keys.Delete(ctx, name); err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// removeBelow removes the keys of a folder, and of so many levels of folders below it: versions/maas/1 has its own.
func (s *KeysApart) removeBelow(ctx context.Context, folder string, levels int) (removed int, err error) {
	keys, folders, err := s.keys.List(ctx, folder)
	if err != nil {
		return 0, err
	}
	for _, key := range keys {
		if err := s.keys.Delete(ctx, folder+"/"+key); err != nil {
			return removed, err
		}
		removed++
	}
	if levels == 0 {
		return removed, nil
	}
	for _, below := range folders {
		n, err := s.removeBelow(ctx, folder+"/"+below, levels-1)
		if removed += n; err != nil {
			return removed, err
		}
	}
	return removed, nil
}

// Delete removes a document, and then the keys that it names. When they cannot be removed now it says so, and they are swept away later.
func (s *KeysApart) Delete(ctx context.Context, name string) error {
	var named []string
	if holdsKeys(name) {
		data, _, err := s.Store.Read(ctx, name)
		if err == nil {
			named = namedIn(name, data) // what cannot be read names nothing that anybody could find
		}
	}
	if err := s.Store.Delete(ctx, name); err != nil {
		return err
	}
	s.named.forgets(name)
	return s.remove(ctx, named)
}

// openKey is the key that a document names.
func (s *KeysApart) openKey(ctx context.Context, document, named string) (string, error) {
	at, err := s.knownFolder(ctx)
	if err != nil {
		return "", err
	}
	name := at.Folder + "/" + keyName(document, named)
	text, err := s.keys.Get(ctx, name)
	if errors.Is(err, ErrNotFound) {
		if _, again := s.keys.Age(ctx, name); again == nil { // a word that may cost an order is asked for twice
			err = fmt.Errorf("%w: one of them is there, and was not given", ErrKeysAway)
		}
	}
	if err != nil {
		return "", s.without(ctx, at, document, err)
	}
	key, err := ParseKey(text)
	is := ""
	if err == nil {
		is, err = referenceTo(key.Public())
	}
	if err != nil || is != named {
		return "", hint.Add(fmt.Errorf("store: what is kept as the private key of %s: %w", document, ErrOtherKey),
			"somebody else wrote to %s, below the path of store.seal: remove it there, with its metadata, and the next pass makes up for it", name)
	}
	return string(text), nil
}

func (s *KeysApart) checkKey(ctx context.Context, document, named string) error {
	at, err := s.knownFolder(ctx)
	if err != nil {
		return err
	}
	name := at.Folder + "/" + keyName(document, named)
	if _, err = s.keys.Age(ctx, name); errors.Is(err, ErrNotFound) {
		_, err = s.keys.Get(ctx, name) // as openKey does
	}
	if err != nil {
		return s.without(ctx, at, document, err)
	}
	return nil
}

// without says why a key could not be had. That it is not there counts only where the others are.
func (s *KeysApart) without(ctx context.Context, at keyFolder, document string, err error) error {
	if errors.Is(err, ErrNotFound) {
		err = ErrKeyLost
		if elsewhere := s.isMarked(ctx, at); elsewhere != nil {
			err = elsewhere
		}
	}
	return fmt.Errorf("store: the private key of %s: %w", document, err)
}

// Bounds of a sweep.
const (
	sweepAge  = 24 * time.Hour // how old a key is that is swept away while others may be about to name theirs
	sweepTime = time.Minute
	mostSwept = 200 // keys that are looked at
)

// sweep looks into a folder of documents, and into those of versions one level below.
func (s *KeysApart) sweep(ctx context.Context, below string, isYoungKept bool) error {
	ctx, cancel := context.WithTimeout(ctx, sweepTime)
	defer cancel()
	at, revision, err := s.folder(ctx)
	if err != nil || at.Folder == "" {
		return err
	}
	if err := s.isOurs(ctx, at); err != nil {
		return err
	}
	if at, err = s.nextGeneration(ctx, at, revision); err != nil {
		return err
	}
	documents := []string{below}
	if strings.HasPrefix(below, "versions/") {
		_, folders, err := s.keys.List(ctx, at.Folder+"/"+below)
		if err != nil {
			return err
		}
		documents = nil
		for _, number := range folders[:min(len(folders), mostSwept)] {
			if _, err := strconv.Atoi(number); err == nil {
				documents = append(documents, below+"/"+number)
			}
		}
	}
	left := mostSwept
	for _, document := range documents {
		if err := s.sweepKeysOf(ctx, at, document, isYoungKept, &left); err != nil {
			return err
		}
	}
	return nil
}

// nextGeneration takes the folder anew, so that other copies of the store remove nothing from then on.
func (s *KeysApart) nextGeneration(ctx context.Context, at keyFolder, revision Revision) (keyFolder, error) {
	next := keyFolder{at.V, at.Folder, rand.Text()}
	if err := s.keys.Put(ctx, next.generation(), []byte(markText)); err != nil {
		return at, err
	}
	if _, err := save(ctx, s.Store, folderDocument, next, revision); err != nil {
		if errors.Is(err, ErrConflict) { // another host sweeps
			_ = s.keys.Delete(ctx, next.generation())
		}
		return at, err
	}
	return next, s.keys.Delete(ctx, at.generation())
}

// sweepKeysOf removes the keys of one document that it does not name.
func (s *KeysApart) sweepKeysOf(ctx context.Context, at keyFolder, document string, isYoungKept bool, left *int) error {
	keys, _, err := s.keys.List(ctx, at.Folder+"/"+document)
	if err != nil {
		return err
	}
	named := func() ([]string, error) {
		data, _, err := s.Store.Read(ctx, document)
		if errors.Is(err, ErrNotFound) {
			err = nil
		}
		return namedIn(document, data), err
	}
	before, err := named()
	if err != nil {
		return err
	}
	for _, key := range keys {
		name := document + "/" + key
		if !IsKeptApart(referenceMark+key) || slices.Contains(before, name) || *left <= 0 {
			continue
		}
		*left--
		age, err := s.keys.Age(ctx, at.Folder+"/"+name)
		isDeleted := errors.Is(err, ErrNotFound) // by somebody, who left what is known of it
		if err != nil && !isDeleted {
			return err
		}
		if !isDeleted && age < sweepAge && isYoungKept {
			continue
		}
		now, err := named() // by somebody who was about to
		if err != nil {
			return err
		}
		if !slices.Contains(now, name) {
			if err := s.keys.Delete(ctx, at.Folder+"/"+name); err != nil {
				return err
			}
		}
	}
	return nil
}

// Gather reads ahead, where that is faster. A document that holds a key itself is read by itself, and refused then.
func (s *KeysApart) Gather(ctx context.Context, wanted Wanted) (Gathered, error) {
	gatherer, isFaster := s.Store.(Gatherer)
	if !isFaster {
		return Gathered{}, errors.ErrUnsupported
	}
	gathered, err := gatherer.Gather(ctx, wanted)
	for name, one := range maps.Clone(gathered.Documents) {
		if checkNames(name, one.Data) != nil {
			gathered.Documents[name] = Document{}
			continue
		}
		s.named.sees(name, one.Data, one.Revision)
	}
	return gathered, err
}

// Lock takes a lock; the keys of what is written under it are kept apart.
func (s *KeysApart) Lock(ctx context.Context, name string) (*Held, error) {
	held, err := s.Store.Lock(ctx, name)
	if err != nil {
		return nil, err
	}
	held.Store = &KeysApart{Store: held.Store, keys: s.keys, named: s.named}
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
