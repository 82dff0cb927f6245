//go:build vault

package command

import (
	"crypto/ecdsa"
	"encoding/json"
	"fmt"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	vaultapi "github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"maascert/certstore/vaultkeys/vaulttest"
	"maascert/internal/report"
	"maascert/internal/world"
)

// filesWithKeys are the files below a folder that hold a private key.
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

// kept are the paths of all secrets in a Vault that maascert keeps, but for the marks of deployments; of one folder, or of all.
func kept(t *testing.T, vault *vaulttest.Server) (found []string) {
	t.Helper()
	var walk func(folder string)
	walk = func(folder string) {
		listed, err := vault.Root.Logical().ListWithContext(t.Context(), vaulttest.Mount+"/metadata/"+folder)
		require.NoError(t, err)
		if listed == nil {
			return
		}
		for _, one := range listed.Data["keys"].([]any) {
			switch name := fmt.Sprint(one); {
			case strings.HasSuffix(name, "/"):
				walk(folder + "/" + strings.TrimSuffix(name, "/"))
			case name != "deployment" && !strings.HasSuffix(folder, "/generation"):
				found = append(found, folder+"/"+name)
			}
		}
	}
	walk(vaulttest.Path)
	return found
}

// useVault has a site keep its keys in a Vault that is reached at an address.
func useVault(t *testing.T, s *site, vault *vaulttest.Server, address string) {
	t.Helper()
	path := filepath.Join(s.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, append(text, keysInVault(t, s, vault, address, "{type: file, ")...), 0o640))
}

// saysWith runs a command that has to end with a code, and returns what it says.
func saysWith(t *testing.T, s *site, code int, args ...string) string {
	t.Helper()
	got, stdout, stderr := inSite(t, s, world.OS{}, args...)
	require.Equal(t, code, got, "%v\n%s%s", args, stdout, stderr)
	return stdout + stderr
}

// With Vault a renewal leaves no key in the store; while Vault is sealed status says so, nothing is ordered, and what is served stays served.
func TestKeysInVault(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	s := startSite(t)
	useVault(t, s, vault, vault.Address)
	saysWith(t, s, 0, "renew", "--enable-tls")
	require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "state")))
	require.Len(t, kept(t, vault), 2, "the account's and the version's")
	served := s.maas.Regions[0].Serves(5443).SerialNumber
	saysWith(t, s, 0, "status")

	vault.Seal()
	orders := s.ca.Orders()
	for _, command := range [][]string{{"status"}, {"renew"}, {"renew", "--force"}, {"check"}} {
		words := saysWith(t, s, 1, command...)
		require.Contains(t, words, "is sealed", command)
		require.Contains(t, words, "vault operator unseal", command)
	}
	require.Equal(t, orders, s.ca.Orders(), "nothing is ordered")
	require.Equal(t, served, s.maas.Regions[0].Serves(5443).SerialNumber)
	saysWith(t, s, 0, "verify") // needs no key
	vault.Unseal()
	saysWith(t, s, 0, "renew", "--force")
	require.Equal(t, orders+1, s.ca.Orders())
	saysWith(t, s, 0, "renew", "--dry-run")
	require.Len(t, kept(t, vault), 3)
	require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "state")))
	saysWith(t, s, 0, "account", "rollover")
	require.Len(t, kept(t, vault), 3, "the former key went")
	for range 5 {
		saysWith(t, s, 0, "renew", "--force")
	}
	require.LessOrEqual(t, len(kept(t, vault)), 7, "old versions are pruned, keys and all")
	saysWith(t, s, 0, "rollback")
}

