//go:build vault

package vaultkeys_test

import (
	"net"
	"strings"
	"testing"
	"time"

	"github.com/hashicorp/vault/api"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/certstore/storetest"
	"maascert/certstore/vaultkeys"
	"maascert/certstore/vaultkeys/vaulttest"
	"maascert/internal/hint"
	"maascert/internal/world"
)

func configOf(s *vaulttest.Server, path string) vaultkeys.Config {
	return vaultkeys.Config{
		Address: s.Address, Mount: vaulttest.Mount, Path: vaulttest.Path + path, AppRole: "approle", Roots: s.Roots, Dial: new(net.Dialer).DialContext, Now: time.Now,
		RoleID: func() (string, error) { return s.RoleID, nil }, SecretID: func() (string, error) { return s.SecretID(), nil },
	}
}

func open(t *testing.T, config vaultkeys.Config) *vaultkeys.Keys {
	t.Helper()
	keys, err := vaultkeys.New(config)
	require.NoError(t, err)
	t.Cleanup(keys.Close)
	return keys
}

func aKey(t *testing.T) []byte {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
	require.NoError(t, err)
	return bundle.KeyPEM()
}

// place is a path of its own below that of the role.
func place(t *testing.T) string {
	return "/" + strings.NewReplacer("/", "-", " ", "-", "'", "", ",", "").Replace(t.Name())
}

func TestVaultKeepsKeys(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	storetest.RunKeeper(t, func(t *testing.T) (a, b certstore.KeyKeeper) {
		return open(t, configOf(s, place(t))), open(t, configOf(s, place(t)))
	})
}

func TestAStoreOfFilesWithItsKeysInVault(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	storetest.Run(t, func(t *testing.T) (a, b certstore.Store) {
		dir := t.TempDir() + "/store"
		for _, store := range []*certstore.Store{&a, &b} {
			*store = certstore.NewKeysApart(certstore.NewFileStore(world.OS{}, dir), open(t, configOf(s, place(t))))
		}
		return a, b
	})
}

// A token that has expired, or that was revoked, costs another login and no failure; a secret_id that was replaced counts at once.
func TestTokensEnd(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	now := time.Now()
	config := configOf(s, "")
	logins := 0
	config.SecretID = func() (string, error) { logins++; return s.SecretID(), nil }
	config.Now = func() time.Time { return now }
	keys, ctx, key := open(t, config), t.Context(), aKey(t)
	require.NoError(t, keys.Put(ctx, "account/aa", key))
	require.NoError(t, keys.Ready(ctx))
	require.Equal(t, 1, logins)

	now = now.Add(40 * time.Minute) // more than half of its time: it is renewed
	require.NoError(t, keys.Ready(ctx))
	require.Equal(t, 1, logins)
	now = now.Add(2 * time.Hour) // it has expired by our clock
	require.NoError(t, keys.Ready(ctx))
	require.Equal(t, 2, logins)

	_, err := s.Root.Logical().WriteWithContext(ctx, "sys/leases/revoke-prefix/auth/approle/login", nil)
	require.NoError(t, err)
	s.NewSecretID()
	got, err := keys.Get(ctx, "account/aa")
	require.NoError(t, err)
	require.Equal(t, string(key), string(got))
	require.Equal(t, 3, logins)
}

// Tokens that Vault lets expire are renewed, and replaced in time; where our clock says that one is young, Vault's word that it is none any more
// costs another login. Nobody is refused a key meanwhile.
func TestTokensThatExpire(t *testing.T) {
	s := vaulttest.Start(t, time.Second)
	ctx, key := t.Context(), aKey(t)
	started := time.Now()
	for name, now := range map[string]func() time.Time{"by our clock": time.Now, "by Vault's alone": func() time.Time { return started }} {
		config := configOf(s, "")
		config.Now = now
		logins := 0
		config.SecretID = func() (string, error) { logins++; return s.SecretID(), nil }
		keys := open(t, config)
		require.NoError(t, keys.Put(ctx, "account/aa", key), name)
		require.Eventually(t, func() bool {
			got, err := keys.Get(ctx, "account/aa")
			require.NoError(t, err, name)
			require.Equal(t, string(key), string(got), name)
			return logins > 2
		}, 30*time.Second, 20*time.Millisecond, name)
	}
}

