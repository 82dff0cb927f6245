//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/sealed"
	"maascert/internal/fleettest"
	"maascert/notify/notifytest"
)

// fleet starts one in a network of its own; it returns nil outside of that, where the test is over.
func fleet(t *testing.T, options fleettest.Options) *fleettest.Fleet {
	t.Helper()
	require.Zero(t, os.Geteuid(), "network namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "85m")
	require.NoError(t, err)
	if !isInside {
		return nil
	}
	options.Dir, options.Program = t.TempDir(), os.Getenv("MAASCERT_E2E_BINARY")
	f := fleettest.Start(t, options)
	t.Cleanup(func() {
		if t.Failed() {
			for _, h := range f.Hosts {
				t.Logf("%s said:\n%s", h.Name, tail(h.Log(), 100))
				out, _ := h.Maascert(context.Background(), "status")
				t.Logf("%s: status:\n%s", h.Name, out)
			}
		}
	})
	return f
}

func tail(text string, lines int) string {
	all := strings.Split(text, "\n")
	return strings.Join(all[max(0, len(all)-lines):], "\n")
}

// statusOf is what a host says of the fleet.
type statusOf struct {
	Healthy bool
	Fleet   struct {
		Nodes []struct {
			Node     string
			LastPass time.Time `json:"last_pass"`
			OK       bool
		}
	}
	Certificates []struct {
		State, Fingerprint string
		Version            int
	}
}

func status(t *testing.T, h *fleettest.Host) (s statusOf) {
	t.Helper()
	out, _ := h.Output(t.Context(), "status", "--json")
	require.NoError(t, json.Unmarshal(out, &s), string(out))
	return s
}

// converged waits until every region and proxy serves one certificate, and every host finds it well.
func converged(t *testing.T, f *fleettest.Fleet, within time.Duration) (fingerprint string) {
	t.Helper()
	began := time.Now()
	for {
		var last string
		if fingerprint, last = agreed(t, f); last == "" {
			break
		}
		require.Less(t, time.Since(began), within, "the fleet is not one: %s", last)
		time.Sleep(100 * time.Millisecond)
	}
	t.Logf("all serve %s, and every host says so, after %v", fingerprint[:15], time.Since(began).Round(10*time.Millisecond))
	return fingerprint
}

// agreed is what everybody serves, and every host finds well; or why it is not so.
func agreed(t *testing.T, f *fleettest.Fleet) (fingerprint, not string) {
	t.Helper()
	leaf := f.Converged()
	if leaf == nil {
		return "", "not everybody serves the same"
	}
	fingerprint = certstore.Fingerprint(leaf)
	for _, h := range f.Hosts {
		if s := status(t, h); !s.Healthy || s.Certificates[0].Fingerprint != fingerprint {
			return "", fmt.Sprintf("%s: %+v, while %s is served", h.Name, s, fingerprint)
		}
	}
	return fingerprint, ""
}

// Three hosts that are started at once on an empty store are one: one account, one order, one call of config-tls, one voice.
func TestThreeHostsAreOne(t *testing.T) {
	f := fleet(t, fleettest.Options{Validity: 24 * time.Hour})
	if f == nil {
		return
	}
	told := tellAll(t, f)
	began := time.Now()
	var group sync.WaitGroup
	for _, h := range f.Hosts {
		group.Go(h.Run)
	}
	group.Wait()
	require.Eventually(t, func() bool { return f.MAAS.Stored() != nil && len(f.MAAS.Calls()) > 0 && isServedByAllRegions(f) }, time.Minute, 10*time.Millisecond)
	t.Logf("all regions serve it %v after the start", time.Since(began).Round(10*time.Millisecond))
	converged(t, f, time.Minute)
	t.Logf("all proxies too, and every host agrees, after %v", time.Since(began).Round(10*time.Millisecond))
	accounts := 0
	for _, request := range f.CA.Requests() {
		if request.Path == acmetest.NewAccount {
			accounts++
		}
	}
	require.Equal(t, []int{1, 1, 1, 1}, []int{accounts, f.CA.Orders(), len(f.CA.Issued()), len(f.MAAS.Calls())}, "accounts, orders, certificates, calls of config-tls")
	for name, kinds := range told() {
		require.Equal(t, map[string]int{"obtained": 1, "deployed": 4}, kinds, name)
	}
	require.Empty(t, f.MAAS.Notifications(), "MAAS's page has nothing to show")
	for _, h := range f.Hosts {
		out, code := h.Maascert(t.Context(), "status")
		require.Zero(t, code, out)
		require.Contains(t, out, "3 hosts:\n  3 of 3 found version 1 of maas wherever they look\n")
		for _, other := range f.Hosts {
			require.Contains(t, out, "  "+other.Name+": well at its last pass, ")
		}
	}
	measureARollout(t, f)
	countQuestions(t, f)
	for name, kinds := range told() {
		require.Zero(t, kinds["failed"], name)
		require.Equal(t, 2, kinds["obtained"], name)
	}
	searchForKeys(t, f)
}

// tellAll gives every host all types of notifiers, and returns how often each notifier was told of each kind of event, when nothing is on its way
// any more.
func tellAll(t *testing.T, f *fleettest.Fleet) (told func() map[string]map[string]int) {
	t.Helper()
	hook, chat, mail := notifytest.NewServer(t, notifytest.Well, ""), notifytest.NewServer(t, notifytest.Well, ""), notifytest.NewMailServer(t, notifytest.Well, false)
	for _, address := range []string{strings.TrimPrefix(hook.URL, "http://"), strings.TrimPrefix(chat.URL, "http://"), net.JoinHostPort(mail.Host, strconv.Itoa(mail.Port))} {
		f.Forward(address)
	}
	file := filepath.Join(t.TempDir(), "told")
	key := f.MAAS.APIKey("admin", true)
	for _, h := range f.Hosts {
		for name, text := range map[string]string{
			"hook.url": hook.URL, "chat.url": "mattermost://maascert@" + strings.TrimPrefix(chat.URL, "http://") + "/T0KENOFTHETEST?disabletls=yes",
			"mail.root": mail.Root, "mail.password": mail.Password, "api.key": key, "program": "#!/bin/sh\ncat >>" + file + "\n",
		} {
			require.NoError(t, os.WriteFile(filepath.Join(h.Dir, name), []byte(text), 0o700))
		}
		h.Edit("maas: {command:", fmt.Sprintf("maas: {api: {url: \"http://%s:5240/MAAS\", key: \"file:api.key\"}, command:", h.Address), "store: {type", fmt.Sprintf(`notify:
  - {name: ui, type: maas}
  - {name: ops, type: smtp, host: %s, port: %d, root: mail.root, user: %s, password: "file:mail.password", from: maascert@example.com, to: [ops@example.com], events: [all]}
  - {name: hook, type: webhook, url: "file:hook.url", events: [all]}
  - {name: talk, type: chat, url: "file:chat.url", events: [all]}
  - {name: script, type: exec, command: [%s], events: [all]}
store: {type`, mail.Host, mail.Port, mail.User, filepath.Join(h.Dir, "program")))
	}
	summaries := [][2]string{{"A new certificate for", "obtained"}, {" serves the certificate of", "deployed"}, {"cannot", "failed"}, {"did not", "failed"}}
	return func() map[string]map[string]int {
		t.Helper()
		var kinds map[string]map[string]int
		count := func() int {
			kinds = map[string]map[string]int{"smtp": {}, "webhook": {}, "chat": {}, "exec": {}}
			note := func(notifier, text string) {
				for _, one := range summaries {
					if strings.Contains(text, one[0]) {
						kinds[notifier][one[1]]++
						return
					}
				}
				kinds[notifier]["other"]++
			}
			for _, one := range mail.Mails() {
				note("smtp", strings.NewReplacer("=\r\n", "", "\r\n", " ").Replace(one.Data))
			}
			for _, one := range hook.Requests() {
				note("webhook", one.Body)
			}
			for _, one := range chat.Requests() {
				note("chat", one.Body)
			}
			text, _ := os.ReadFile(file)
			for line := range strings.Lines(string(text)) {
				note("exec", line)
			}
			return len(mail.Mails()) + len(hook.Requests()) + len(chat.Requests()) + strings.Count(string(text), "\n")
		}
		for before, same := -1, 0; same < 10; time.Sleep(200 * time.Millisecond) { // two seconds without a word
			if now := count(); now == before {
				same++
			} else {
				before, same = now, 0
			}
		}
		return kinds
	}
}

// measureARollout takes the time from "the CA has issued" to "every region is verified": MAAS's own reload and two seconds more at most.
func measureARollout(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	var issued, called, served time.Time
	before, calls := len(f.CA.Issued()), len(f.MAAS.Calls())
	done := make(chan struct{})
	watching := make(chan struct{})
	go func() {
		defer close(watching)
		for served.IsZero() {
			select {
			case <-done:
				return
			case <-time.After(2 * time.Millisecond):
			}
			if issued.IsZero() && len(f.CA.Issued()) > before {
				issued = time.Now()
			}
			if called.IsZero() && len(f.MAAS.Calls()) > calls {
				called = time.Now()
			}
			if !called.IsZero() && isServedByAllRegions(f) {
				served = time.Now()
			}
		}
	}()
	out, code := f.Hosts[1].Maascert(t.Context(), "renew", "--force", "--wait", "30s", "--cert", "maas")
	verified := time.Now()
	close(done)
	<-watching
	require.Zero(t, code, out)
	require.False(t, issued.IsZero() || served.IsZero(), "the rollout was not seen")
	reload, all := served.Sub(called), verified.Sub(issued)
	t.Logf("from issued to verified everywhere, told and written down: %v, of which MAAS's own reload is %v", all.Round(time.Millisecond), reload.Round(time.Millisecond))
	require.Less(t, all, reload+2*time.Second)
	require.Len(t, f.MAAS.Calls(), calls+1)
	converged(t, f, 30*time.Second)
}

// isServedByAllRegions tells whether all regions serve what MAAS stores.
func isServedByAllRegions(f *fleettest.Fleet) bool {
	stored, err := certstore.Parse([]byte(f.MAAS.Stored().Key), []byte(f.MAAS.Stored().Cert))
	if err != nil {
		return false
	}
	for _, region := range f.MAAS.Regions {
		if served := region.Serves(5443); served == nil || !served.Equal(stored.Leaf()) {
			return false
		}
	}
	return true
}

// countQuestions counts the statements of passes that find nothing to do.
func countQuestions(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	f.Primary.Statements()
	h := f.Hosts[0]
	h.Edit("store: {type", "schedule: \"@every 2s\"\nstore: {type")
	h.Reload()
	passes := func() int { return strings.Count(h.Log(), "msg=\"nothing to do\"") }
	began := passes()
	require.Eventually(t, func() bool { return passes() >= began+3 }, 30*time.Second, 10*time.Millisecond)
	log, first := len(f.Primary.Log()), passes()
	require.Eventually(t, func() bool { return passes() >= first+6 }, 30*time.Second, 10*time.Millisecond)
	var questions []string
	n, whole := -1, 0 // passes from the first end on, each of which is marked by what the host says of itself, and their statements
	for line := range strings.Lines(f.Primary.Log()[log:]) {
		if strings.HasPrefix(line, h.StoreAddress()) && n >= 0 && strings.Contains(line, "DETAIL:  parameters") && len(line) < 500 {
			questions[len(questions)-1] += " " + strings.TrimSpace(line)
		}
		if !strings.HasPrefix(line, h.StoreAddress()) || !strings.Contains(line, "LOG:  ") || strings.Contains(line, "where starts_with(name, $1)") {
			continue
		}
		if n >= 0 {
			questions = append(questions, strings.TrimSpace(line))
		}
		if strings.Contains(line, ": with fenced as") {
			n, whole = n+1, len(questions)
		}
	}
	t.Logf("%d passes made %d statements", n, whole)
	require.GreaterOrEqual(t, n, 4)
	require.LessOrEqual(t, whole, 5*n, strings.Join(questions, "\n"))
	require.NotEmpty(t, questions)
}

// searchForKeys looks for keys in a dump of the database.
func searchForKeys(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	dump := f.Primary.Dump("maascert")
	require.Contains(t, dump, "versions/maas/1")
	store := f.Store()
	defer store.(interface{ Close() }).Close()
	secrets := secretsIn(t, store)
	for _, secret := range secrets {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))} {
			require.NotContains(t, dump, form)
		}
	}
	t.Logf("%d secrets in three forms are not in a dump of %d bytes", len(secrets), len(dump))
}

