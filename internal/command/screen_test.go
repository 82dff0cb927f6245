package command

import (
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

// At a terminal the certificates and the hosts stand in tables that fit it, whatever it can show; what is not as it should be is told in full,
// and nothing else.
func TestStatusAtATerminal(t *testing.T) {
	t.Parallel()
	e := startEstate(t, 12, 7, true)
	for _, row := range []struct {
		name                  string
		columns               int
		environment           []string
		hasServed, hasDrawn   bool
		gone, renewal, colour string
	}{
		{"usual", 80, nil, true, true, "━", "┃", "\x1b[32mok\x1b[0m"},
		{"wide", 120, nil, true, true, "━", "┃", "\x1b[32mok\x1b[0m"},
		{"without room for lifetimes", 60, nil, true, false, "", "", "\x1b[32mok\x1b[0m"},
		{"narrow", 46, nil, false, false, "", "", "\x1b[32mok\x1b[0m"},
		{"without colours", 80, []string{"NO_COLOR=1"}, true, true, "━", "┃", ""},
		{"of few letters", 80, []string{"LC_ALL=C"}, true, true, "=", "|", "\x1b[32mok\x1b[0m"},
		{"that can do nothing", 80, []string{"TERM=dumb", "LC_ALL=C"}, true, true, "=", "|", ""},
	} {
		screen, written := screenOf(t, e.program(t, "status"), row.columns, 100, row.environment...)
		all := strings.Join(screen, "\n")
		require.LessOrEqual(t, widest(t, written), row.columns, row.name)
		if strings.Contains(strings.Join(row.environment, " "), "LC_ALL=C") {
			require.Equal(t, len(written), utf8.RuneCountInString(written), row.name)
		}
		require.Equal(t, row.colour != "", strings.Contains(written, "\x1b"), row.name)
		require.Contains(t, written, row.colour, row.name)
		require.Contains(t, all, "11 of 12 certificates are as they should be", row.name)
		for _, name := range e.names {
			isRow := func(line string) bool { return strings.HasPrefix(line, name+" ") }
			require.Equal(t, 1, countLines(screen, isRow), "%s: %s\n%s", row.name, name, all)
			require.Equal(t, row.hasDrawn, row.gone != "" && countLines(screen, func(line string) bool {
				return isRow(line) && strings.Contains(line, row.gone) && strings.Contains(line, row.renewal)
			}) == 1, "%s: the lifetime of %s\n%s", row.name, name, all)
			if name != "maas" {
				require.NotContains(t, all, name+": ok", "%s: what is well is told by the table alone", row.name)
			}
		}
		require.Equal(t, row.hasServed, strings.Contains(all, "2 of 3"), "%s:\n%s", row.name, all)
		require.Contains(t, all, "maas: degraded: 1 of 3 endpoints does", row.name)
		for host, state := range map[string]string{"region2": "well", "region5": "see below", "region6": "see below", "region7": "not well"} {
			require.Equal(t, 1, countLines(screen, func(line string) bool { return strings.HasPrefix(line, host+"  "+state+" ") }), "%s: %s\n%s", row.name, host, all)
		}
		require.Contains(t, all, "region5: its clock is 5m0s behind the CA's", row.name)
	}
	screen, _ := screenOf(t, e.program(t, "status", "--cert", "ceph"), 80, 100)
	require.Contains(t, strings.Join(screen, "\n"), "ceph: ok: every endpoint serves version 1", "of one alone everything is told")
}
