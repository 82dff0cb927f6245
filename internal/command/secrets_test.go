//go:build faults

package command

import (
	"bytes"
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io/fs"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/sealed"
	"maascert/certstore/vaultkeys/vaulttest"
	"maascert/internal/loopback"
	"maascert/maasconfig/maastest"
)

// known are the secrets of a deployment, by what they are.
type known map[string][]byte

// addKey adds the secret part of a private key.
func (k known) addKey(t *testing.T, what, text string) {
	t.Helper()
	block, _ := pem.Decode([]byte(text))
	require.NotNil(t, block, what)
	signer, err := certstore.ParseKey([]byte(text))
	require.NoError(t, err)
	raw, isEC := signer.(interface{ Bytes() ([]byte, error) })
	require.True(t, isEC, "%s: %T", what, signer)
	scalar, err := raw.Bytes()
	require.NoError(t, err)
	k[what] = scalar
	k[what+", as PKCS #8"] = block.Bytes[len(block.Bytes)-100:]
}

// spellings are how a secret may look.
func spellings(secret []byte) []string {
	text := string(secret)
	quoted, _ := json.Marshal(text)
	all := []string{
		text, hex.EncodeToString(secret), strings.ToUpper(hex.EncodeToString(secret)), base64.StdEncoding.EncodeToString(secret), base64.RawURLEncoding.EncodeToString(secret),
		url.QueryEscape(text), url.PathEscape(text), strings.Trim(string(quoted), `"`),
	}
	// In the middle of a longer text in base64 it begins at any of three places.
	for skip := range 3 {
		all = append(all, strings.TrimRight(base64.StdEncoding.EncodeToString(secret[skip:][:(len(secret)-skip)/3*3]), "="))
	}
	return slices.DeleteFunc(all, func(one string) bool { return len(one) < 12 })
}

// in is the first secret that a text holds; empty for none.
func (k known) in(text []byte) (what string) {
	views := [][]byte{text}
	for _, dumped := range dumps.FindAll(text, -1) { // bytes in a dump of the database, or of a program
		if plain, err := hex.DecodeString(string(dumped)); err == nil {
			views = append(views, plain)
		}
	}
	for _, view := range views {
		flat := lineEnds.ReplaceAll(view, nil) // as in PEM, and PEM in JSON or in quotes, once or twice
		for what, secret := range k {
			for _, one := range spellings(secret) {
				if bytes.Contains(view, []byte(one)) || bytes.Contains(flat, []byte(one)) {
					return what
				}
			}
		}
		if bytes.Contains(view, []byte("PRIVATE KEY")) {
			return "some private key"
		}
	}
	return ""
}

var (
	dumps    = regexp.MustCompile(`[0-9a-f]{64,}`)
	lineEnds = regexp.MustCompile(`(\\)+n|\n`)
)

// No secret gets out: not into a log at the level debug, a document, the page, the metrics, the arguments and the environment of a program that
// is run, the database, or any file but those that it is kept in.
func TestNoSecretGetsOut(t *testing.T) {
	t.Parallel()
	noSecretGetsOut(t, nil)
}

