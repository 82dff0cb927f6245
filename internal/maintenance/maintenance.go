// Package maintenance is about the hours in which a deployment may be changed.
//
// It promises that a window is open at the times of day that it names, in the location of the moment that is asked about, whatever
// daylight saving does to the clock on that day.
package maintenance

import (
	"fmt"
	"slices"
	"strings"
	"time"
)

// Window is open on some days of the week between two times of day.
type Window struct {
	days     [7]bool // by time.Weekday: those on which it opens
	from, to int     // minutes after midnight; to is on the next day where it is not after from
}

// Windows are open when any of them is; without one, always.
type Windows []Window

var weekdays = []string{"sun", "mon", "tue", "wed", "thu", "fri", "sat"}

// Parse reads a window: "Sat 02:00-05:00", "Mon-Fri 22:00-04:00", "Sat,Sun 01:00-03:00", or every day "02:00-05:00".
func Parse(text string) (Window, error) {
	wrong := fmt.Errorf("%q is no window; write Sat 02:00-05:00, Mon-Fri 22:00-04:00 or 02:00-05:00", text)
	var w Window
	fields := strings.Fields(text)
	switch len(fields) {
	case 1:
		for day := range w.days {
			w.days[day] = true
		}
	case 2:
		for part := range strings.SplitSeq(fields[0], ",") {
			first, last, isRange := strings.Cut(strings.ToLower(part), "-")
			if !isRange {
				last = first
			}
			from, to := slices.Index(weekdays, first), slices.Index(weekdays, last)
			if from < 0 || to < 0 {
				return w, wrong
			}
			for day := from; ; day = (day + 1) % 7 {
				w.days[day] = true
				if day == to {
					break
				}
			}
		}
	default:
		return w, wrong
	}
	from, to, isRange := strings.Cut(fields[len(fields)-1], "-")
	var ok [2]bool
	w.from, ok[0] = minutes(from)
	w.to, ok[1] = minutes(to)
	if !isRange || !ok[0] || !ok[1] || w.from == w.to || w.from == 24*60 {
		return w, wrong
	}
	return w, nil
}

func minutes(text string) (int, bool) {
	if text == "24:00" {
		return 24 * 60, true
	}
	at, err := time.Parse("15:04", text)
	return at.Hour()*60 + at.Minute(), err == nil
}

// opening is the one that begins on the day of a moment; false where there is none.
func (w Window) opening(day time.Time) (begins, ends time.Time, isOpen bool) {
	year, month, date := day.Date()
	if !w.days[day.Weekday()] {
		return begins, ends, false
	}
	endDate := date
	if w.to <= w.from {
		endDate++
	}
	begins = time.Date(year, month, date, 0, w.from, 0, 0, day.Location())
	ends = time.Date(year, month, endDate, 0, w.to, 0, 0, day.Location())
	return begins, ends, ends.After(begins) // on a day without that hour it does not open
}

// Next is the first moment from t on at which a window is open: t itself, or when one begins. share, from 0 to 1, tells how far into the
// first half of that opening: not everybody begins at once.
func (ws Windows) Next(t time.Time, share float64) time.Time {
	if len(ws) == 0 {
		return t
	}
	var next time.Time
	for _, w := range ws {
		for day := -1; day <= 14; day++ {
			begins, ends, isOpen := w.opening(t.AddDate(0, 0, day))
			switch {
			case !isOpen || !ends.After(t):
			case !begins.After(t):
				return t
			default:
				if at := begins.Add(time.Duration(share * float64(ends.Sub(begins)) / 2)); next.IsZero() || at.Before(next) {
					next = at
				}
			}
		}
	}
	return next
}

// Contains tells whether a window is open at a moment.
func (ws Windows) Contains(t time.Time) bool { return ws.Next(t, 0).Equal(t) }

// HasPassed tells whether a window opened at or after a moment and has closed by another one.
func (ws Windows) HasPassed(from, to time.Time) bool {
	for day := from.AddDate(0, 0, -1); !day.After(to); day = day.AddDate(0, 0, 1) {
		for _, w := range ws {
			if begins, ends, isOpen := w.opening(day); isOpen && !begins.Before(from) && !ends.After(to) {
				return true
			}
		}
	}
	return false
}

// Openings counts how often a window is open between two moments, up to enough.
func (ws Windows) Openings(from, to time.Time, enough int) int {
	count := 0
	for day := from.AddDate(0, 0, -1); day.Before(to) && count < enough; day = day.AddDate(0, 0, 1) {
		for _, w := range ws {
			if begins, ends, isOpen := w.opening(day); isOpen && ends.After(from) && begins.Before(to) {
				count++
			}
		}
	}
	return count
}