// Keys come into Vault and out of it with store copy, and go with delete.
func TestKeysMoveIntoVaultAndBack(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	s := startSite(t)
	saysWith(t, s, 0, "renew", "--enable-tls")
	text, err := os.ReadFile(filepath.Join(s.dir, "maascert.yaml"))
	require.NoError(t, err)
	config := func(name, store string) string {
		path := filepath.Join(s.dir, name)
		require.NoError(t, os.WriteFile(path, append(append([]byte{}, text...), store...), 0o640))
		return path
	}
	inVault := config("vault.yaml", keysInVault(t, s, vault, vault.Address, "{type: file, path: apart, "))
	back := config("back.yaml", "store: {type: file, path: back}\n")

	vault.Seal()
	require.Contains(t, saysWith(t, s, 1, "store", "copy", "--to", inVault), "is sealed")
	require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "apart")))
	vault.Unseal()
	saysWith(t, s, 0, "store", "copy", "--to", inVault, "--force")
	require.Len(t, kept(t, vault), 2)
	require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "apart")))
	words := saysWith(t, s, 0, "--config", inVault, "store", "copy", "--to", back)
	require.Contains(t, words, vaulttest.Path+"/", "where the keys still are is said")
	for _, name := range []string{"account", "state/maas", "versions/maas/1"} {
		before, err := os.ReadFile(filepath.Join(s.dir, "state", "store", name))
		require.NoError(t, err)
		after, err := os.ReadFile(filepath.Join(s.dir, "back", name))
		require.NoError(t, err)
		require.Equal(t, string(before), string(after), name)
	}

	// What was copied out of Vault can be removed there, and nothing else is.
	again := config("again.yaml", keysInVault(t, s, vault, vault.Address, "{type: file, path: apart2, "))
	saysWith(t, s, 0, "--config", back, "store", "copy", "--to", again)
	before := len(kept(t, vault))
	elsewhere := config("elsewhere.yaml", "store: {type: file, path: elsewhere}\n")
	remove := []string{"--config", again, "store", "remove-keys", "--to", elsewhere}
	require.Contains(t, saysWith(t, s, 1, append(remove, "--yes")...), "in the other store")
	require.NoError(t, os.CopyFS(filepath.Join(s.dir, "twin"), os.DirFS(filepath.Join(s.dir, "apart2"))))
	twin := config("twin.yaml", keysInVault(t, s, vault, vault.Address, "{type: file, path: twin, "))
	require.Contains(t, saysWith(t, s, 1, "--config", again, "store", "remove-keys", "--to", twin, "--yes"), "the other store uses the same keys")
	saysWith(t, s, 0, "--config", again, "store", "copy", "--to", elsewhere)
	saysWith(t, s, 0, "--config", elsewhere, "renew", "--force")
	require.Contains(t, saysWith(t, s, 2, remove...), "--yes answers")
	require.Len(t, kept(t, vault), before)
	require.Contains(t, saysWith(t, s, 0, append(remove, "--yes")...), "removed 2 keys from Vault")
	require.Len(t, kept(t, vault), before-2)
	require.Contains(t, saysWith(t, s, 0, append(remove, "--yes")...), "removed 0 keys from Vault")
	saysWith(t, s, 0, "--config", elsewhere, "status")
	require.Contains(t, saysWith(t, s, 1, "--config", again, "status"), "nothing of this deployment is kept there")
	saysWith(t, s, 0, "--config", inVault, "renew", "--force")

	// A configuration that names another certificate forgets this one, and its keys with it.
	other := config("other.yaml", keysInVault(t, s, vault, vault.Address, "{type: file, path: apart, "))
	renamed, err := os.ReadFile(other)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(other, []byte(strings.ReplaceAll(string(renamed), "name: maas,", "name: other,")), 0o640))
	require.NotEqual(t, string(renamed), strings.ReplaceAll(string(renamed), "name: maas,", "name: other,"))
	saysWith(t, s, 0, "--config", other, "renew")
	vault.Seal()
	saysWith(t, s, 1, "--config", other, "delete", "maas", "--yes")
	vault.Unseal()
	saysWith(t, s, 0, "--config", other, "delete", "maas", "--yes")
	for _, path := range kept(t, vault) {
		require.NotContains(t, path, "/maas/")
	}
	saysWith(t, s, 0, "--config", other, "account", "deactivate")
	for _, path := range kept(t, vault) {
		require.NotContains(t, path, "/account/")
	}
}

