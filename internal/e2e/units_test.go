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
	require.LessOrEqual(t, exposure(t, root), 7.0)
	put(t, filepath.Join(shipped, "maascert.service.d", "deb.conf"), filepath.Join(units, "maascert.service.d", "deb.conf"))
	require.LessOrEqual(t, exposure(t, root), 3.5)
}

func put(t *testing.T, from, to string) {
	t.Helper()
	text, err := os.ReadFile(from)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(to, text, 0o644))
}

var overall = regexp.MustCompile(`Overall exposure level for maascert\.service: ([0-9.]+)`)

func exposure(t *testing.T, root string) float64 {
	t.Helper()
	out, err := exec.Command("systemd-analyze", "security", "--no-pager", "--offline=true", "--root="+root, "maascert.service").CombinedOutput()
	require.NoError(t, err, string(out))
	match := overall.FindSubmatch(out)
	require.NotNil(t, match, string(out))
	level, err := strconv.ParseFloat(string(match[1]), 64)
	require.NoError(t, err)
	t.Logf("exposure %v", level)
	return level
}