// A secret_id that Vault lets expire, or that was used up, is said to be that once a token ends; another one counts at once.
func TestSecretIDsThatEnd(t *testing.T) {
	for name, limit := range map[string]map[string]any{"used up": {"secret_id_num_uses": 1}, "expired": {"secret_id_ttl": "1s"}} {
		t.Run(name, func(t *testing.T) {
			s := vaulttest.Start(t, time.Hour)
			ctx, key := t.Context(), aKey(t)
			limit["token_policies"] = "maascert"
			_, err := s.Root.Logical().WriteWithContext(ctx, "auth/approle/role/maascert", limit)
			require.NoError(t, err)
			s.NewSecretID()
			keys := open(t, configOf(s, ""))
			require.NoError(t, keys.Put(ctx, "account/aa", key))
			require.Eventually(t, func() bool {
				// Vault takes one that has expired until it tidies up, which it does by itself once a minute.
				_, failure := s.Root.Logical().WriteWithContext(ctx, "auth/approle/tidy/secret-id", nil)
				require.NoError(t, failure)
				err = open(t, configOf(s, "")).Ready(ctx)
				return err != nil
			}, 30*time.Second, 100*time.Millisecond)
			require.ErrorIs(t, err, certstore.ErrKeysAway)
			require.ErrorContains(t, err, "the login by AppRole")
			require.Contains(t, hint.Of(err), "has the secret_id expired, or was it used up?")
			require.NotContains(t, err.Error(), s.SecretID())
			require.NoError(t, keys.Ready(ctx), "a token outlives it")

			s.RevokeTokens()
			_, err = keys.Get(ctx, "account/aa")
			require.ErrorIs(t, err, certstore.ErrKeysAway)
			s.NewSecretID()
			got, err := keys.Get(ctx, "account/aa")
			require.NoError(t, err)
			require.Equal(t, string(key), string(got))
		})
	}
}

// While Vault is sealed, stopped or refuses, it is said which, and what to do; afterwards everything is there.
func TestVaultIsAway(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	keys, ctx, key := open(t, configOf(s, "")), t.Context(), aKey(t)
	require.NoError(t, keys.Put(ctx, "account/aa", key))
	away := func(word, remedy string) {
		t.Helper()
		for _, err := range []error{keys.Ready(ctx), keys.Put(ctx, "account/bb", key), keys.Delete(ctx, "account/aa")} {
			require.ErrorIs(t, err, certstore.ErrKeysAway)
			require.ErrorContains(t, err, word)
			require.Contains(t, hint.Of(err), remedy)
			for _, secret := range []string{s.SecretID(), s.RoleID, "BEGIN", "hvs."} {
				require.NotContains(t, err.Error(), secret)
			}
		}
		_, err := keys.Get(ctx, "account/aa")
		require.ErrorIs(t, err, certstore.ErrKeysAway)
		require.NotErrorIs(t, err, certstore.ErrNotFound)
		_, _, err = keys.List(ctx, "account")
		require.ErrorIs(t, err, certstore.ErrKeysAway)
	}
	s.Seal()
	away("is sealed", "vault operator unseal")
	s.Unseal()
	require.NoError(t, keys.Ready(ctx))
	s.Down()
	away("connection refused", "")
	s.Up(strings.TrimPrefix(s.Address, "https://"))
	away("is sealed", "vault operator unseal")
	s.Unseal()
	got, err := keys.Get(ctx, "account/aa")
	require.NoError(t, err)
	require.Equal(t, string(key), string(got))

	// The role is gone, and with it its tokens.
	_, err = s.Root.Logical().DeleteWithContext(ctx, "auth/approle/role/maascert")
	require.NoError(t, err)
	_, err = s.Root.Logical().WriteWithContext(ctx, "sys/leases/revoke-prefix/auth/approle/login", nil)
	require.NoError(t, err)
	away("the login by AppRole", "secret_id")
}

// The policy of the examples allows what is needed, and forbids everything else.
func TestThePolicyForbids(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	ctx := t.Context()
	_, err := s.Root.KVv2(vaulttest.Mount).Put(ctx, "maas/global/tls", map[string]any{"key": "MAAS's own"})
	require.NoError(t, err)
	for name, change := range map[string]func(*vaultkeys.Config){
		"another path":  func(c *vaultkeys.Config) { c.Path = "maas/global" },
		"above":         func(c *vaultkeys.Config) { c.Path = "maascert2" },
		"another mount": func(c *vaultkeys.Config) { c.Mount = "sys" },
	} {
		config := configOf(s, "")
		change(&config)
		keys := open(t, config)
		_, err = keys.Get(ctx, "tls")
		require.ErrorIs(t, err, certstore.ErrKeysAway, name)
		require.Contains(t, hint.Of(err), "policy", name)
		require.Error(t, keys.Put(ctx, "tls", aKey(t)), name)
		require.Error(t, keys.Delete(ctx, "tls"), name)
	}
	login, err := s.Root.Logical().WriteWithContext(ctx, "auth/approle/login", map[string]any{"role_id": s.RoleID, "secret_id": s.SecretID()})
	require.NoError(t, err)
	client, err := s.Root.Clone()
	require.NoError(t, err)
	client.SetToken(login.Auth.ClientToken)
	for _, path := range []string{"sys/policies/acl/maascert", "auth/approle/role/maascert", "sys/mounts", "secret/metadata/maas/global/tls"} {
		_, err = client.Logical().ReadWithContext(ctx, path)
		require.ErrorContains(t, err, "403", path)
	}
	_, err = client.Logical().WriteWithContext(ctx, "auth/approle/role/maascert/secret-id", nil)
	require.ErrorContains(t, err, "403", "nobody makes another secret_id with it")
}

