package command

import (
	"bytes"
	"net"
	"os"
	"path/filepath"
	"slices"
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

// What systemd is told: that the daemon is ready, how it is and when it looks again, that it is at work, and that it ends.
func TestDaemonTellsSystemd(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	// A socket's path may have 107 bytes at the most.
	dir, err := os.MkdirTemp("", "maascert")
	require.NoError(t, err)
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	socket := filepath.Join(dir, "notify")
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: socket, Net: "unixgram"})
	require.NoError(t, err)
	defer conn.Close()
	cmd := program(t.Context(), t, s, "run")
	cmd.Env = append(cmd.Environ(), "NOTIFY_SOCKET="+socket, "WATCHDOG_USEC=200000")
	require.NoError(t, cmd.Start())
	told := map[string]bool{}
	buffer := make([]byte, 4096)
	read := func(wanted ...string) {
		t.Helper()
		require.NoError(t, conn.SetReadDeadline(time.Now().Add(30*time.Second)))
		for !slices.ContainsFunc(wanted, func(text string) bool { return told[text] }) {
			n, err := conn.Read(buffer)
			require.NoError(t, err, "%v after %v", wanted, told)
			text, _, _ := strings.Cut(string(buffer[:n]), "; next look 20")
			told[text] = true
		}
	}
	for _, wanted := range []string{"READY=1", "WATCHDOG=1", "STATUS=maas: missing"} {
		read(wanted)
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	read("STOPPING=1")
	require.Error(t, cmd.Wait())
}
