package report

import (
	"strings"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// What is drawn of a lifetime stays within its columns, whatever the moments are, and says no more than has passed.
func TestLifetimeIsDrawn(t *testing.T) {
	t.Parallel()
	begin := time.Date(2026, 10, 1, 0, 0, 0, 0, time.UTC)
	day := func(n float64) time.Time { return begin.Add(time.Duration(n * float64(24*time.Hour))) }
	whole := lifetime{begin: begin, end: day(90), now: day(30), renewal: day(61), opens: day(60), closes: day(63)}
	draw := func(l lifetime, width int, isASCII bool) string {
		return l.line(width, isASCII) + "\n" + l.legend(isASCII)
	}
	require.Equal(t, strings.Join([]string{
		"=============*------------|~------------",
		"* 33 % of the lifetime has gone  ~ the CA's window  | renewal",
	}, "\n"), draw(whole, 40, true))
	require.Equal(t, strings.Join([]string{
		"━━━━━━━━━━━━━●────────────┃░────────────",
		"● 33 % of the lifetime has gone  ░ the CA's window  ┃ renewal",
	}, "\n"), draw(whole, 40, false))
	for _, now := range []float64{-400, -1, 0, 30, 89.9, 90, 91, 1e4} {
		for _, width := range []int{40, 78, 118} {
			l := whole
			l.now = day(now)
			line, legend, _ := strings.Cut(draw(l, width, false), "\n")
			require.Equal(t, width, utf8.RuneCountInString(line))
			require.Equal(t, 1, strings.Count(line, "●"))
			require.Equal(t, now >= 90, strings.Contains(legend, "100 %"), legend)
		}
	}
	l := lifetime{begin: begin, end: day(90), now: day(30)}
	require.NotContains(t, draw(l, 40, true), "|", "when it is renewed is not known")
	require.NotContains(t, draw(l, 40, true), "~", "the CA names no window")
	require.False(t, lifetime{now: begin}.isKnown())
}
