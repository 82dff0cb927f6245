package command

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"

	"maascert/internal/world"
)

func TestFolding(t *testing.T) {
	t.Parallel()
	utf8Locale := func(string) string { return "en_US.UTF-8" }
	fold := func(columns int, text string, environment func(string) string) string {
		var out bytes.Buffer
		w := newFace(&out, columns, environment)
		for _, part := range strings.SplitAfter(text, " ") { // however it comes
			fmt.Fprint(w, part)
		}
		return out.String()
	}
	long := "  hint: " + strings.Repeat("word ", 20) + "end\n"
	require.Equal(t, long, fold(0, long, utf8Locale), "a pipe")
	require.Equal(t, "  hint: word word word word word word word\n    word word word word word word word\n    word word word word word word end\n", fold(42, long, utf8Locale))
	require.Equal(t, "fail  store        one two three four five\n                   six\n", fold(44, "fail  store        one two three four five six\n", utf8Locale), "a table")
	require.Equal(t, "  fingerprint  a\n               "+strings.Repeat("b", 60)+"\n", fold(44, "  fingerprint  a "+strings.Repeat("b", 60)+"\n", utf8Locale), "a long word stays whole")
	require.Equal(t, long, fold(20, long, utf8Locale), "there is no room")
	require.Equal(t, "a...b ?\n", fold(0, "a…b ü\n", func(string) string { return "C" }))
	require.Equal(t, "a…b ü\n", fold(0, "a…b ü\n", func(string) string { return "" }), "a service")
	require.Equal(t, "a…b\n", fold(0, "a…b\n", func(name string) string { return map[string]string{"LANG": "de_DE.utf8"}[name] }))
}

// isGolden compares a text with the file that holds what it was when somebody read it last. UPDATE_GOLDEN=1 writes the file anew.
func isGolden(t *testing.T, golden, text string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(golden), 0o755))
		require.NoError(t, os.WriteFile(golden, []byte(text), 0o644))
	}
	want, err := os.ReadFile(golden)
	require.NoError(t, err)
	require.Equal(t, string(want), text)
}

// What people see on terminals of two widths and in a pipe, of a certificate with one name and with 150. No list is longer than three lines,
// and nothing is broken within a word.
func TestWordsFitTheTerminal(t *testing.T) {
	t.Parallel()
	for _, count := range []int{1, 150} {
		t.Run(strconv.Itoa(count), func(t *testing.T) {
			t.Parallel()
			s := &situation{T: t, site: startSite(t), fsys: world.OS{}}
			names := []string{"maas.example.internal"}
			for n := 2; n <= count; n++ {
				names = append(names, fmt.Sprintf("region%d.rack.example.internal", n))
			}
			s.edit(t, "[maas.example.internal, region1.example.internal]", "["+strings.Join(names, ", ")+"]")
			code, said := s.run("renew", "--enable-tls")
			require.Zero(t, code, said)
			s.maas.Regions[1].StopProxy()
			s.edit(t, "verify_timeout: 20s", "verify_timeout: 1s", `challenge: {type: http-01, listen: "127.0.0.1:`, `challenge: {type: http-01, listen: "127.0.0.2:`)
			for _, columns := range []int{0, 80, 120} {
				var all strings.Builder
				for _, command := range []string{"status", "verify", "check"} {
					var out bytes.Buffer
					a := testApp(s.hostOf(world.OS{}))
					a.stdout, a.stderr, a.reach, a.columns, a.listening = &out, &out, port80(strconv.Itoa(s.ca.HTTPPort)), columns, nil
					code := a.run(t.Context(), []string{"maascert", "--config", filepath.Join(s.dir, "maascert.yaml"), command})
					for line := range strings.Lines(out.String()) {
						isWord := len(strings.Fields(line)) == 1
						require.True(t, columns == 0 || isWord || utf8.RuneCountInString(strings.TrimSuffix(line, "\n")) <= columns, line)
						require.Less(t, len(line), 600)
					}
					require.Less(t, strings.Count(out.String(), "\n"), 60)
					fmt.Fprintf(&all, "-- maascert %s: exit %d\n%s", command, code, out.String())
				}
				require.Equal(t, columns > 0, strings.Contains(all.String(), "% of the lifetime has gone"), "lifetimes are drawn on a terminal")
				require.NotContains(t, all.String(), "\x1b", "there are no colours for NO_COLOR to switch off")
				if columns > 0 {
					continue // where a line is folded differs with the lengths of what differs
				}
				text := s.alike(all.String())
				isGolden(t, filepath.Join("testdata", "words", strconv.Itoa(count)+".txt"), text)
				for _, width := range []int{80, 120} {
					var folded, inC strings.Builder
					_, err := io.WriteString(newFace(&folded, width, func(string) string { return "" }), text)
					require.NoError(t, err)
					isGolden(t, filepath.Join("testdata", "words", fmt.Sprintf("%d.%d.txt", count, width)), folded.String())
					_, err = io.WriteString(newFace(&inC, width, func(string) string { return "C" }), text)
					require.NoError(t, err)
					require.Equal(t, folded.String(), inC.String(), "nothing in it needs more than ASCII")
				}
			}
		})
	}
}