// The fleet has one memory: what one host was told to wish the others follow, who was away catches up, who works keeps the others out, and
// a store that is away, or was restored from an older copy, costs nothing.
func TestAFleetHasOneMemory(t *testing.T) {
	told := filepath.Join(t.TempDir(), "told")
	f := fleet(t, fleettest.Options{Validity: 90 * 24 * time.Hour, More: "rehearse: never\nnotify:\n  - {name: program, type: exec, command: [sh, -c, \"cat >> " + told + "; echo >> " + told + "\"]}\n"})
	if f == nil {
		return
	}
	for _, h := range f.Hosts {
		h.Run()
	}
	converged(t, f, time.Minute)
	configureOneByOne(t, f)
	comeBack(t, f)
	workAlone(t, f)
	upgrade(t, f)
	loseTheStore(t, f)
	restoreTheStore(t, f)
	if text, err := os.ReadFile(told); err == nil {
		require.NotContains(t, string(text), `"event":"failed"`)
	}
}

// configureOneByOne changes the names on one host after another: one order.
func configureOneByOne(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	orders := f.CA.Orders()
	for i, h := range f.Hosts {
		h.Edit("other.fleet.test", "another.fleet.test")
		passes := strings.Count(h.Log(), "msg=sleeping")
		h.Reload()
		require.Eventually(t, func() bool { return strings.Count(h.Log(), "msg=sleeping") > passes }, time.Minute, 50*time.Millisecond)
		require.Eventually(t, func() bool {
			leaf := f.Converged()
			return leaf != nil && slices.Contains(leaf.DNSNames, "another.fleet.test")
		}, time.Minute, 50*time.Millisecond)
		converged(t, f, time.Minute)
		if last := f.Hosts[len(f.Hosts)-1]; i == 0 {
			out, code := last.Maascert(t.Context(), "status")
			require.Zero(t, code, out)
			require.Contains(t, out, "this host's configuration differs from the one that is followed")
			_, code = last.Maascert(t.Context(), "renew", "--wait", "30s")
			require.Zero(t, code)
		}
	}
	require.Equal(t, orders+1, f.CA.Orders(), "three hosts changed one by one make one order")
}

