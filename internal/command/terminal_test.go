package command

import (
	"bufio"
	"path/filepath"
	"strings"
	"testing"

	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/world"
)

// A19: what nobody can take back is asked of a person first, and done only after a yes.
func TestAPersonIsAskedFirst(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force")
	require.Zero(t, code, stderr)
	isRevoked := func(number int) bool {
		version, err := certstore.LoadVersion(t.Context(), certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store")), "maas", number)
		require.NoError(t, err)
		return s.ca.IsRevoked(version.Bundle.Leaf())
	}
	for _, row := range []struct {
		args     []string
		question string
		isDone   func() bool
	}{
		{[]string{"revoke", "--version", "1"}, "Nobody can take that back. [y/N] ", func() bool { return isRevoked(1) }},
		{[]string{"revoke"}, "Nobody can take that back. [y/N] ", func() bool { return isRevoked(2) }},
		{[]string{"account", "deactivate"}, "Nobody can use it or its key again. [y/N] ", func() bool {
			_, stdout, _ := inSite(t, s, world.OS{}, "account", "show")
			return !strings.Contains(stdout, "registered")
		}},
	} {
		for _, answer := range []string{"", "n", "y"} {
			require.False(t, row.isDone(), "%v before %q", row.args, answer)
			code := answered(t, s, row.question, answer, row.args...)
			require.Equal(t, answer != "y", code != 0, "%v: %d after %q", row.args, code, answer)
		}
		require.True(t, row.isDone(), row.args)
	}
}

// answered runs the program at a terminal, where a person answers its question with a line; its exit code.
func answered(t *testing.T, s *site, question, answer string, args ...string) int {
	t.Helper()
	cmd := program(t.Context(), t, s, args...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: 50, Cols: 200})
	require.NoError(t, err)
	defer terminal.Close()
	said, output := "", bufio.NewReader(terminal)
	for !strings.HasSuffix(said, question) {
		one, err := output.ReadByte()
		require.NoError(t, err, said)
		said += string(one)
	}
	_, err = terminal.WriteString(answer + "\n")
	require.NoError(t, err)
	for err == nil {
		_, err = output.ReadByte() // a terminal whose other end is gone says EIO
	}
	_ = cmd.Wait()
	return cmd.ProcessState.ExitCode()
}
