package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

// log is a daemon's standard error, safe to read while it writes.
type log struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *log) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *log) has(text string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Contains(l.buf.String(), text)
}

// The daemon renews by itself, takes a new configuration at SIGHUP, keeps the old one when the new one is bad, and heals
// what breaks between.
func TestDaemon(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	before, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
	require.NoError(t, err)
	require.NoError(t, s.maas.Enable(t.Context(), before, 5443))

	cmd := program(t.Context(), t, s, "run")
	stderr := new(log)
	cmd.Stderr = stderr
	require.NoError(t, cmd.Start())
	until := func(what string, is func() bool) {
		t.Helper()
		require.Eventually(t, is, 30*time.Second, 5*time.Millisecond, what)
	}
	serves := func(name string) func() bool {
		return func() bool {
			for _, region := range s.maas.Regions {
				if leaf := region.Serves(5443); leaf == nil || leaf.Equal(before.Leaf()) || leaf.VerifyHostname(name) != nil {
					return false
				}
			}
			return true
		}
	}
	until("it replaces what was there at its start", serves("region1.example.internal"))

	path := filepath.Join(s.dir, "maascert.yaml")
	good, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte("nonsense: true\n"), 0o640))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	until("a bad configuration is told", func() bool { return stderr.has("the old one stays in force") })
	until("what is wrong is told", func() bool { return stderr.has(`unknown key`) })

	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(good), "region1.example.internal", "region1.example.internal, new.example.internal", 1)), 0o640))
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	until("a new name is obtained at once", serves("new.example.internal"))

	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	require.Len(t, s.maas.Calls(), 2)
	checkConverged(t, s, 2)
}
