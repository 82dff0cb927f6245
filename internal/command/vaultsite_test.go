//go:build e2e || faults

package command

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/certstore/vaultkeys/vaulttest"
)

// keysInVault is a store in a site's configuration, which begins as given, with its keys in a Vault that is reached at an address.
func keysInVault(t *testing.T, s *site, vault *vaulttest.Server, address, store string) string {
	t.Helper()
	for name, text := range map[string]string{"role_id": vault.RoleID, "secret_id": vault.SecretID(), "vault_ca.pem": string(vault.RootPEM)} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	return fmt.Sprintf("store: %sseal: {vault: {address: %q, root: vault_ca.pem, role_id: \"file:role_id\", secret_id: \"file:secret_id\"}}}\n", store, address)
}
