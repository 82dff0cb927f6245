package report

import (
	"fmt"
	"strings"
	"time"
)

// lifetime is a certificate's, and the moments in it that people ask for.
type lifetime struct {
	begin, end time.Time
	now        time.Time
	renewal    time.Time // zero: it is not known
	opens      time.Time // the CA's renewal window; zero: it names none
	closes     time.Time
}

// isKnown tells whether there is a lifetime at all.
func (l lifetime) isKnown() bool { return l.end.After(l.begin) }

// at is how far along a moment is on a line that is width long.
func (l lifetime) at(t time.Time, width int) int {
	share := float64(t.Sub(l.begin)) / float64(l.end.Sub(l.begin))
	return int(min(max(share, 0), 1) * float64(width)) // and never further than it is
}

// words say how much of it has gone.
func (l lifetime) words() string {
	return fmt.Sprintf("%d %% of the lifetime has gone", l.at(l.now, 100))
}

// pen is what a lifetime is drawn with on a terminal.
type pen struct{ gone, left, window, now, renewal string }

// penFor is one that a terminal can show.
func penFor(isASCII bool) pen {
	if isASCII {
		return pen{"=", "-", "~", "*", "|"}
	}
	return pen{"━", "─", "░", "●", "┃"}
}

// line draws it, width columns long.
func (l lifetime) line(width int, isASCII bool) string {
	p := penFor(isASCII)
	line := make([]string, width)
	now := l.at(l.now, width-1)
	for i := range line {
		switch {
		case !l.opens.IsZero() && i >= l.at(l.opens, width-1) && i <= l.at(l.closes, width-1):
			line[i] = p.window
		case i < now:
			line[i] = p.gone
		default:
			line[i] = p.left
		}
	}
	if !l.renewal.IsZero() {
		line[l.at(l.renewal, width-1)] = p.renewal
	}
	line[now] = p.now // whatever else is there
	return strings.Join(line, "")
}

// legend explains lines of several lifetimes.
func legend(isASCII bool) string {
	p := penFor(isASCII)
	return fmt.Sprintf("%s now  %s the CA's window  %s renewal", p.now, p.window, p.renewal)
}

// legend explains the line of this one.
func (l lifetime) legend(isASCII bool) string {
	p := penFor(isASCII)
	words := p.now + " " + l.words()
	if !l.opens.IsZero() {
		words += "  " + p.window + " the CA's window"
	}
	if !l.renewal.IsZero() {
		words += "  " + p.renewal + " renewal"
	}
	return words
}
