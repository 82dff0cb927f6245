//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"testing"

	"github.com/stretchr/testify/require"
)

// H4: how exposed the shipped units are, as systemd itself scores it from 0 to 10: the one for snap and deb, and with the
// deb's drop-in.
func TestH4TheUnitsAreClosed(t *testing.T) {
	t.Parallel()
	shipped := filepath.Join("..", "..", "examples", "systemd")
	root := t.TempDir()
	units := filepath.Join(root, "etc", "systemd", "system")
	require.NoError(t, os.MkdirAll(filepath.Join(units, "maascert.service.d"), 0o755))
	put(t, filepath.Join(shipped, "maascert.service"), filepath.Join(units, "maascert.service"))
	require.LessOrEqual(t, exposure(t, root, "maascert.service"), 7.0)
	put(t, filepath.Join(shipped, "maascert.service.d", "deb.conf"), filepath.Join(units, "maascert.service.d", "deb.conf"))
	require.LessOrEqual(t, exposure(t, root, "maascert.service"), 3.5)
	put(t, filepath.Join(shipped, "maascert-respond.service"), filepath.Join(units, "maascert-respond.service"))
	require.LessOrEqual(t, exposure(t, root, "maascert-respond.service"), 1.7)
}

// systemd finds nothing wrong in any unit, which stand where the README says, beside the program.
func TestTheUnitsAreValid(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	units, programs := filepath.Join(root, "etc", "systemd", "system"), filepath.Join(root, "usr", "local", "bin")
	require.NoError(t, os.MkdirAll(programs, 0o755))
	require.NoError(t, os.CopyFS(units, os.DirFS(filepath.Join("..", "..", "examples", "systemd"))))
	require.NoError(t, os.CopyFS(filepath.Join(root, "usr", "lib", "systemd", "system"), os.DirFS("/usr/lib/systemd/system")))
	require.NoError(t, os.MkdirAll(filepath.Join(root, "bin"), 0o755))
	for _, program := range []string{filepath.Join(programs, "maascert"), filepath.Join(root, "bin", "sh")} {
		put(t, "/bin/true", program)
		require.NoError(t, os.Chmod(program, 0o755))
	}
	entries, err := os.ReadDir(units)
	require.NoError(t, err)
	checked := 0
	for _, entry := range entries {
		if entry.IsDir() {
			continue
		}
		out, err := exec.Command("systemd-analyze", "verify", "--man=no", "--recursive-errors=no", "--root="+root, entry.Name()).CombinedOutput()
		require.NoError(t, err, "%s: %s", entry.Name(), out)
		require.Empty(t, string(out), entry.Name())
		checked++
	}
	require.Equal(t, 4, checked)
}

// The answers of respond come from a process with the one right that its unit leaves it, and without a file to read.
func TestRespondNeedsOneRight(t *testing.T) {
	t.Parallel()
	unit, err := os.ReadFile(filepath.Join("..", "..", "examples", "systemd", "maascert-respond.service"))
	require.NoError(t, err)
	command := regexp.MustCompile(`(?m)^ExecStart=/usr/local/bin/maascert (.*)$`).FindSubmatch(unit)
	require.NotNil(t, command)
	const thumbprint = "ibBJhWuR4WUMGj0V2i4JvHL92vJ5FU4aP2sCWTmwUa8"
	// A network of its own has a port 80 that is free; the rights are those of the unit.
	script := `set -e
ip link set lo up
setpriv --reuid=nobody --regid=nogroup --clear-groups --no-new-privs --inh-caps=-all,+net_bind_service --ambient-caps=-all,+net_bind_service --bounding-set=-all,+net_bind_service \
	env -i THUMBPRINT=` + thumbprint + ` sh -c 'exec "$0" ` + string(command[1]) + `' "$1" &
for try in $(seq 100); do
	answer=$(curl -sf http://127.0.0.1/.well-known/acme-challenge/a-token-of-the-ca-0123456789) && break
	sleep 0.1
done
echo "$answer"
curl -sf -g "http://[::1]/.well-known/acme-challenge/a-token-of-the-ca-0123456789"; echo
grep -E '^(Uid|CapEff|CapBnd|NoNewPrivs):' /proc/$!/status
kill -TERM $!
wait $! || echo "exit $?"
`
	binary, err := filepath.Abs(os.Getenv("MAASCERT_E2E_BINARY"))
	require.NoError(t, err)
	dir, err := os.MkdirTemp("/tmp", "respond") // which others may enter
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	program := filepath.Join(dir, "maascert")
	put(t, binary, program)
	require.NoError(t, os.Chmod(program, 0o755))
	out, err := exec.Command("unshare", "-n", "bash", "-c", script, "bash", program).CombinedOutput()
	require.NoError(t, err, string(out))
	const answer = "a-token-of-the-ca-0123456789." + thumbprint + "\n"
	require.Equal(t, answer+answer+
		"Uid:\t65534\t65534\t65534\t65534\nCapEff:\t0000000000000400\nCapBnd:\t0000000000000400\nNoNewPrivs:\t1\nexit 130\n", string(out))
}

func put(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, text, 0o644))
}

var overall = regexp.MustCompile(`Overall exposure level for [a-z-]+\.service: ([0-9.]+)`)

func exposure(t *testing.T, root, unit string) float64 {
	t.Helper()
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--root="+root, unit).CombinedOutput()
	require.NoError(t, err, string(out))
	match := overall.FindSubmatch(out)
	require.NotNil(t, match, string(out))
	level, err := strconv.ParseFloat(string(match[1]), 64)
	require.NoError(t, err)
	t.Logf("exposure of %s %v", unit, level)
	return level
}