// comeBack has a host be away while the others renew.
func comeBack(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	away := f.Hosts[2]
	away.Stop()
	out, code := f.Hosts[0].Maascert(t.Context(), "renew", "--force", "--wait", "30s")
	require.Zero(t, code, out)
	require.Nil(t, f.Converged(), "the proxy of the host that is away serves the old one")
	began := time.Now()
	away.Run()
	require.Eventually(t, func() bool { return f.Converged() != nil }, 20*time.Second, 50*time.Millisecond)
	t.Logf("a host that was away caught up %v after its start", time.Since(began).Round(10*time.Millisecond))
	converged(t, f, time.Minute)
}

// workAlone has a host renew while another one does.
func workAlone(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	asked, goOn := make(chan struct{}), make(chan struct{})
	first := sync.OnceFunc(func() { close(asked) })
	f.CA.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		if r.URL.Path == acmetest.NewOrder {
			first()
			<-goOn
		}
		next.ServeHTTP(w, r)
	})
	done := make(chan int, 1)
	go func() {
		_, code := f.Hosts[0].Maascert(t.Context(), "renew", "--force", "--wait", "30s")
		done <- code
	}()
	<-asked
	out, code := f.Hosts[1].Maascert(t.Context(), "renew", "--force")
	require.Equal(t, 3, code, out)
	require.Contains(t, out, " on region1, since ")
	out, _ = f.Hosts[2].Maascert(t.Context(), "status")
	require.Contains(t, out, "maas is being worked on by region1 (process ")
	close(goOn)
	require.Zero(t, <-done)
	f.CA.Intercept(nil)
	converged(t, f, time.Minute)
}