// noSecretGetsOut searches with documents that are sealed, or with keys in a Vault.
func noSecretGetsOut(t *testing.T, vault *vaulttest.Server) {
	server := postgrestest.Start(t)
	s := &situation{T: t}
	var err error
	s.site, err = newSiteWith(t.TempDir(), bound)
	require.NoError(t, err)
	t.Cleanup(s.stop)
	told := tellEverybody(t, s.site)
	seal := strings.Repeat("a-seal-of-the-deployment", 2)
	databaseURL := server.Database("secrets")
	kept := "store: {type: postgres, url: \"file:store.url\", seal: \"file:store.seal\"}\n"
	if vault != nil {
		kept = keysInVault(t, s.site, vault, vault.Address, "{type: postgres, url: \"file:store.url\", ")
	}
	port, err := loopback.Port()
	require.NoError(t, err)
	board := fmt.Sprintf("127.0.0.1:%d", port)

	// Programs that are run tell what they were given.
	seen := filepath.Join(t.TempDir(), "programs")
	record := func(then string) string {
		return fmt.Sprintf("#!/bin/sh\n{ echo \"ran $0 $*\"; env; tr '\\0' '\\n' </proc/$PPID/cmdline; } >>%s\n%s\n", seen, then)
	}
	for name, text := range map[string]string{
		"eab": macKey, "tsig": acmetest.Key, "store.url": databaseURL, "store.seal": seal,
		"maas.sh": record(fmt.Sprintf("exec %q \"$@\"", s.maas.Command)), "around.sh": record(""), "program": record("cat >>" + told.file),
	} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o700))
	}
	s.edit(t,
		`listen: ""`, fmt.Sprintf("listen: %q\nschedule: \"@every 1s\"\nrehearse_hooks: true\n%s", board, kept),
		"  accept_terms: true\n", "  accept_terms: true\n  eab: {key_id: kid-1, hmac: \"file:eab\"}\n",
		"  challenge: {type: http-01, listen: ", fmt.Sprintf(`  challenges:
    - match: ["region1.example.internal"]
      type: dns-01
      dns: {provider: rfc2136, nameservers: [%q], settings: {RFC2136_NAMESERVER: %[1]q, RFC2136_TSIG_KEY: %q, RFC2136_TSIG_ALGORITHM: hmac-sha256., RFC2136_PROPAGATION_TIMEOUT: "5"}, secrets: {RFC2136_TSIG_SECRET: "file:tsig"}}
  challenge: {type: http-01, before: [%[3]q], after: [%[3]q], listen: `, s.ca.DNS.Address, acmetest.KeyName, filepath.Join(s.dir, "around.sh")),
		fmt.Sprintf("command: %q", s.maas.Command), fmt.Sprintf("command: %q", filepath.Join(s.dir, "maas.sh")), "verify_timeout: 20s", "verify_timeout: 1s")

	if vault != nil {
		seal = "no-seal-is-used-here-at-all"
	}
	secrets := known{
		"EAB key": []byte(macKey), "TSIG key": []byte(acmetest.Key), "seal": []byte(seal), "password of the database": []byte(postgrestest.Password), "password of the mail server": []byte(told.mail.Password),
	}
	for what, name := range map[string]string{"URL of the webhook": "hook.url", "key of the webhook": "hook.secret", "URL of the chat": "chat.url", "API key": "api.key"} {
		text, err := os.ReadFile(filepath.Join(s.dir, name))
		require.NoError(t, err)
		secrets[what] = bytes.TrimSpace(text)
	}
	if vault != nil {
		secrets["role_id"], secrets["secret_id"] = []byte(vault.RoleID), []byte(vault.SecretID())
	}
	parts := strings.Split(string(secrets["API key"]), ":")
	secrets["secret of the API key"], secrets["token of the chat"] = []byte(parts[2]), []byte("T0KENOFTHETEST")
	secrets["path of the webhook"] = []byte("/hooks/t0ken-of-the-webhook")
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "hook.url"), []byte(told.hook.URL+string(secrets["path of the webhook"])), 0o600))

	said := map[string][]byte{}
	const whatever = -1 // what check makes of this machine is its own matter
	run := func(wantExit int, args ...string) {
		t.Helper()
		cmd := program(t.Context(), t, s.site, args...)
		var out, errs bytes.Buffer
		cmd.Stdout, cmd.Stderr = &out, &errs
		err := cmd.Run()
		require.True(t, wantExit == whatever || wantExit == cmd.ProcessState.ExitCode(), "%v: %v\n%s\n%s", args, err, &out, &errs)
		said[fmt.Sprintf("standard output of %v", args)], said[fmt.Sprintf("standard error of %v", args)] = out.Bytes(), errs.Bytes()
	}
	debug := func(args ...string) []string { return append([]string{"--log-level", "debug"}, args...) }
	run(0, debug("renew", "--enable-tls")...)
	run(0, debug("renew", "--force", "--json")...)
	run(0, debug("renew", "--dry-run", "--json")...)
	run(0, debug("notify", "test")...)
	run(0, debug("status", "--json")...)
	run(0, debug("history", "--json")...)
	run(whatever, debug("check", "--json")...)
	run(0, debug("config", "show")...)
	run(0, debug("show")...)
	run(0, debug("account", "show")...)

	// The daemon, in good times and in bad ones.
	daemon := program(t.Context(), t, s.site, debug("run")...)
	var log bytes.Buffer
	daemon.Stdout, daemon.Stderr = &log, &log
	require.NoError(t, daemon.Start())
	until := func(status int) {
		t.Helper()
		require.Eventually(t, func() bool {
			got, _ := ask(board, "/healthz")
			return got == status
		}, time.Minute, 20*time.Millisecond)
	}
	until(http.StatusOK)
	environment, err := os.ReadFile(fmt.Sprintf("/proc/%d/environ", daemon.Process.Pid))
	require.NoError(t, err)
	arguments, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", daemon.Process.Pid))
	require.NoError(t, err)
	said["environment of the daemon"], said["arguments of the daemon"] = environment, arguments
	s.maas.Regions[1].Break(maastest.Fault{Deaf: true})
	s.maas.Regions[1].StopProxy()
	until(http.StatusServiceUnavailable)
	for _, path := range []string{"/", "/metrics", "/healthz"} {
		_, text := ask(board, path)
		said["answer to "+path] = []byte(text)
	}
	require.NoError(t, daemon.Process.Signal(syscall.SIGTERM))
	require.Error(t, daemon.Wait())
	said["log of the daemon"] = log.Bytes()

	// Everything that a secret is used for fails.
	s.ca.Intercept(refuse)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "hook.url"), []byte("http://127.0.0.1:1"+string(secrets["path of the webhook"])), 0o600))
	run(1, debug("renew", "--force", "--json")...)
	dump := server.Dump("secrets")
	plain, err := openDatabase(postgres.Config{URL: databaseURL})
	require.NoError(t, err)
	defer closeStore(plain)
	var store certstore.Store
	if vault != nil {
		store = certstore.NewKeysApart(plain, openVault(t, vault))
	} else {
		store, err = sealed.New(plain, seal)
		require.NoError(t, err)
	}
	for number := 1; number <= 2; number++ {
		version, err := certstore.LoadVersion(context.Background(), store, "maas", number)
		require.NoError(t, err)
		bundle, err := version.Bundle.WithKey(context.Background())
		require.NoError(t, err)
		secrets.addKey(t, "key of version "+strconv.Itoa(number), string(bundle.KeyPEM()))
	}
	account, _, err := certstore.LoadAccount(context.Background(), store)
	require.NoError(t, err)
	accountKey, err := certstore.KeyText(context.Background(), store, "account", account.Key)
	require.NoError(t, err)
	secrets.addKey(t, "key of the account", accountKey)
	if vault != nil {
		require.NotContains(t, dump, "PRIVATE KEY")
		for _, break_ := range []func(){vault.Seal, vault.Down} {
			break_()
			run(1, debug("status", "--json")...)
			run(1, debug("renew", "--force", "--json")...)
			run(whatever, debug("check", "--json")...)
		}
	}
	server.Down()
	run(1, debug("status", "--json")...)
	run(1, debug("renew", "--json")...)
	server.Up()

	// Each was used, or nothing could have got out.
	require.Contains(t, string(said["standard output of [--log-level debug renew --force --json]"])+string(said["standard error of [--log-level debug renew --force --json]"]), "obtain")
	require.NotEmpty(t, told.hook.Requests())
	require.Equal(t, string(secrets["path of the webhook"]), told.hook.Requests()[0].Path)
	require.NotEmpty(t, told.chat.Requests())
	require.NotEmpty(t, told.mail.Mails())
	programs, err := os.ReadFile(seen)
	require.NoError(t, err)
	for _, name := range []string{"maas.sh config-tls enable", "around.sh", "program"} {
		require.Contains(t, string(programs), "ran "+filepath.Join(s.dir, name))
	}
	page, _, _, _, _ := told.told()
	require.NotEmpty(t, page, "MAAS's own page was told, with the API key")
	said["programs that were run"], said["dump of the database"] = programs, []byte(dump)

	searched := 0
	for where, text := range said {
		require.Empty(t, secrets.in(text), where)
		require.NotRegexp(t, `hv[sbr]\.[A-Za-z0-9]{20}`, string(text), "a token of Vault's")
		searched++
	}
	own := []string{"eab", "tsig", "store.url", "store.seal", "hook.url", "hook.secret", "chat.url", "mail.password", "api.key", "role_id", "secret_id"}
	require.NoError(t, filepath.WalkDir(s.dir, func(path string, entry fs.DirEntry, err error) error {
		relative := strings.TrimPrefix(path, s.dir+"/")
		switch {
		case err != nil:
			return err
		case slices.Contains([]string{"region1", "region2", "region3"}, relative): // MAAS's own
			return fs.SkipDir
		case !entry.Type().IsRegular() || slices.Contains(own, relative):
			return nil
		}
		text, err := os.ReadFile(path)
		require.Empty(t, secrets.in(text), path)
		searched++
		return err
	}))
	// The search finds what there is, also a key in a document, in a log, and in a dump.
	key := accountKey
	document, err := json.Marshal(map[string]string{"key": key})
	require.NoError(t, err)
	for _, planted := range []string{key, string(document), fmt.Sprintf("%q", document), hex.EncodeToString([]byte(key)), `\\x` + hex.EncodeToString(document)} {
		require.NotEmpty(t, secrets.in([]byte(strings.ReplaceAll(planted, "PRIVATE KEY", "CERTIFICATE"))), planted)
		require.NotEmpty(t, secrets.in([]byte(planted)))
	}
	for what, secret := range secrets {
		for _, one := range spellings(secret) {
			require.NotEmpty(t, secrets.in([]byte("x"+one+"y")), what)
			if !strings.ContainsAny(one, "\n\\") {
				require.NotEmpty(t, secrets.in([]byte("x"+one[:len(one)/2]+"\n"+one[len(one)/2:]+"y")), what)
			}
		}
	}
	t.Logf("%d secrets, each in up to 11 spellings, are in none of %d texts and files (%d kB of logs)", len(secrets), searched, log.Len()/1000)
}
