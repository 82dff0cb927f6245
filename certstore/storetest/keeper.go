package storetest

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

// Keeper is a certstore.KeyKeeper that keeps keys in memory, and fails on demand.
type Keeper struct {
	Now func() time.Time

	mu   sync.Mutex
	kept map[string]kept
	away error
	left int // deletions, after which it is away; negative: any number
}

type kept struct {
	key   string
	since time.Time
}

var _ certstore.KeyKeeper = (*Keeper)(nil)

// NewKeeper is an empty one.
func NewKeeper() *Keeper { return &Keeper{Now: time.Now, kept: map[string]kept{}, left: -1} }

// Away makes it fail with an error that says why; nil: it works again.
func (k *Keeper) Away(why error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.away = why
}

// DeletesOnly has it delete so many keys and no more, as if it went away then; negative: as many as are wanted.
func (k *Keeper) DeletesOnly(n int) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.left = n
}

// Names are those of all keys that it keeps, sorted.
func (k *Keeper) Names() (names []string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	for name := range k.kept {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

func (k *Keeper) works() (done func(), err error) {
	k.mu.Lock()
	if k.away != nil {
		defer k.mu.Unlock()
		return nil, fmt.Errorf("%w: %w", certstore.ErrKeysAway, k.away)
	}
	return k.mu.Unlock, nil
}

// Put keeps a key.
func (k *Keeper) Put(_ context.Context, name string, key []byte) error {
	done, err := k.works()
	if err != nil {
		return err
	}
	defer done()
	if have, isThere := k.kept[name]; isThere {
		if have.key != string(key) {
			return fmt.Errorf("%s: %w", name, certstore.ErrOtherKey)
		}
		return nil
	}
	k.kept[name] = kept{string(key), k.Now()}
	return nil
}

// Get returns a key.
func (k *Keeper) Get(_ context.Context, name string) ([]byte, error) {
	done, err := k.works()
	if err != nil {
		return nil, err
	}
	defer done()
	have, isThere := k.kept[name]
	if !isThere {
		return nil, fmt.Errorf("%s: %w", name, certstore.ErrNotFound)
	}
	return []byte(have.key), nil
}

// Delete removes a key.
func (k *Keeper) Delete(_ context.Context, name string) error {
	done, err := k.works()
	if err != nil {
		return err
	}
	defer done()
	if k.left == 0 {
		return fmt.Errorf("%w: it went away", certstore.ErrKeysAway)
	}
	k.left--
	delete(k.kept, name)
	return nil
}

// List lists a folder.
func (k *Keeper) List(_ context.Context, folder string) (keys, folders []string, err error) {
	done, err := k.works()
	if err != nil {
		return nil, nil, err
	}
	defer done()
	for name := range k.kept {
		inside, isBelow := strings.CutPrefix(name, folder+"/")
		first, _, isFolder := strings.Cut(inside, "/")
		switch {
		case !isBelow:
		case isFolder && !slices.Contains(folders, first):
			folders = append(folders, first)
		case !isFolder:
			keys = append(keys, first)
		}
	}
	slices.Sort(keys)
	slices.Sort(folders)
	return keys, folders, nil
}

// Age is how long ago a key was put.
func (k *Keeper) Age(_ context.Context, name string) (time.Duration, error) {
	done, err := k.works()
	if err != nil {
		return 0, err
	}
	defer done()
	have, isThere := k.kept[name]
	if !isThere {
		return 0, fmt.Errorf("%s: %w", name, certstore.ErrNotFound)
	}
	return k.Now().Sub(have.since), nil
}

// Ready tells whether it works.
func (k *Keeper) Ready(context.Context) error {
	done, err := k.works()
	if err == nil {
		done()
	}
	return err
}

// RunKeeper is what every KeyKeeper must do. open returns two that keep keys in the same, empty place, as two processes would.
func RunKeeper(t *testing.T, open func(t *testing.T) (a, b certstore.KeyKeeper)) {
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	var keys [2][]byte
	for i := range keys {
		bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
		require.NoError(t, err)
		keys[i] = bundle.KeyPEM()
	}
	for name, test := range map[string]func(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte){
		"what one puts the other gets":                            keyShared,
		"a key is never changed":                                  keyNeverChanged,
		"a key that is deleted is not found, and can be put anew": keyDeleted,
		"a folder lists its own":                                  keysListed,
		"it is known for how long a key is there":                 keyAge,
		"of many who put at once exactly one key is kept":         keyContended,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			a, b := open(t)
			test(t, a, b, keys)
		})
	}
}

func keyShared(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte) {
	require.NoError(t, a.Put(t.Context(), "versions/maas/1/aa", keys[0]))
	got, err := b.Get(t.Context(), "versions/maas/1/aa")
	require.NoError(t, err)
	require.Equal(t, string(keys[0]), string(got))
	require.NoError(t, b.Ready(t.Context()))
}

func keyNeverChanged(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte) {
	require.NoError(t, a.Put(t.Context(), "account/aa", keys[0]))
	require.NoError(t, b.Put(t.Context(), "account/aa", keys[0]), "the same again")
	require.ErrorIs(t, b.Put(t.Context(), "account/aa", keys[1]), certstore.ErrOtherKey)
	got, err := a.Get(t.Context(), "account/aa")
	require.NoError(t, err)
	require.Equal(t, string(keys[0]), string(got))
}

func keyDeleted(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte) {
	require.NoError(t, a.Put(t.Context(), "state/maas/aa", keys[0]))
	require.NoError(t, b.Delete(t.Context(), "state/maas/aa"))
	require.NoError(t, b.Delete(t.Context(), "state/maas/aa"), "it is gone")
	_, err := a.Get(t.Context(), "state/maas/aa")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	_, err = a.Age(t.Context(), "state/maas/aa")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	require.NoError(t, a.Put(t.Context(), "state/maas/aa", keys[1]))
}

func keysListed(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte) {
	for _, name := range []string{"versions/maas/1/aa", "versions/maas/1/bb", "versions/maas/2/cc", "versions/other/1/dd"} {
		require.NoError(t, a.Put(t.Context(), name, keys[0]))
	}
	listed, folders, err := b.List(t.Context(), "versions/maas/1")
	require.NoError(t, err)
	require.Equal(t, []string{"aa", "bb"}, listed)
	require.Empty(t, folders)
	listed, folders, err = b.List(t.Context(), "versions/maas")
	require.NoError(t, err)
	require.Empty(t, listed)
	require.Equal(t, []string{"1", "2"}, folders)
	listed, folders, err = b.List(t.Context(), "nothing/here")
	require.NoError(t, err)
	require.Empty(t, append(listed, folders...))
}

func keyAge(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte) {
	began := time.Now()
	require.NoError(t, a.Put(t.Context(), "account/aa", keys[0]))
	age, err := b.Age(t.Context(), "account/aa")
	require.NoError(t, err)
	require.GreaterOrEqual(t, age, -time.Second)
	require.LessOrEqual(t, age, time.Since(began)+time.Second) // a Date header counts whole seconds
}

func keyContended(t *testing.T, a, b certstore.KeyKeeper, keys [2][]byte) {
	var won sync.Map
	var group sync.WaitGroup
	for i := range 8 {
		group.Go(func() {
			if []certstore.KeyKeeper{a, b}[i/2%2].Put(t.Context(), "account/aa", keys[i%2]) == nil {
				won.Store(i%2, true)
			}
		})
	}
	group.Wait()
	got, err := a.Get(t.Context(), "account/aa")
	require.NoError(t, err)
	for i := range keys {
		_, is := won.Load(i)
		require.Equal(t, string(got) == string(keys[i]), is)
	}
}
