//go:build e2e && vault

package postgres_test

import (
	"fmt"
	"net"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/storetest"
	"maascert/certstore/vaultkeys"
	"maascert/certstore/vaultkeys/vaulttest"
)

func TestADatabaseWithItsKeysInVault(t *testing.T) {
	server, vault := postgrestest.Start(t), vaulttest.Start(t, time.Hour)
	var n atomic.Int32
	t.Run("store", func(t *testing.T) {
		storetest.Run(t, func(t *testing.T) (certstore.Store, certstore.Store) {
			address := server.Database(fmt.Sprintf("d%d", n.Add(1)))
			apart := func(node string) certstore.Store {
				keys, err := vaultkeys.New(vaultkeys.Config{
					Address: vault.Address, Mount: vaulttest.Mount, Path: vaulttest.Path, AppRole: "approle", Roots: vault.Roots, Dial: new(net.Dialer).DialContext, Now: time.Now,
					RoleID: func() (string, error) { return vault.RoleID, nil }, SecretID: func() (string, error) { return vault.SecretID(), nil },
				})
				require.NoError(t, err)
				t.Cleanup(keys.Close)
				return certstore.NewKeysApart(open(t, address, node), keys)
			}
			return apart("region1"), apart("region2")
		})
	})
	for i := range n.Load() {
		require.NotContains(t, server.Dump(fmt.Sprintf("d%d", i+1)), "PRIVATE KEY")
	}
}
