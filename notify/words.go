package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"maascert/internal/printable"
)

// The words of an event for people: a subject of one line, and a few lines that say what is wrong, what to do about it and until when.

// Subject is an event in one short line.
func (e Event) Subject() string {
	if e.Kind == Test {
		return "maascert: this is a test from " + e.Node
	}
	words := "maascert: " + e.headline()
	if e.isTrouble() {
		if left := e.left(); left != "" {
			words += " (" + left + ")"
		}
	}
	return words
}

// longestQuote bounds, in bytes, what of an error stands in a summary: all of it stands below.
const longestQuote = 300

// sentence says what happened in a sentence or two.
func (e Event) sentence() string {
	because := "."
	if e.Error != "" {
		because = ": " + strings.TrimRight(printable.Line(e.Error, longestQuote), ".") + "."
	}
	switch e.Kind {
	case Obtained:
		return fmt.Sprintf("A new certificate for %s was obtained%s.", e.Cert, e.until())
	case Deployed:
		return fmt.Sprintf("Every endpoint of %s serves the new certificate of %s%s.", e.Target, e.Cert, e.until())
	case Failed:
		return upper(failedAt(e.Stage)) + because
	case RehearsalFailed:
		words := fmt.Sprintf("The next renewal of %s would fail, as a rehearsal of it did%s", e.Cert, because)
		if e.NotAfter != nil && e.LeftSeconds > 0 {
			words += " The certificate in use ends " + moment(*e.NotAfter) + ": mend it before."
		}
		return words
	case RehearsalSkipped:
		return fmt.Sprintf("Whether the next renewal of %s would work could not be found out%s", e.Cert, because)
	case Recovered:
		return fmt.Sprintf("It is over that %s.", overWords(e.Of, e.Stage))
	case Expiring:
		if e.LeftSeconds <= 0 {
			return fmt.Sprintf("The certificate of %s has ended%s", e.Cert, because)
		}
		return fmt.Sprintf("The certificate of %s has %s, and is not renewed%s", e.Cert, e.left(), because)
	case Degraded:
		return fmt.Sprintf("Not every endpoint of %s serves the certificate of %s as it should%s", e.Target, e.Cert, because)
	case Drift:
		return fmt.Sprintf("Something else is served at %s than the certificate of %s%s", e.Target, e.Cert, because)
	case NamesChanged:
		return fmt.Sprintf("The names of %s change: %s.", e.Cert, printable.Line(e.Detail, longestQuote))
	case TrustChanged, Revoked, Silent:
		return printable.Line(e.Detail, longestQuote) + because
	case Test:
		return "Nothing is wrong: somebody tried whether this message arrives."
	default:
		return e.what() + because
	}
}

// until says until when the certificate is valid; empty where there is none.
func (e Event) until() string {
	if e.NotAfter == nil {
		return ""
	}
	return ", valid until " + moment(*e.NotAfter)
}

// overWords say what is over.
func overWords(of Kind, stage string) string {
	switch of {
	case Failed:
		return failedAt(stage)
	case RehearsalFailed:
		return "the next renewal would fail"
	case RehearsalSkipped:
		return "the next renewal could not be rehearsed"
	default:
		return Event{Kind: of}.what()
	}
}

func upper(text string) string { return strings.ToUpper(text[:1]) + text[1:] }

// headline says what happened, without details.
func (e Event) headline() string {
	about := e.Cert
	if e.Target != "" && e.Target != e.Cert {
		about += " at " + e.Target
	}
	still := ""
	if e.Repeat {
		still = "still: "
	}
	return about + ": " + still + e.what()
}

func (e Event) what() string {
	switch e.Kind {
	case Obtained:
		return "a new certificate was obtained"
	case Deployed:
		return "the new certificate is served everywhere"
	case Failed:
		return failedAt(e.Stage)
	case RehearsalFailed:
		return "the next renewal would fail"
	case RehearsalSkipped:
		return "the next renewal could not be rehearsed"
	case Recovered:
		return "it is well again"
	case Expiring:
		return "the certificate ends and is not renewed"
	case Degraded:
		return "the certificate is not served everywhere"
	case Drift:
		return "another certificate is served"
	case NamesChanged:
		return "its names change"
	case TrustChanged:
		return "what clients have to trust changes"
	case Revoked:
		return "a version was revoked"
	case Silent:
		return "a host is silent"
	default:
		return string(e.Kind)
	}
}

// failedAt says what failed, by the stage.
func failedAt(stage string) string {
	switch stage {
	case "obtain":
		return "the renewal failed"
	case "guard":
		return "a renewal cannot begin"
	case "save":
		return "a renewal cannot be written down"
	case "deploy":
		return "the certificate was not taken"
	case "revoke":
		return "a version is not revoked"
	case "notify":
		return "somebody could not be told"
	default:
		return "it cannot be kept up"
	}
}

// isTrouble tells whether something is wrong.
func (e Event) isTrouble() bool {
	switch e.Kind {
	case Failed, RehearsalFailed, Expiring, Degraded, Drift, Silent:
		return true
	default:
		return false
	}
}

// left is how long it is until the certificate ends, in words; empty where there is none.
func (e Event) left() string {
	left := time.Duration(e.LeftSeconds) * time.Second
	switch {
	case e.NotAfter == nil:
		return ""
	case left <= 0:
		return "it has ended"
	default:
		return Span(left) + " left"
	}
}

// Span is a length of time in words, in the largest unit of which there are at least two.
func Span(d time.Duration) string {
	units := []struct {
		length time.Duration
		name   string
	}{{24 * time.Hour, "days"}, {time.Hour, "hours"}, {time.Minute, "minutes"}}
	for _, unit := range units {
		if n := d / unit.length; n >= 2 {
			return fmt.Sprintf("%d %s", n, unit.name)
		}
	}
	return fmt.Sprintf("%d seconds", d/time.Second)
}

// detail is one line below the summary.
type detail struct{ Label, Text string }

// details are what there is to know beside the summary.
func (e Event) details() []detail {
	wrong := "What is wrong"
	if e.Kind == Recovered {
		wrong = "What it was"
	}
	all := []detail{{wrong, e.Error}, {"What it is about", e.Detail}}
	if e.Error != "" {
		all = append(all, detail{"At the stage", e.Stage})
	}
	all = append(all, detail{"What to do", e.Hint}, detail{"Certificate", e.Cert}, detail{"Target", e.Target})
	if e.NotAfter != nil {
		all = append(all, detail{"It ends", moment(*e.NotAfter) + ", " + e.left()})
	}
	all = append(all, detail{"Found by", e.Node + ", " + moment(e.At)})
	return slices.DeleteFunc(all, func(one detail) bool { return one.Text == "" })
}

// Text is an event in a few lines.
func (e Event) Text() string {
	lines := []string{e.Summary, ""}
	for _, one := range e.details() {
		lines = append(lines, one.Label+": "+one.Text)
	}
	return strings.Join(lines, "\n") + "\n"
}

// moment is a time for people.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }

// Line is an event in one line, for where there is room for no more.
func (e Event) Line() string {
	words := e.Summary
	if e.Kind != Test {
		about := e.Cert
		if e.Target != "" && e.Target != e.Cert {
			about += " at " + e.Target
		}
		if left := e.left(); left != "" && e.isTrouble() {
			about += " (" + left + ")"
		}
		words = about + ": " + words
		if e.Repeat {
			words = "still: " + words
		}
	}
	if e.Hint != "" {
		words += " What to do: " + e.Hint
	}
	return words
}
