//go:build e2e

package e2e

import (
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"net"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/sealed"
	"maascert/internal/loopback"
	"maascert/internal/world"
)

// A host's store moves into a real PostgreSQL and back, with nothing lost; the binary works with it, also when it went away meanwhile; and
// a dump of the database holds no key.
func TestAStoreMovesIntoPostgreSQLAndBack(t *testing.T) {
	server := postgrestest.Start(t)
	port, err := loopback.Port()
	require.NoError(t, err)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
	s.edit(t, "  directory: ", "  accept_terms: true\n  directory: ", "node: region1", "node: region1\nlisten: \"\"")
	s.run(t, 0, "renew", "--enable-tls")
	plain, err := os.ReadFile(filepath.Join(s.dir, "maascert.yaml"))
	require.NoError(t, err)
	config := func(name, store string) string {
		path := filepath.Join(s.dir, name)
		require.NoError(t, os.WriteFile(path, append(slices.Clone(plain), store+"\n"...), 0o640))
		return path
	}
	for name, text := range map[string]string{"database.url": server.URL(), "seal": "the seal of this test, of more than 32 bytes"} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	shared := config("shared.yaml", `store: {type: postgres, url: "file:database.url", seal: "file:seal"}`)
	back := config("back.yaml", `store: {path: back}`)

	before := documents(t, filepath.Join(s.dir, "state", "store"))
	s.run(t, 0, "store", "copy", "--to", shared)
	s.run(t, 0, "--config", shared, "status")
	s.run(t, 1, "store", "copy", "--to", shared)
	s.run(t, 0, "--config", shared, "store", "copy", "--to", back)
	require.Equal(t, before, documents(t, filepath.Join(s.dir, "back")))

	s.run(t, 0, "--config", shared, "renew", "--force")
	s.run(t, 0, "--config", shared, "check")
	require.Contains(t, s.run(t, 0, "--config", shared, "status"), "version 2")
	server.Down()
	words := s.run(t, 1, "--config", shared, "status")
	require.NotContains(t, words, postgrestest.Password)
	require.Contains(t, words, "does PostgreSQL run there")
	for _, region := range s.maas.Regions {
		require.Contains(t, words, region.Address.String()+":5443 serves sha256:", "what is served can be seen without the store")
	}
	for _, lie := range []string{"another certificate", "no certificate yet", "unattended", "nothing renews"} {
		require.NotContains(t, words, lie)
	}
	server.Up()
	s.run(t, 0, "--config", shared, "renew")

	// Another host's daemon hears of a version that this one makes.
	other := strings.NewReplacer("node: region1", "node: region2", "state_dir: state", "state_dir: state2").Replace(string(plain))
	second := filepath.Join(s.dir, "second.yaml")
	require.NoError(t, os.WriteFile(second, []byte(other+"store: {type: postgres, url: \"file:database.url\", seal: \"file:seal\"}\n"), 0o640))
	stop := start(t, nil, os.Getenv("MAASCERT_E2E_BINARY"), "--config", second, "run")
	heardOf := func() (at time.Time) {
		for _, node := range s.nodes(t, shared) {
			if node.Node == "region2" {
				at = node.LastPass
			}
		}
		return at
	}
	require.Eventually(t, func() bool { return !heardOf().IsZero() }, 30*time.Second, 100*time.Millisecond)
	began := time.Now()
	s.run(t, 0, "--config", shared, "renew", "--force")
	require.Eventually(t, func() bool { return heardOf().After(began) }, 15*time.Second, 100*time.Millisecond)
	t.Logf("the other host made a pass within %v", time.Since(began))
	stop()

	twin := "0123456789abcdef0123456789abcdef"
	server.Exec("maascert", "delete from maascert.document where name = 'nodes/region1'")
	s.seal(t, server, certstore.Node{V: 1, Node: "region1", MachineID: twin, LastPass: time.Now()})
	if own, err := os.ReadFile("/etc/machine-id"); err == nil && len(strings.TrimSpace(string(own))) == 32 {
		words = s.run(t, 2, "--config", shared, "renew")
		require.Contains(t, words, "two machines are called region1")
		require.Contains(t, words, twin)
	}
	s.run(t, 0, "--config", shared, "delete", "--yes", "--node", "region1")
	s.run(t, 0, "--config", shared, "renew")

	s.run(t, 0, "--config", shared, "store", "copy", "--to", back, "--force")
	dump := server.Dump("maascert")
	require.Contains(t, dump, "versions/maas/3")
	for _, secret := range secretsIn(t, certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "back"))) {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))} {
			require.NotContains(t, dump, form)
		}
	}
}

