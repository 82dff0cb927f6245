package maintenance_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/internal/maintenance"
)

func parse(t *testing.T, texts ...string) maintenance.Windows {
	t.Helper()
	var all maintenance.Windows
	for _, text := range texts {
		w, err := maintenance.Parse(text)
		require.NoError(t, err)
		all = append(all, w)
	}
	return all
}

func TestParseRefuses(t *testing.T) {
	t.Parallel()
	for _, text := range []string{"", "Sat", "02:00", "Saturday 02:00-05:00", "Sat 2-5", "Sat 02:00-02:00", "Sat 25:00-26:00", "Sat,Fun 02:00-05:00", "Sat 02:00 - 05:00", "24:00-02:00"} {
		_, err := maintenance.Parse(text)
		require.ErrorContains(t, err, "write Sat 02:00-05:00", text)
	}
}

func TestWindows(t *testing.T) {
	t.Parallel()
	berlin, err := time.LoadLocation("Europe/Berlin")
	require.NoError(t, err)
	at := func(text string) time.Time {
		parsed, err := time.ParseInLocation("2006-01-02 15:04", text, berlin)
		require.NoError(t, err)
		return parsed
	}
	for name, row := range map[string]struct {
		windows []string
		at      string
		next    string
	}{
		"always, without one":                   {nil, "2026-11-26 12:00", "2026-11-26 12:00"},
		"it is open":                            {[]string{"Sat 02:00-05:00"}, "2026-11-28 04:59", "2026-11-28 04:59"},
		"it opens at its first minute":          {[]string{"Sat 02:00-05:00"}, "2026-11-26 12:00", "2026-11-28 02:00"},
		"it closes at its last":                 {[]string{"Sat 02:00-05:00"}, "2026-11-28 05:00", "2026-12-05 02:00"},
		"over midnight it belongs to its day":   {[]string{"Fri 22:00-04:00"}, "2026-11-28 03:00", "2026-11-28 03:00"},
		"and not to the next":                   {[]string{"Fri 22:00-04:00"}, "2026-11-27 03:00", "2026-11-27 22:00"},
		"every day":                             {[]string{"02:00-05:00"}, "2026-11-26 06:00", "2026-11-27 02:00"},
		"to the end of the day":                 {[]string{"22:00-24:00"}, "2026-11-26 23:59", "2026-11-26 23:59"},
		"some days":                             {[]string{"Sat-Mon,Wed 02:00-05:00"}, "2026-11-24 00:00", "2026-11-25 02:00"},
		"a range over the week's end":           {[]string{"Sat-Mon 02:00-05:00"}, "2026-11-24 00:00", "2026-11-28 02:00"},
		"the first of several":                  {[]string{"Sun 02:00-05:00", "Sat 23:00-24:00"}, "2026-11-26 12:00", "2026-11-28 23:00"},
		"summer time ends":                      {[]string{"Sun 02:00-05:00"}, "2026-10-25 04:30", "2026-10-25 04:30"},
		"summer time begins: the hour is short": {[]string{"Sun 02:30-03:30"}, "2026-03-29 00:00", "2026-04-05 02:30"},
	} {
		windows := parse(t, row.windows...)
		require.Equal(t, at(row.next), windows.Next(at(row.at), 0), name)
		require.Equal(t, row.at == row.next, windows.Contains(at(row.at)), name)
	}
	require.Equal(t, at("2026-11-28 02:45"), parse(t, "Sat 02:00-05:00").Next(at("2026-11-26 12:00"), 0.5), "not everybody begins at once")
	require.Equal(t, at("2026-11-28 02:10"), parse(t, "Sat 02:00-05:00").Next(at("2026-11-28 02:10"), 0.5), "what gets due meanwhile need not wait")

	weekly := parse(t, "Sat 02:00-05:00")
	require.Equal(t, 4, weekly.Openings(at("2026-11-01 00:00"), at("2026-11-30 00:00"), 100))
	require.Equal(t, 2, weekly.Openings(at("2026-11-01 00:00"), at("2026-11-30 00:00"), 2))
	require.Equal(t, 1, weekly.Openings(at("2026-11-28 04:00"), at("2026-11-28 04:30"), 2), "one that is open already counts")
	require.True(t, weekly.HasPassed(at("2026-11-27 00:00"), at("2026-11-28 05:00")))
	require.False(t, weekly.HasPassed(at("2026-11-27 00:00"), at("2026-11-28 04:59")), "it is open")
	require.False(t, weekly.HasPassed(at("2026-11-28 02:01"), at("2026-12-05 04:59")), "it was open already")
	require.Zero(t, weekly.Openings(at("2026-11-28 05:00"), at("2026-12-05 02:00"), 2))
}
