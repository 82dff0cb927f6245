package certstore

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
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

func (n *namings) of(name string) naming {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.seen[name]
}

// folderDocument names the document that tells in which folder the keys of a deployment are.
const folderDocument = "keys"

// keyFolder is that document.
type keyFolder struct {
	V      int    `json:"v"`
	Folder string `json:"folder"`
}

var keyFolders = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// mark is kept beside the keys of a deployment. While it is there, a key that is not is lost; without it, nobody looks at the right place.
const (
	mark     = "deployment"
	markText = "maascert keeps the private keys of one deployment here"
)

// folder is where the keys of this deployment are; empty: none was ever kept.
func (s *KeysApart) folder(ctx context.Context) (string, error) {
	var at keyFolder
	revision, err := load(ctx, s.Store, folderDocument, &at, func() int { return at.V })
	if err == nil && revision != "" && !keyFolders.MatchString(at.Folder) {
		err = damaged(folderDocument, "it names no folder")
	}
	return at.Folder, err
}

// ownFolder is folder, which is made where there is none.
func (s *KeysApart) ownFolder(ctx context.Context) (string, error) {
	folder, err := s.folder(ctx)
	if err != nil || folder != "" {
		return folder, err
	}
	folder = rand.Text()
	if err := s.keys.Put(ctx, folder+"/"+mark, []byte(markText)); err != nil {
		return "", err
	}
	_, err = save(ctx, s.Store, folderDocument, keyFolder{format, folder}, "")
	if !errors.Is(err, ErrConflict) {
		return folder, err
	}
	// Another host was faster. What is left of this one's try harms nobody.
	_ = s.keys.Delete(ctx, folder+"/"+mark)
	return s.folder(ctx)
}

// isMarked tells whether keys are looked for at the right place.
func (s *KeysApart) isMarked(ctx context.Context, folder string) error {
	_, err := s.keys.Get(ctx, folder+"/"+mark)
	if errors.Is(err, ErrNotFound) {
		return hint.Add(fmt.Errorf("%w: nothing of this deployment is kept there", ErrKeysAway), "do the address, namespace, mount and path of store.seal's vault name the place where they were kept?")
	}
	return err
}

// ready tells whether keys can be put and had now, and whether those of this deployment are there.
func (s *KeysApart) ready(ctx context.Context) error {
	if err := s.keys.Ready(ctx); err != nil {
		return err
	}
	folder, err := s.folder(ctx)
	if err != nil || folder == "" {
		return err
	}
	return s.isMarked(ctx, folder)
}

// Writable asks the store, and whether keys can be put: what is written most often names one.
func (s *KeysApart) Writable(ctx context.Context) error {
	return errors.Join(s.Store.Writable(ctx), s.ready(ctx))
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
	if slices.ContainsFunc(keysIn(name, data), func(key string) bool { return !IsKeptApart(key) }) {
		return hint.Add(fmt.Errorf("store: %s does not name its private key, and keys are kept apart", name),
			"was it written before they were? maascert store copy brings a store's keys there; else find out who wrote it")
	}
	return nil
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
	for _, text := range keysIn(name, data) {
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
		folder, err := s.ownFolder(ctx)
		if err == nil {
			err = s.keys.Put(ctx, folder+"/"+keyName(name, named), []byte(text))
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
	folder, err := s.folder(ctx)
	for _, name := range names {
		if err == nil {
			err = s.keys.Delete(ctx, folder+"/"+name)
		}
	}
	return err
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
	return s.remove(ctx, named)
}

// openKey is the key that a document names.
func (s *KeysApart) openKey(ctx context.Context, document, named string) (string, error) {
	folder, err := s.folder(ctx)
	if err != nil {
		return "", err
	}
	text, err := s.keys.Get(ctx, folder+"/"+keyName(document, named))
	if err != nil {
		return "", s.without(ctx, folder, document, err)
	}
	key, err := ParseKey(text)
	if err != nil {
		return "", fmt.Errorf("store: the private key of %s: %w", document, err)
	}
	if is, err := referenceTo(key.Public()); err != nil || is != named {
		return "", fmt.Errorf("store: what is kept as the private key of %s: %w", document, ErrOtherKey)
	}
	return string(text), nil
}

func (s *KeysApart) checkKey(ctx context.Context, document, named string) error {
	folder, err := s.folder(ctx)
	if err != nil {
		return err
	}
	if _, err := s.keys.Age(ctx, folder+"/"+keyName(document, named)); err != nil {
		return s.without(ctx, folder, document, err)
	}
	return nil
}

// without says why a key could not be had. That it is not there counts only where the others are.
func (s *KeysApart) without(ctx context.Context, folder, document string, err error) error {
	if errors.Is(err, ErrNotFound) {
		err = ErrKeyLost
		if elsewhere := s.isMarked(ctx, folder); elsewhere != nil {
			err = elsewhere
		}
	}
	return fmt.Errorf("store: the private key of %s: %w", document, err)
}

// sweepAge is how old a key is that is swept away while others may be about to name theirs.
const sweepAge = 24 * time.Hour

func (s *KeysApart) sweep(ctx context.Context, below string, isYoungKept bool) error {
	folder, err := s.folder(ctx)
	if err != nil || folder == "" {
		return err
	}
	keys, folders, err := s.keys.List(ctx, folder+"/"+below)
	if err != nil {
		return err
	}
	var named []string
	if len(keys) > 0 {
		data, _, err := s.Store.Read(ctx, below)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		named = namedIn(below, data)
	}
	var failures []error
	for _, key := range keys {
		name := below + "/" + key
		if slices.Contains(named, name) {
			continue
		}
		age, err := s.keys.Age(ctx, folder+"/"+name)
		if err == nil && (age >= sweepAge || !isYoungKept) {
			err = s.keys.Delete(ctx, folder+"/"+name)
		}
		if !errors.Is(err, ErrNotFound) {
			failures = append(failures, err)
		}
	}
	for _, one := range folders {
		failures = append(failures, s.sweep(ctx, below+"/"+one, isYoungKept))
	}
	return errors.Join(failures...)
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
