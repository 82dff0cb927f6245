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
	if columns == 0 {
		columns, rows = 200, 100
	}
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

// widest is how many columns the widest line takes of those that were written.
func widest(t *testing.T, written string) (most int) {
	t.Helper()
	for _, line := range shownAt(t, []byte(written), 1000, 100) {
		if len(strings.Fields(line)) == 1 { // a fingerprint stays whole
			continue
		}
		most = max(most, utf8.RuneCountInString(line))
	}
	return most
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
		require.LessOrEqual(t, widest(t, written), row.columns, row.name)
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
		{"TERM=", "maas: target maas: was told of version ", nil},
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
	for _, phase := range []lifecycle.Phase{lifecycle.Done, lifecycle.Underway, lifecycle.Done, lifecycle.Underway} {
		lines.tell(lifecycle.Progress{Certificate: "maas", Subject: "region50.example.internal", Phase: phase, Words: "comes and goes"})
	}
	written.waitForAnother(t)
	for n := range names {
		if n%50 == 7 { // with a line or without
			lines.tell(lifecycle.Progress{Certificate: "maas", Subject: fmt.Sprintf("region%d.example.internal", n), Phase: lifecycle.Failed, Words: "not proven"})
		}
	}
	say(lifecycle.Done, "proven")
	say(lifecycle.Done, "proven")
	lines.tell(lifecycle.Progress{Certificate: "maas", Subject: "late", Phase: lifecycle.Underway, Words: "nobody knows how it ends"})
	lines.end()
	lines.tell(lifecycle.Progress{Certificate: "maas", Subject: "later", Phase: lifecycle.Underway, Words: "is told to nobody"})
	screen := shownAt(t, written.text(), columns, rows)
	all := strings.Join(screen, "\n")
	for _, failed := range []string{"region7.", "region57."} {
		require.Equal(t, 1, countLines(screen, func(line string) bool {
			return strings.HasPrefix(line, "maas: "+failed) && strings.Contains(line, "not proven") && strings.Contains(line, "✗ [")
		}), "%s\n%s", failed, all)
	}
	// One that comes and goes is counted once.
	counted := 0
	require.Equal(t, 1, countLines(screen, func(line string) bool {
		var through int
		found, _ := fmt.Sscanf(line, "and %d more, of which %d are through", &counted, &through)
		return found == 2 && counted == through && strings.Contains(line, "✓ [")
	}), all)
	// Those that failed may come out well in the end.
	require.Equal(t, names, counted+countLines(screen, func(line string) bool { return strings.Contains(line, " proven ") && strings.Contains(line, "✓ [") }), all)
	require.Equal(t, 1, countLines(screen, func(line string) bool {
		return strings.Contains(line, "nobody knows") && strings.Contains(line, "✗ [")
	}), all)
	require.LessOrEqual(t, widest(t, string(written.text())), columns)
}

// What somebody types, such as ^C, leaves nothing behind on a line, and a terminal that gets narrower gets narrower lines.
func TestFramesAreWholeLines(t *testing.T) {
	t.Parallel()
	terminal, program, err := pty.Open()
	require.NoError(t, err)
	defer terminal.Close()
	defer program.Close()
	require.NoError(t, pty.Setsize(program, &pty.Winsize{Rows: 24, Cols: 20}))
	f := &frames{to: program}
	_, err = io.WriteString(program, "^C")
	require.NoError(t, err)
	_, err = f.Write([]byte(strings.Repeat("\x1b[32ma\x1b[0m", 30) + "\nb\n"))
	require.NoError(t, err)
	require.Equal(t, []string{strings.Repeat("a", 20), "b"}, shownAt(t, readUntil(t, terminal, "b\r\n"), 80, 24))

	low, end, err := pty.Open()
	require.NoError(t, err)
	defer low.Close()
	defer end.Close()
	require.NoError(t, pty.Setsize(end, &pty.Winsize{Rows: 10, Cols: 80}))
	f = &frames{to: end}
	for _, ups := range []int{9, 10, 3} { // on one that has got too low nothing more is drawn
		_, err = f.Write([]byte(strings.Repeat("\x1b[A\x1b[K", ups) + fmt.Sprintf("drawing %d\n", ups)))
		require.NoError(t, err)
	}
	_, err = io.WriteString(end, "that is all")
	require.NoError(t, err)
	shown := string(readUntil(t, low, "that is all"))
	require.Contains(t, shown, "drawing 9")
	require.NotContains(t, shown, "drawing 10")
	require.NotContains(t, shown, "drawing 3")
}

// readUntil reads what a terminal was given, which may come in pieces, until it ends with the words.
func readUntil(t *testing.T, terminal *os.File, words string) []byte {
	t.Helper()
	require.NoError(t, terminal.SetReadDeadline(time.Now().Add(time.Minute)))
	var all []byte
	for piece := make([]byte, 100); !bytes.HasSuffix(all, []byte(words)); {
		n, err := terminal.Read(piece)
		require.NoError(t, err, "%q", all)
		all = append(all, piece[:n]...)
	}
	return all
}

// A terminal that takes nothing holds up no pass, and its end only for a moment.
func TestAStalledTerminal(t *testing.T) {
	t.Parallel()
	stalled, reader := io.Pipe()
	defer stalled.Close()
	began := time.Now()
	for _, watch := range []watcher{newPrintedLines(reader), newLiveLines(reader, 80, 24, false, false)} {
		defer watch.tell(lifecycle.Progress{Certificate: "maas", Subject: "late", Phase: lifecycle.Done, Words: "is told to nobody"})
		for n := range 3 * mostPrinted {
			watch.tell(lifecycle.Progress{Certificate: "maas", Subject: fmt.Sprint("region", n), Phase: lifecycle.Done, Words: "proven"})
		}
		watch.end()
	}
	require.Less(t, time.Since(began), 20*time.Second)
}

// A terminal that does not know its size, such as a serial line, gets plain lines.
func TestATerminalWithoutASize(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	_, written := screenOf(t, program(t.Context(), t, s, "renew", "--enable-tls"), 0, 0)
	require.Contains(t, written, "maas: region1.example.internal: proven\r\n")
	require.NotContains(t, written, "\x1b")
}

func TestNamesAreShortenedInTheirMiddle(t *testing.T) {
	t.Parallel()
	require.Equal(t, "maas.example.internal", shortened("maas.example.internal", 21, "…"))
	require.Equal(t, "maas [2001:d…a2e:370:7334]", shortened("maas [2001:db8:85a3::8a2e:370:7334]", 26, "…"))
	require.Equal(t, "a~z", shortened("abcdefghijklmnopqrstuvwxyz", 3, "~"))
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
	require.Eventually(t, func() bool { return count() > before }, 10*time.Second, frameTime/10)
}