// A region host keeps its store in the database of MAAS itself, as regiond's own configuration names it: beside MAAS's tables, as MAAS's
// user, also after that one's password changed. A region whose credentials are in Vault is refused, with what to write instead.
func TestTheStoreLiesInRegiondsDatabase(t *testing.T) {
	server := postgrestest.Start(t)
	address, err := url.Parse(server.URL())
	require.NoError(t, err)
	for _, statement := range []string{"create role maas login password 'p@ss: word'", "create database maasdb owner maas"} {
		server.SQL(statement)
	}
	server.Exec("maasdb", "set role maas", "create table public.maasserver_config (id int)", "insert into public.maasserver_config values (7)")

	port, err := loopback.Port()
	require.NoError(t, err)
	ca := acmetest.New(t, acmetest.Options{HTTPPort: port})
	s := newSite(t, ca.Directory, slices.Concat(ca.DirectoryRoot(), ca.Root(0)), ca.DNS, port)
	s.edit(t, "  directory: ", "  accept_terms: true\n  directory: ", "node: region1",
		"node: region1\nlisten: \"\"\nstore: {type: postgres, url: regiond, seal: \"file:seal\"}")
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "seal"), []byte("the seal of this test, of more than 32 bytes"), 0o600))
	regiond := filepath.Join(filepath.Dir(s.maas.Regions[0].HTTPDir), "regiond.conf")
	conf := func(password string) {
		text := fmt.Sprintf("database_host: %s\ndatabase_name: maasdb\ndatabase_pass: %s\ndatabase_port: %s\ndatabase_user: maas\nmaas_url: http://maas.example:5240/MAAS\n",
			address.Hostname(), password, address.Port())
		require.NoError(t, os.WriteFile(regiond, []byte(text), 0o640))
	}
	conf("'p@ss: word'")

	// The daemon may not enable TLS for the first time, so there is no account yet; it has the challenge's port all the same.
	stop := start(t, nil, os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "run")
	defer stop()
	require.Eventually(t, func() bool {
		conn, err := net.Dial("tcp", net.JoinHostPort(s.maas.Regions[0].Address.String(), strconv.Itoa(port)))
		return err == nil && conn.Close() == nil
	}, 30*time.Second, 20*time.Millisecond)
	words := s.run(t, 0, "check")
	require.Contains(t, words, "the ACME account is made by the first renewal")
	require.Contains(t, words, "challenges can be answered")
	require.Contains(t, s.run(t, 0, "renew", "--dry-run", "--enable-tls"), "rehearsed")
	require.Zero(t, server.CountIn("maasdb", "select count(*) from maascert.document where name = 'account'"))

	s.run(t, 0, "renew", "--enable-tls")
	words = s.run(t, 0, "check")
	require.Contains(t, words, "the region "+s.maas.Regions[0].Address.String()+" alone can prove "+s.maas.Regions[0].Address.String())
	require.NotContains(t, words, "webroot")
	require.Equal(t, 1, server.CountIn("maasdb", "select count(*) from maascert.document where name = 'versions/maas/1'"))
	require.Equal(t, 1, server.CountIn("maasdb", "select count(*) from public.maasserver_config where id = 7"))
	require.NoDirExists(t, filepath.Join(s.dir, "state", "store"), "nothing lies on this host instead")

	server.SQL("alter role maas password 'another'")
	words = s.run(t, 1, "status")
	require.Contains(t, words, "password authentication failed")
	require.NotContains(t, words, "p@ss")
	conf("another")
	s.run(t, 0, "renew", "--force")
	require.Contains(t, s.run(t, 0, "status"), "version 2")
	require.Eventually(t, func() bool {
		out, err := exec.Command(os.Getenv("MAASCERT_E2E_BINARY"), "--config", filepath.Join(s.dir, "maascert.yaml"), "status").Output()
		return err == nil && !strings.Contains(string(out), "nothing renews")
	}, 30*time.Second, 100*time.Millisecond, "the daemon has the new password")

	require.NoError(t, os.WriteFile(regiond, []byte("database_pass: ''\nvault_url: https://vault.example\n"), 0o640))
	words = s.run(t, 1, "status")
	require.Contains(t, words, "MAAS keeps its credentials in Vault")
	require.Contains(t, words, "a database and a user of maascert's own")

	conf("another")
	s.edit(t, "challenge: {type: http-01, ", "challenge: {type: http-01, webroot: "+t.TempDir()+"} # ")
	require.Contains(t, s.run(t, 0, "check"), "the store is shared and the webroot is this host's")
}

