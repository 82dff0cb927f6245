//go:build e2e

package e2e

import (
	"context"
	"encoding/base64"
	"encoding/hex"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/sealed"
	"maascert/internal/fleettest"
)

// fleet starts one in a network of its own; it returns nil outside of that, where the test is over.
func fleet(t *testing.T, options fleettest.Options) *fleettest.Fleet {
	t.Helper()
	require.Zero(t, os.Geteuid(), "network namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^"+t.Name()+"$", "-test.v", "-test.timeout", "30m")
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
	require.Eventually(t, func() bool {
		leaf := f.Converged()
		if leaf == nil {
			return false
		}
		fingerprint = certstore.Fingerprint(leaf)
		return true
	}, within, 50*time.Millisecond, "not everybody serves the same")
	require.Eventually(t, func() bool {
		for _, h := range f.Hosts {
			s := status(t, h)
			if !s.Healthy || s.Certificates[0].Fingerprint != fingerprint {
				return false
			}
		}
		return true
	}, within, 200*time.Millisecond, "not every host agrees")
	t.Logf("all serve %s, and every host says so, after %v", fingerprint[:15], time.Since(began).Round(10*time.Millisecond))
	return fingerprint
}

// Three hosts that are started at once on an empty store are one: one account, one order, one call of config-tls, one voice.
func TestThreeHostsAreOne(t *testing.T) {
	told := filepath.Join(t.TempDir(), "told")
	f := fleet(t, fleettest.Options{Validity: 24 * time.Hour, More: `notify:
  - {name: program, type: exec, command: [sh, -c, "cat >> ` + told + `; echo >> ` + told + `"], events: [all]}
`})
	if f == nil {
		return
	}
	began := time.Now()
	var group sync.WaitGroup
	for _, h := range f.Hosts {
		group.Go(h.Run)
	}
	group.Wait()
	converged(t, f, time.Minute)
	t.Logf("from the start on it took %v", time.Since(began).Round(10*time.Millisecond))
	require.Equal(t, 1, f.CA.Orders(), "orders")
	require.Len(t, f.CA.Issued(), 1)
	require.Len(t, f.MAAS.Calls(), 1, "calls of config-tls")
	require.Eventually(t, func() bool {
		text, _ := os.ReadFile(told)
		return strings.Count(string(text), `"event":"obtained"`) == 1 && strings.Count(string(text), `"event":"deployed"`) == 4
	}, 20*time.Second, 100*time.Millisecond)
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
	require.NotContains(t, read(t, told), `"event":"failed"`)
	searchForKeys(t, f)
}

func read(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	return string(text)
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
	out, code := f.Hosts[1].Maascert(t.Context(), "renew", "--force", "--cert", "maas")
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
	require.Eventually(t, func() bool { return passes() >= first+5 }, 30*time.Second, 10*time.Millisecond)
	var questions []string
	for line := range strings.Lines(f.Primary.Log()[log:]) {
		if strings.HasPrefix(line, h.StoreAddress()) && strings.Contains(line, "LOG:  ") && !strings.Contains(line, "where starts_with(name, $1)") {
			questions = append(questions, strings.TrimSpace(line))
		}
	}
	n := passes() - first
	t.Logf("%d passes made %d statements", n, len(questions))
	require.LessOrEqual(t, len(questions), 5*n, strings.Join(questions, "\n"))
	require.NotEmpty(t, questions)
}

// searchForKeys looks for keys in a dump of the database.
func searchForKeys(t *testing.T, f *fleettest.Fleet) {
	t.Helper()
	dump := f.Primary.Dump("maascert")
	require.Contains(t, dump, "versions/maas/1")
	plain, err := postgres.Open(postgres.Config{URL: f.DatabaseURL()})
	require.NoError(t, err)
	store, err := sealed.New(plain, fleettest.Seal)
	require.NoError(t, err)
	defer store.Close()
	secrets := secretsIn(t, store)
	for _, secret := range secrets {
		for _, form := range []string{secret, hex.EncodeToString([]byte(secret)), base64.StdEncoding.EncodeToString([]byte(secret))} {
			require.NotContains(t, dump, form)
		}
	}
	t.Logf("%d secrets in three forms are not in a dump of %d bytes", len(secrets), len(dump))
}