// upgrade has a host run another build of maascert, on a store that a later one has added to: they work together, and nothing that was added is
// lost.
func upgrade(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	upgraded := f.Hosts[1]
	upgraded.Program = filepath.Join(t.TempDir(), "maascert")
	build := exec.Command("go", "build", "-trimpath", "-buildvcs=false", "-ldflags", "-s -w", "-o", upgraded.Program, "maascert/cmd/maascert")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	out, err := build.CombinedOutput()
	require.NoError(t, err, string(out))
	f.Primary.Exec("maascert", "alter table maascert.document add column later text default 'x'", "create table maascert.later (x int)", "update maascert.meta set version = 7")
	plain, err := postgres.Open(postgres.Config{URL: f.DatabaseURL()})
	require.NoError(t, err)
	store, err := sealed.New(plain, fleettest.Seal)
	require.NoError(t, err)
	defer store.Close()
	for _, name := range []string{"state/maas", "account", "nodes/region1"} {
		for {
			data, revision, err := store.Read(t.Context(), name)
			require.NoError(t, err)
			_, err = store.Write(t.Context(), name, slices.Concat([]byte(`{"added later": [1],`), data[1:]), revision)
			if errors.Is(err, certstore.ErrConflict) {
				continue
			}
			require.NoError(t, err)
			break
		}
	}
	upgraded.Stop()
	upgraded.Run()
	for _, h := range f.Hosts {
		out, code := h.Maascert(t.Context(), "renew", "--force", "--wait", "30s")
		require.Zero(t, code, out)
		converged(t, f, time.Minute)
	}
	for _, name := range []string{"state/maas", "account", "nodes/region1"} {
		data, _, err := store.Read(t.Context(), name)
		require.NoError(t, err)
		require.Contains(t, string(data), `"added later":`, name)
	}
	words, code := f.Hosts[0].Maascert(t.Context(), "status")
	require.Zero(t, code, words)
	require.Contains(t, words, "it runs maascert ", "the other version is told of")
}