// nodes are the hosts that status tells of.
func (s *site) nodes(t *testing.T, config string) []struct {
	Node     string    `json:"node"`
	LastPass time.Time `json:"last_pass"`
} {
	t.Helper()
	out, err := exec.Command(os.Getenv("MAASCERT_E2E_BINARY"), "--config", config, "status", "--json").Output()
	require.NoError(t, err)
	var status struct {
		Fleet struct {
			Nodes []struct {
				Node     string    `json:"node"`
				LastPass time.Time `json:"last_pass"`
			} `json:"nodes"`
		} `json:"fleet"`
	}
	require.NoError(t, json.Unmarshal(out, &status))
	return status.Fleet.Nodes
}

// seal writes what a host says of itself into the database, sealed as the site's configuration says.
func (s *site) seal(t *testing.T, server *postgrestest.Server, node certstore.Node) {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(s.dir, "seal"))
	require.NoError(t, err)
	plain, err := postgres.Open(postgres.Config{URL: server.URL()})
	require.NoError(t, err)
	store, err := sealed.New(plain, string(text))
	require.NoError(t, err)
	defer store.Close()
	require.NoError(t, certstore.UpdateNode(t.Context(), store, node.Node, func(n *certstore.Node) { *n = node }))
}

// documents are all of a file store, but for its locks, by name.
func documents(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	require.NoError(t, filepath.WalkDir(dir, func(path string, entry os.DirEntry, err error) error {
		name, _ := filepath.Rel(dir, path)
		if err != nil || entry.IsDir() || strings.HasPrefix(name, "lock") {
			return err
		}
		text, err := os.ReadFile(path)
		all[name] = string(text)
		return err
	}))
	require.NotEmpty(t, all)
	return all
}

// secretsIn are parts of the private keys in a store, as text and as bytes.
func secretsIn(t *testing.T, store certstore.Store) []string {
	t.Helper()
	var keys []string
	account, _, err := certstore.LoadAccount(t.Context(), store)
	require.NoError(t, err)
	key, err := certstore.KeyText(t.Context(), store, "account", account.Key)
	require.NoError(t, err)
	keys = append(keys, key)
	numbers, err := store.List(t.Context(), "versions/maas")
	require.NoError(t, err)
	require.NotEmpty(t, numbers)
	for _, number := range numbers {
		n, err := strconv.Atoi(number)
		require.NoError(t, err)
		version, err := certstore.LoadVersion(t.Context(), store, "maas", n)
		require.NoError(t, err)
		bundle, err := version.Bundle.WithKey(t.Context())
		require.NoError(t, err)
		keys = append(keys, string(bundle.KeyPEM()))
	}
	secrets := []string{"PRIVATE KEY"}
	for _, key := range keys {
		block, _ := pem.Decode([]byte(key))
		require.NotNil(t, block)
		quoted, err := json.Marshal(key)
		require.NoError(t, err)
		secrets = append(secrets, string(block.Bytes), string(block.Bytes[len(block.Bytes)-40:]), strings.Split(key, "\n")[1], string(quoted[:100]))
	}
	return secrets
}
