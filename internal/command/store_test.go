package command

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/storetest"
	"maascert/internal/config"
	"maascert/internal/world"
)

// watched is a store that tells at once of what others write.
type watched struct{ certstore.Store }

func (watched) Watch(_ context.Context, changed func()) { changed() }

// late makes a store that can be opened from the second time on.
func late(store certstore.Store) *lateStore {
	tries := 0
	return &lateStore{isOpen: make(chan struct{}), open: func(context.Context) (certstore.Store, error) {
		if tries++; tries == 1 {
			return nil, errors.New("not mounted yet")
		}
		return store, nil
	}}
}

func TestAStoreThatIsOpenedLateIsLikeAnyOther(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b certstore.Store) {
		dir := filepath.Join(t.TempDir(), "store")
		stores := []certstore.Store{late(certstore.NewFileStore(world.OS{}, dir)), late(certstore.NewFileStore(world.OS{}, dir))}
		for _, store := range stores {
			require.ErrorContains(t, store.Writable(t.Context()), "not mounted yet")
		}
		return stores[0], stores[1]
	})
}

func TestAStoreThatIsOpenedLateIsWatchedFromThen(t *testing.T) {
	t.Parallel()
	store := late(watched{certstore.NewOverlay(nil)})
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	store.Watch(ended, func() { t.Error("it is not open yet") })
	told := make(chan struct{})
	go store.Watch(t.Context(), func() { close(told) })
	_, err := store.List(t.Context(), "state")
	require.ErrorContains(t, err, "not mounted yet")
	_, err = store.List(t.Context(), "state")
	require.NoError(t, err)
	<-told
	store.Close()
}

// A daemon that started before the URL of its database could be read is not without a store until somebody reloads it.
func TestTheDatabaseIsLookedForAgain(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	path := filepath.Join(dir, "maascert.yaml")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "seal"), []byte("a seal of this test that is long enough"), 0o600))
	require.NoError(t, os.WriteFile(path, []byte(`
acme: {directory: letsencrypt, accept_terms: true}
certificates: [{name: maas, names: [maas.example.com]}]
store: {type: postgres, url: "file:database.url", seal: "file:seal"}
`), 0o600))
	a := testApp(world.OS{})
	config, err := config.Load(path, a.types)
	require.NoError(t, err)
	store := a.openStore(config)
	defer closeStore(store)
	_, _, err = store.Read(t.Context(), "state/maas")
	require.ErrorContains(t, err, "database.url")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "database.url"), []byte("postgres://maascert@127.0.0.1:1/maascert"), 0o600))
	_, _, err = store.Read(t.Context(), "state/maas")
	require.ErrorContains(t, err, "127.0.0.1:1")
}
