package command

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/charmbracelet/x/vt"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"maascert/internal/lifecycle"
	"maascert/internal/world"
	"maascert/maasconfig/maastest"
)

// screenOf runs a program at a terminal and returns all that is to be read there at its end, line by line, and all that was written to it.
func screenOf(t *testing.T, cmd *exec.Cmd, columns, rows int, environment ...string) (screen []string, written string) {
	t.Helper()
	cmd.Env = append(cmd.Environ(), append([]string{"TERM=xterm-256color", "LC_ALL=C.UTF-8", "NO_COLOR="}, environment...)...)
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: uint16(rows), Cols: uint16(columns)})
	require.NoError(t, err)
	defer terminal.Close()
	// A terminal whose other end is gone says EIO.
	text, _ := io.ReadAll(terminal)
	_ = cmd.Wait()
	return shownAt(t, text, columns, rows), string(text)
}

// shownAt is what is to be read, line by line, at a terminal to which a text was written.
func shownAt(t *testing.T, text []byte, columns, rows int) (screen []string) {
	t.Helper()
	emulator := vt.NewEmulator(columns, rows)
	_, err := emulator.Write(text)
	require.NoError(t, err)
	for y := range emulator.ScrollbackLen() {
		var line strings.Builder
		for x := range columns {
			if cell := emulator.ScrollbackCellAt(x, y); cell != nil {
				line.WriteString(cell.Content)
			}
		}
		screen = append(screen, strings.TrimRight(line.String(), " "))
	}
	for line := range strings.Lines(strings.TrimRight(emulator.String(), "\n ")) {
		screen = append(screen, strings.TrimRight(line, " \n"))
	}
	return screen
}

// At a terminal each name and endpoint has one line, which changes until it is done; no drawing leaves anything else behind.
func TestARenewalIsWatched(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for _, row := range []struct {
		name          string
		columns, rows int
		environment   []string
		done, failed  string
	}{
		{"a usual terminal", 80, 24, nil, "✓", "✗"},
		{"a wide one", 120, 40, nil, "✓", "✗"},
		{"a low one, on which most find no line of their own", 80, 6, nil, "✓", "✗"},
		{"one that is not UTF-8", 80, 24, []string{"LC_ALL=C"}, "+", "x"},
	} {
		slow := s.maas.Regions[1]
		slow.Break(maastest.Fault{Slow: 700 * time.Millisecond}) // some drawings long
		screen, written := screenOf(t, program(t.Context(), t, s, "renew", "--force", "--enable-tls"), row.columns, row.rows, row.environment...)
		all := strings.Join(screen, "\n")
		require.Contains(t, written, "\x1b[", row.name)
		for _, line := range screen {
			require.LessOrEqual(t, utf8.RuneCountInString(line), row.columns, "%s: %s", row.name, line)
		}
		if row.rows > 6 {
			for _, about := range []string{"CA 127.0.0.1:", "maas.example.internal", "region1.example.internal", "target maas", "maas " + s.maas.Regions[0].Address.String(), "maas " + slow.Address.String(), "maas " + s.maas.Regions[2].Address.String()} {
				isAbout := func(line string) bool { return strings.HasPrefix(line, about) }
				require.Equal(t, 1, countLines(screen, isAbout), "%s: %s has one line:\n%s", row.name, about, all)
				require.Equal(t, 1, countLines(screen, func(line string) bool { return isAbout(line) && strings.Contains(line, " "+row.done+" [") }), "%s: %s is done:\n%s", row.name, about, all)
			}
		}
		require.NotContains(t, all, row.failed+" [", row.name)
		require.Contains(t, all, "maas: obtained version ", row.name)
		if strings.HasPrefix(strings.Join(row.environment, ""), "LC_ALL=C") {
			require.Equal(t, len(written), utf8.RuneCountInString(written), "nothing but ASCII")
		}
	}

	s.maas.Regions[1].Break(maastest.Fault{Deaf: true})
	short := strings.Replace(s.config(), "verify_timeout: 20s", "verify_timeout: 1s", 1)
	require.NoError(t, os.WriteFile(s.dir+"/maascert.yaml", []byte(short), 0o640))
	screen, _ := screenOf(t, program(t.Context(), t, s, "renew", "--force"), 120, 24)
	about := "maas " + s.maas.Regions[1].Address.String()
	require.Equal(t, 1, countLines(screen, func(line string) bool { return strings.HasPrefix(line, about) && strings.Contains(line, "✗ [") }), strings.Join(screen, "\n"))
}

func countLines(lines []string, is func(string) bool) (count int) {
	for _, line := range lines {
		if is(line) {
			count++
		}
	}
	return count
}