// Vault's certificate has to lead to a root that is trusted; when it ends is seen.
func TestVaultsOwnCertificate(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	config := configOf(s, "")
	keys := open(t, config)
	require.Nil(t, keys.Certificate())
	require.NoError(t, keys.Ready(t.Context()))
	require.WithinDuration(t, time.Now().Add(24*time.Hour), keys.Certificate().NotAfter, time.Hour)

	config.Roots = nil
	err := open(t, config).Ready(t.Context())
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.ErrorContains(t, err, "certificate signed by unknown authority")
}

// A key that a person deleted is missed, and comes back under the same name; nothing else comes there.
func TestAKeyThatAPersonDeleted(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	keys, ctx, key := open(t, configOf(s, "")), t.Context(), aKey(t)
	require.NoError(t, keys.Put(ctx, "account/aa", key))
	require.NoError(t, s.Root.KVv2(vaulttest.Mount).Delete(ctx, vaulttest.Path+"/account/aa")) // as vault kv delete does
	_, err := keys.Get(ctx, "account/aa")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	_, err = keys.Age(ctx, "account/aa")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	require.NoError(t, keys.Put(ctx, "account/aa", key))
	got, err := keys.Get(ctx, "account/aa")
	require.NoError(t, err)
	require.Equal(t, string(key), string(got))
	require.ErrorIs(t, keys.Put(ctx, "account/aa", aKey(t)), certstore.ErrOtherKey)
	require.NoError(t, keys.Delete(ctx, "account/aa"))
	_, err = s.Root.KVv2(vaulttest.Mount).GetMetadata(ctx, vaulttest.Path+"/account/aa")
	require.ErrorContains(t, err, "secret not found", "nothing is left, metadata included")
}

// An old mount has no versions, so that a key could not be checked and set there.
func TestAnOldMount(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	ctx := t.Context()
	require.NoError(t, s.Root.Sys().MountWithContext(ctx, "old", &api.MountInput{Type: "kv", Options: map[string]string{"version": "1"}}))
	require.NoError(t, s.Root.Sys().PutPolicyWithContext(ctx, "maascert", strings.ReplaceAll(vaulttest.Policy(t), "secret/", "old/")))
	config := configOf(s, "")
	config.Mount = "old"
	for _, err := range []error{open(t, config).Put(ctx, "account/aa", aKey(t)), open(t, config).Ready(ctx)} {
		require.ErrorIs(t, err, certstore.ErrKeysAway)
		require.ErrorContains(t, err, "no KV of version 2")
		require.Contains(t, hint.Of(err), "vault secrets enable -version=2 -path=old kv")
	}
	require.NoError(t, s.Root.Sys().UnmountWithContext(ctx, "old"))
	require.ErrorIs(t, open(t, config).Ready(ctx), certstore.ErrKeysAway)
}

// A mount that deletes what is old keeps no keys.
func TestAMountThatForgets(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	ctx := t.Context()
	_, err := s.Root.Logical().WriteWithContext(ctx, "secret/config", map[string]any{"delete_version_after": "24h"})
	require.NoError(t, err)
	err = open(t, configOf(s, "")).Put(ctx, "account/aa", aKey(t))
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.Contains(t, hint.Of(err), "delete_version_after=0s")
}

// A role needs no other policy, Vault's own included; one that has none is told of.
func TestARoleWithoutThePolicyDefault(t *testing.T) {
	s := vaulttest.Start(t, time.Hour)
	ctx := t.Context()
	_, err := s.Root.Logical().WriteWithContext(ctx, "auth/approle/role/maascert", map[string]any{"token_policies": "maascert", "token_no_default_policy": true, "token_ttl": "1h"})
	require.NoError(t, err)
	s.NewSecretID()
	keys := open(t, configOf(s, ""))
	require.NoError(t, keys.Ready(ctx))
	require.NoError(t, keys.Put(ctx, "account/aa", aKey(t)))
	excess, err := keys.Excess(ctx)
	require.NoError(t, err)
	require.Empty(t, excess)

	whole := vaulttest.Policy(t)
	require.NoError(t, s.Root.Sys().PutPolicyWithContext(ctx, "maascert", whole[:strings.Index(whole, "# What Vault's own policy")]))
	err = open(t, configOf(s, "")).Ready(ctx)
	require.ErrorIs(t, err, certstore.ErrKeysAway)
	require.Contains(t, hint.Of(err), "token_no_default_policy")
}

// Tokens that are good for a few uses cost more logins, in bounds, and then it is said what makes them.
func TestTokensForAFewUses(t *testing.T) {
	for _, uses := range []int{1, 2, 3} {
		s := vaulttest.Start(t, time.Hour)
		ctx := t.Context()
		_, err := s.Root.Logical().WriteWithContext(ctx, "auth/approle/role/maascert", map[string]any{"token_policies": "maascert", "token_num_uses": uses})
		require.NoError(t, err)
		s.NewSecretID()
		keys := open(t, configOf(s, ""))
		for n := 0; err == nil && n < 100; n++ {
			err = keys.Ready(ctx)
		}
		require.ErrorIs(t, err, certstore.ErrKeysAway, uses)
		require.Contains(t, hint.Of(err), "token_num_uses", "%d: %v", uses, err)
	}
}
