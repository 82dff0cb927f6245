package printable_test

import (
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"maascert/internal/printable"
)

// S14: C1 and bidirectional characters steer a terminal as well as escape sequences do.
func TestLine(t *testing.T) {
	t.Parallel()
	for text, want := range map[string]string{
		"plain words":                   "plain words",
		"two\nlines\tand\x1b[2Ja clear": "two lines and [2Ja clear",
		"C1 \u009b31m":                  "C1 31m",
		"turned \u202eround\u2066":      "turned round",
		"no UTF-8 \xff":                 "no UTF-8 ?",
		"ümläut 証明書":                    "ümläut 証明書",
	} {
		require.Equal(t, want, printable.Line(text, printable.Word))
	}
	require.Equal(t, "aaaa…", printable.Line(strings.Repeat("a", 1<<20), 4))
	require.Equal(t, []string{"a", "b"}, printable.Lines([]string{"a", "b", "c"}, 10, 2))
}

func FuzzLine(f *testing.F) {
	f.Add("a\x00b", 3)
	f.Add("ü\u202e", 1)
	f.Fuzz(func(t *testing.T, text string, most int) {
		if most < 0 || most > 1<<20 {
			return
		}
		line := printable.Line(text, most)
		require.LessOrEqual(t, len(line), most+len("…"))
		for _, r := range line {
			require.True(t, unicode.IsPrint(r), "%q", r)
		}
	})
}
