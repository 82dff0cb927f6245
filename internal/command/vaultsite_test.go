//go:build vault || faults

package command

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore/vaultkeys"
	"maascert/certstore/vaultkeys/vaulttest"
)

// openVault opens the keys that maascert has in a Vault, as its role.
func openVault(t *testing.T, vault *vaulttest.Server) *vaultkeys.Keys {
	t.Helper()
	keys, err := vaultkeys.New(vaultkeys.Config{
		Address: vault.Address, Mount: vaulttest.Mount, Path: vaulttest.Path, AppRole: "approle", Roots: vault.Roots, Dial: new(net.Dialer).DialContext, Now: time.Now,
		RoleID: func() (string, error) { return vault.RoleID, nil }, SecretID: func() (string, error) { return vault.SecretID(), nil },
	})
	require.NoError(t, err)
	t.Cleanup(keys.Close)
	return keys
}

// keysInVault is a store in a site's configuration, which begins as given, with its keys in a Vault that is reached at an address.
func keysInVault(t *testing.T, s *site, vault *vaulttest.Server, address, store string) string {
	t.Helper()
	for name, text := range map[string]string{"role_id": vault.RoleID, "secret_id": vault.SecretID(), "vault_ca.pem": string(vault.RootPEM)} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	return fmt.Sprintf("store: %sseal: {vault: {address: %q, root: vault_ca.pem, role_id: \"file:role_id\", secret_id: \"file:secret_id\"}}}\n", store, address)
}