// Where all that Vault had is gone, nothing is ordered because of that until somebody says so; then everything goes on with other keys.
func TestVaultIsLost(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	s := startSite(t)
	useVault(t, s, vault, vault.Address)
	saysWith(t, s, 0, "renew", "--enable-tls")
	require.NoError(t, vault.Root.Sys().UnmountWithContext(t.Context(), vaulttest.Mount))
	require.Contains(t, saysWith(t, s, 1, "check"), "there is no mount "+vaulttest.Mount)
	require.NoError(t, vault.Root.Sys().MountWithContext(t.Context(), vaulttest.Mount, &vaultapi.MountInput{Type: "kv", Options: map[string]string{"version": "2"}}))
	require.Eventually(t, func() bool { // the store upgrades itself first
		_, err := vault.Root.KVv2(vaulttest.Mount).Put(t.Context(), "begin", map[string]any{"key": "value"})
		return err == nil
	}, 20*time.Second, 20*time.Millisecond)
	orders := s.ca.Orders()
	for _, command := range [][]string{{"status"}, {"renew", "--force"}, {"check"}} {
		words := saysWith(t, s, 1, command...)
		require.Contains(t, words, "nothing of this deployment is kept there", command)
		require.Contains(t, words, "--accept keys-lost", command)
	}
	require.Equal(t, orders, s.ca.Orders())
	saysWith(t, s, 0, "renew", "--force", "--accept", "keys-lost")
	require.Equal(t, orders+1, s.ca.Orders())
	saysWith(t, s, 0, "status")
	saysWith(t, s, 0, "renew")
	require.Equal(t, orders+1, s.ca.Orders())
}

// Documents and programs that watch say that keys cannot be had.
func TestWhoWatchesHearsOfVault(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	s := startSite(t)
	useVault(t, s, vault, vault.Address)
	saysWith(t, s, 0, "renew", "--enable-tls")
	vault.Seal()
	_, stdout, stderr := inSite(t, s, world.OS{}, "status", "--json")
	var doc report.Status
	require.NoError(t, json.Unmarshal([]byte(stdout), &doc), stderr)
	require.NotNil(t, doc.Certificates[0].KeysAway)
	require.Contains(t, doc.Certificates[0].KeysAway.Error, "is sealed")
	require.Contains(t, doc.Certificates[0].KeysAway.Hint, "unseal")
	saysWith(t, s, 1, "renew")
	_, stdout, stderr = inSite(t, s, world.OS{}, "monitor", "--status", filepath.Join(s.dir, "state", "public", "status.json"))
	require.Contains(t, stdout+stderr, "private keys cannot be had")
	vault.Unseal()
	saysWith(t, s, 0, "renew")
	_, stdout, stderr = inSite(t, s, world.OS{}, "status", "--json")
	require.NotContains(t, stdout+stderr, "keys_away")
}

// Vault is sealed before whatever request of a renewal, and unsealed later: no key is lost, no order is made besides, and the next pass leaves
// everything as it should be.
func TestVaultIsSealedAtAnyMoment(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	count := int64(0)
	for at := int64(0); at <= count; at++ {
		s := startSite(t)
		var n atomic.Int64
		when := ""
		n.Store(-1000)
		address := vault.Intercept(t, func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if at > 0 && n.Add(1) == at || at == 0 && n.Add(1) == 0 {
				when = r.Method + " " + r.URL.Path
				vault.Seal()
			}
			next.ServeHTTP(w, r)
		})
		useVault(t, s, vault, address)
		saysWith(t, s, 0, "renew", "--enable-tls")
		path := filepath.Join(s.dir, "maascert.yaml")
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(text), "key_type: ec256", "key_type: ec384")), 0o640)) // which makes it due
		n.Store(0)
		first, stdout, stderr := inSite(t, s, world.OS{}, "renew")
		if at == 0 {
			count = n.Load()
			require.Zero(t, first, stdout+stderr)
		}
		served := s.maas.Regions[0].Serves(5443)
		require.NotNil(t, served)
		n.Store(-1000)
		if when != "" {
			vault.Unseal()
		}
		code, stdout, stderr := inSite(t, s, world.OS{}, "renew")
		require.Zero(t, code, "%s: %s%s", when, stdout, stderr)
		require.LessOrEqual(t, s.ca.Orders(), 2, "%s: no order besides", when)
		require.Empty(t, filesWithKeys(t, filepath.Join(s.dir, "state")))
		fingerprints := map[string]bool{}
		for _, region := range s.maas.Regions {
			leaf := region.Serves(5443)
			require.Equal(t, "P-384", leaf.PublicKey.(*ecdsa.PublicKey).Params().Name, when)
			fingerprints[leaf.SerialNumber.String()] = true
		}
		require.Len(t, fingerprints, 1, when)
	}
	require.Greater(t, count, int64(15))
	t.Logf("sealed before each of %d requests", count)
}