// loseTheStore has both databases be away for a while.
func loseTheStore(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	orders, before := f.CA.Orders(), f.Converged()
	f.Secondary.Down()
	f.Primary.Down()
	for _, h := range f.Hosts {
		out, code := h.Maascert(t.Context(), "status")
		require.Equal(t, 1, code)
		require.Contains(t, out, "does PostgreSQL run there")
		require.Contains(t, out, "what is stored cannot be read")
		require.Contains(t, out, h.Address.String()+":5443 serves sha256:")
	}
	require.True(t, before.Equal(f.Converged()), "nothing breaks that works")
	f.Primary.Up()
	f.Heal()
	converged(t, f, time.Minute)
	require.Equal(t, orders, f.CA.Orders())
}

// restoreTheStore goes back to a copy of the store from before a renewal.
func restoreTheStore(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	version := status(t, f.Hosts[0]).Certificates[0].Version
	dump := f.Primary.Dump("maascert")
	_, code := f.Hosts[0].Maascert(t.Context(), "renew", "--force", "--wait", "30s")
	require.Zero(t, code)
	served := converged(t, f, time.Minute)
	orders, calls := f.CA.Orders(), len(f.MAAS.Calls())
	for _, h := range f.Hosts {
		h.Stop()
	}
	f.Primary.Restore("maascert", dump)
	for _, h := range f.Hosts {
		h.Run()
	}
	require.Eventually(t, func() bool {
		for _, node := range status(t, f.Hosts[0]).Fleet.Nodes {
			if node.OK {
				return false
			}
		}
		return true
	}, 30*time.Second, 200*time.Millisecond, "every host says what it found")
	for _, h := range f.Hosts {
		out, code := h.Maascert(t.Context(), "renew", "--wait", "30s")
		require.Equal(t, 1, code, out)
		require.Contains(t, out, fmt.Sprintf("version %d is served, which the store has lost", version+1))
	}
	require.Equal(t, served, certstore.Fingerprint(f.Converged()), "it is kept in service")
	require.Equal(t, orders, f.CA.Orders(), "no order before it is due")
	require.Len(t, f.MAAS.Calls(), calls)
	out, code := f.Hosts[1].Maascert(t.Context(), "renew", "--force", "--wait", "30s")
	require.Zero(t, code, out)
	require.Contains(t, out, fmt.Sprintf("obtained version %d ", version+2))
	converged(t, f, time.Minute)
}
