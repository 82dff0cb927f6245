//go:build e2e

package e2e

import (
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
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
		out, _ := h.Maascert(t.Context(), "status")
		t.Logf("%s: status\n%s", h.Name, out)
	}
	text, err := os.ReadFile(told)
	require.NoError(t, err)
	t.Logf("told:\n%s", text)
}