// check says whether Vault can be asked, what its policy allows, until when its certificate lasts, and which is MAAS's own.
func TestCheckLooksAtVault(t *testing.T) {
	vault := vaulttest.Start(t, time.Hour)
	started := startSite(t)
	s := &situation{T: t, site: started, fsys: world.OS{}}
	useVault(t, started, vault, vault.Address)
	saysWith(t, started, 0, "renew", "--enable-tls")
	for _, code := range []string{"keys", "keys-policy", "keys-tls"} {
		found := s.checked(code)
		require.Len(t, found, 1, code)
		require.NotEmpty(t, found[0].Evidence)
		require.Equal(t, report.CheckOK, found[0].State, found[0].Summary)
	}
	policy := vaulttest.Policy(t)
	put := func(text string) {
		require.NoError(t, vault.Root.Sys().PutPolicyWithContext(t.Context(), "maascert", text))
	}
	put(policy + "\npath \"sys/policies/acl/*\" { capabilities = [\"update\"] }\n")
	found := wrong(s.checked("keys-policy"))
	require.Len(t, found, 1)
	require.Contains(t, found[0].Summary, "sys/policies/acl/check (update)")
	require.Contains(t, found[0].Fix, "examples/vault/policy.hcl")
	put(policy + "\npath \"secret/delete/maascert/*\" { capabilities = [\"update\"] }\npath \"secret/data/maascert/*\" { capabilities = [\"create\", \"update\", \"read\", \"delete\"] }\n")
	found = wrong(s.checked("keys-policy"))
	require.Len(t, found, 1)
	require.Contains(t, found[0].Summary, "secret/delete/maascert/check/check (update)")
	require.Contains(t, found[0].Summary, "secret/data/maascert/check/check (delete)")
	put(regexp.MustCompile(`"delete"`).ReplaceAllString(policy, `"deny"`))
	found = wrong(s.checked("keys"))
	require.Len(t, found, 1)
	require.Contains(t, found[0].Fix, "policy.hcl")
	put(strings.ReplaceAll(policy, `, "delete"`, ""))
	found = wrong(s.checked("keys"))
	require.Len(t, found, 1)
	require.Contains(t, found[0].Summary, "does not allow to delete below secret/metadata/maascert")
	put(policy)
	require.Empty(t, wrong(s.checked("keys")))
	require.Empty(t, wrong(s.checked("keys-policy")))

	// Vault was restored from an older copy: what says that this store removes keys is not there, until a person says that it is the only one.
	folders, err := vault.Root.Logical().ListWithContext(t.Context(), vaulttest.Mount+"/metadata/"+vaulttest.Path)
	require.NoError(t, err)
	folder := vaulttest.Path + "/" + folders.Data["keys"].([]any)[0].(string) + "generation/"
	marks, err := vault.Root.Logical().ListWithContext(t.Context(), vaulttest.Mount+"/metadata/"+folder)
	require.NoError(t, err)
	require.NoError(t, vault.Root.KVv2(vaulttest.Mount).DeleteMetadata(t.Context(), folder+marks.Data["keys"].([]any)[0].(string)))
	found = wrong(s.checked("keys"))
	require.Len(t, found, 1)
	require.Equal(t, report.CheckWarn, found[0].State)
	require.Contains(t, found[0].Fix, "renew --accept keys-lost")
	saysWith(t, started, 0, "renew", "--accept", "keys-lost")
	require.Empty(t, wrong(s.checked("keys")))

	// MAAS keeps its own secrets in the same Vault: maascert has no business there.
	s.snap("3.7.3-1-g.abc")
	theirs := func(path string) {
		s.file("/var/snap/maas/current/regiond.conf", fmt.Sprintf("vault_url: %s\nvault_approle_id: r\nvault_secret_id: s\nvault_secrets_path: %s\n", vault.Address, path), 0o640)
	}
	theirs("maas")
	require.Empty(t, wrong(s.checked("keys-policy")))
	put(policy + "\npath \"secret/data/maas/*\" { capabilities = [\"read\"] }\n")
	found = wrong(s.checked("keys-policy"))
	require.Len(t, found, 1)
	require.Contains(t, found[0].Summary, "secret/data/maas/global/tls (read)")
	put(policy)
	for _, path := range []string{"maascert", "maascert/maas", "/maascert/"} {
		theirs(path)
		found = wrong(s.checked("keys-policy"))
		require.Len(t, found, 1, path)
		require.Contains(t, found[0].Summary, "lie in one another's path", path)
	}
	theirs("maascert2")
	require.Empty(t, wrong(s.checked("keys-policy")))
}
