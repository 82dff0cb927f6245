package certstore_test

import (
	"path/filepath"
	"testing"

	"maascert/certstore"
	"maascert/certstore/storetest"
	"maascert/internal/world"
)

func TestFileStore(t *testing.T) {
	t.Parallel()
	storetest.Run(t, func(t *testing.T) (a, b certstore.Store) {
		dir := filepath.Join(t.TempDir(), "store")
		return certstore.NewFileStore(world.OS{}, dir), certstore.NewFileStore(world.OS{}, dir)
	})
}