// Lines that change are drawn only where they can be, and are wanted.
func TestWhoGetsPlainLines(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for _, row := range []struct {
		environment, told string
		args              []string
	}{
		{"NO_COLOR=1", "maas: region1.example.internal: proven\r\n", nil},
		{"TERM=dumb", "maas: region1.example.internal: proven\r\n", nil},
		{"TERM=", "maas: target maas: took version ", nil},
		{"LC_ALL=C.UTF-8", "msg=\"names proven\" cert=maas", []string{"-v"}},
		{"LC_ALL=C.UTF-8", "{\r\n  \"schema\": 1,", []string{"--json"}},
	} {
		screen, written := screenOf(t, program(t.Context(), t, s, append([]string{"renew", "--enable-tls", "--force"}, row.args...)...), 200, 24, row.environment)
		require.Contains(t, written, row.told, "%s %v", row.environment, row.args)
		require.NotContains(t, written, "\x1b", "%s %v", row.environment, row.args)
		require.Equal(t, row.args == nil, countLines(screen, func(line string) bool {
			return strings.Contains(line, "is told") || strings.HasSuffix(line, ": proven")
		}) > 0, "%s %v", row.environment, row.args)
	}
	code, stdout, stderr := inSite(t, s, world.OS{}, "renew", "--force")
	require.Zero(t, code)
	require.Empty(t, stderr, "in a pipe results are plain lines, and nothing stands beside them")
	require.Contains(t, stdout, "maas: obtained version 6")
	screen, _ := screenOf(t, program(t.Context(), t, s, "renew", "--dry-run"), 80, 24)
	require.Equal(t, 1, countLines(screen, func(line string) bool {
		return strings.HasPrefix(line, "CA 127.0.0.1:") && strings.Contains(line, " rehearsed, ")
	}), screen)
	require.Zero(t, countLines(screen, func(line string) bool { return strings.Contains(line, "took version") }), "a rehearsal tells nobody: %v", screen)
}

// However many there are, the lines that change fit the terminal, and the last drawing says how each came out.
func TestMoreThanATerminalHolds(t *testing.T) {
	t.Parallel()
	const columns, rows, names = 80, 12, 100
	written := &drawings{}
	lines := newLiveLines(written, columns, rows, false, true)
	var group sync.WaitGroup
	say := func(phase lifecycle.Phase, words string) {
		for n := range names {
			group.Go(func() {
				lines.tell(lifecycle.Progress{Certificate: "maas", Subject: fmt.Sprintf("region%d.example.internal", n), Phase: phase, Words: words})
			})
		}
		group.Wait()
	}
	say(lifecycle.Underway, "is asked")
	written.waitForAnother(t)
	say(lifecycle.Waiting, "is waited for")
	say(lifecycle.Underway, "is still asked")
	written.waitForAnother(t)
	say(lifecycle.Done, "proven")
	say(lifecycle.Done, "proven")
	lines.tell(lifecycle.Progress{Certificate: "maas", Subject: "late", Phase: lifecycle.Underway, Words: "nobody knows how it ends"})
	lines.end()
	screen := shownAt(t, written.text(), columns, rows)
	all := strings.Join(screen, "\n")
	require.Equal(t, rows-rowsLeft, countLines(screen, func(line string) bool { return strings.Contains(line, "proven") && strings.Contains(line, "✓ [") }), all)
	require.Equal(t, 1, countLines(screen, func(line string) bool {
		return strings.HasPrefix(line, fmt.Sprintf("and %d more, of which %d are through", names-rows+rowsLeft, names-rows+rowsLeft))
	}), all)
	require.Equal(t, 1, countLines(screen, func(line string) bool {
		return strings.Contains(line, "nobody knows") && strings.Contains(line, "✗ [")
	}), all)
	require.Len(t, screen, rows-rowsLeft+2, all)
}

// drawings are what was written to a terminal, which goes to the line's beginning with each new line.
type drawings struct {
	mu    sync.Mutex
	all   []byte
	count int
}

func (d *drawings) Write(text []byte) (int, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.all = append(d.all, bytes.ReplaceAll(text, []byte("\n"), []byte("\r\n"))...)
	d.count++
	return len(text), nil
}

func (d *drawings) text() []byte {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.all
}

func (d *drawings) waitForAnother(t *testing.T) {
	t.Helper()
	count := func() int {
		d.mu.Lock()
		defer d.mu.Unlock()
		return d.count
	}
	before := count()
	require.Eventually(t, func() bool { return count() > before }, 10*time.Second, newFrame/10)
}
