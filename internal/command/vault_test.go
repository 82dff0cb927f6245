//go:build e2e

package command

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore/vaultkeys/vaulttest"
	"maascert/internal/world"
)

// keysIn are the files below a folder that hold a private key.
func filesWithKeys(t *testing.T, dir string) (found []string) {
	t.Helper()
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(path)
		if strings.Contains(string(text), "PRIVATE KEY") {
			found = append(found, path)
		}
		return err
	}))
	return found
}

// With Vault a renewal leaves no key in the store; while Vault is sealed nothing is lost, and the next pass after it goes on.
func TestKeysInVault(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	s := startSite(t)
	for name, text := range map[string]string{"role_id": vault.RoleID, "secret_id": vault.SecretID(), "vault_ca.pem": string(vault.RootPEM)} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	path := filepath.Join(s.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(text, []byte("store: {type: file, seal: {vault: {address: \""+vault.Address+"\", root: vault_ca.pem, role_id: file:role_id, secret_id: file:secret_id}}}\n")...), 0o640))

	code, stdout, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stdout+stderr)
	require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "state")))
	checkTLS(t, s)
	code, stdout, stderr = inSite(t, s, world.OS{}, "status")
	require.Zero(t, code, stdout+stderr)

	vault.Seal()
	code, stdout, stderr = inSite(t, s, world.OS{}, "status")
	t.Logf("status while sealed: %d\n%s%s", code, stdout, stderr)
	code, stdout, stderr = inSite(t, s, world.OS{}, "renew", "--force")
	t.Logf("renew while sealed: %d\n%s%s", code, stdout, stderr)
	require.NotZero(t, code)
	orders := s.ca.Orders()
	vault.Unseal()
	code, stdout, stderr = inSite(t, s, world.OS{}, "renew", "--force")
	require.Zero(t, code, stdout+stderr)
	t.Logf("orders: %d while sealed, %d after", orders, s.ca.Orders())
	require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "state")))
}

func checkTLS(t *testing.T, s *site) {
	t.Helper()
	for _, region := range s.maas.Regions {
		require.NotNil(t, region.Serves(5443))
	}
}
