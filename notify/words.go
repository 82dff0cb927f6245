package notify

import (
	"fmt"
	"slices"
	"strings"
	"time"

	"maascert/internal/printable"
)

// The words of an event for people: a subject of one line, a summary of a sentence or two, and a few lines that say what to do about it
// and until when.

// Subject is an event in one short line.
func (e Event) Subject() string {
	if e.Kind == Test {
		return "maascert: this is a test from " + e.Node
	}
	words := "maascert: " + e.about() + ": "
	switch {
	case e.Kind == Recovered:
		words += "over: " + e.former().what()
	case e.Repeat:
		words += "still: " + e.what()
	default:
		words += e.what()
	}
	if left := e.left(); left != "" && e.isTrouble() {
		words += " (" + left + ")"
	}
	return words
}

// Text is an event in a few lines.
func (e Event) Text() string {
	lines := []string{e.Summary, ""}
	for _, one := range e.details() {
		lines = append(lines, one.Label+": "+one.Text)
	}
	return strings.Join(lines, "\n") + "\n"
}

// Line is an event in one line, for where there is room for no more.
func (e Event) Line() string {
	if e.Kind == Test {
		return e.Summary
	}
	words := e.about()
	if left := e.left(); left != "" && e.isTrouble() {
		words += " (" + left + ")"
	}
	words += ": " + e.Summary
	if e.Repeat {
		words = "still: " + words
	}
	if e.Hint != "" {
		words += " What to do: " + e.Hint
	}
	return words
}

// about is which certificate an event is about, and at which target.
func (e Event) about() string {
	if e.Target != "" && e.Target != e.Cert {
		return e.Cert + " at " + e.Target
	}
	return e.Cert
}

// former is what is over.
func (e Event) former() Event {
	e.Kind = e.Of
	return e
}

// what says what happened, in a few words.
func (e Event) what() string {
	switch e.Kind {
	case Obtained:
		return "a new certificate was obtained"
	case Deployed:
		return "the new certificate is served everywhere"
	case Failed:
		return e.failed()
	case RehearsalFailed:
		return "the next renewal would fail"
	case RehearsalSkipped:
		return "the next renewal could not be rehearsed"
	case Expiring:
		return "the certificate expires and is not renewed"
	case Degraded:
		return "the certificate is not served everywhere"
	case Drift:
		if e.Over {
			return "another certificate was served"
		}
		return "another certificate is served"
	case NamesChanged:
		return "its names change"
	case TrustChanged:
		return "what clients have to trust changes"
	case Revoked:
		return "a version was revoked"
	case Silent:
		return "a host is silent: " + e.Detail
	default:
		return string(e.Kind)
	}
}

// failed says what failed, by the stage.
func (e Event) failed() string {
	switch e.Stage {
	case "obtain":
		return "the renewal failed"
	case "guard":
		return "a renewal cannot begin"
	case "save":
		return "a renewal cannot be written down"
	case "deploy":
		return e.Target + " did not take the certificate"
	case "revoke":
		return "a version is not revoked"
	case "config":
		return "a changed configuration is not in force"
	case "notify":
		return "a notifier cannot be told"
	default:
		return "it cannot be kept up"
	}
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
		return fmt.Sprintf("Every endpoint of %s serves the certificate of %s%s.", e.Target, e.Cert, e.until())
	case RehearsalFailed:
		words := fmt.Sprintf("The next renewal of %s would fail, as a rehearsal of it did%s", e.Cert, because)
		if e.NotAfter != nil && e.LeftSeconds > 0 {
			words += " The certificate in use expires " + moment(*e.NotAfter) + ": mend it before."
		}
		return words
	case RehearsalSkipped:
		return fmt.Sprintf("Whether the next renewal of %s would work could not be found out%s", e.Cert, because)
	case Recovered:
		return fmt.Sprintf("It is over that %s.", strings.TrimRight(e.former().what(), "."))
	case Expiring:
		if e.LeftSeconds <= 0 {
			return fmt.Sprintf("The certificate of %s has expired%s", e.Cert, because)
		}
		return fmt.Sprintf("The certificate of %s has %s, and is not renewed%s", e.Cert, e.left(), because)
	case Degraded:
		return fmt.Sprintf("Not every endpoint of %s serves the certificate of %s as it should%s", e.Target, e.Cert, because)
	case Drift:
		if e.Over {
			return fmt.Sprintf("Another certificate was served at %s than that of %s, and %s%s", e.Target, e.Cert, e.Detail, because)
		}
		return fmt.Sprintf("Another certificate is served at %s than that of %s%s", e.Target, e.Cert, because)
	case NamesChanged:
		return fmt.Sprintf("The names of %s change: %s.", e.Cert, printable.Line(e.Detail, longestQuote))
	case TrustChanged, Revoked, Silent:
		return printable.Line(e.Detail, longestQuote) + because
	case Test:
		return "Nothing is wrong: somebody tried whether this message arrives."
	default:
		what := e.what()
		return strings.ToUpper(what[:1]) + what[1:] + because
	}
}

// until says until when the certificate is valid; empty where there is none.
func (e Event) until() string {
	if e.NotAfter == nil {
		return ""
	}
	return ", valid until " + moment(*e.NotAfter)
}

// isTrouble tells whether something is wrong with the certificate that has to be mended in time.
func (e Event) isTrouble() bool {
	switch e.Kind {
	case Failed, RehearsalFailed, Expiring, Degraded, Drift:
		return !e.Over
	default:
		return false
	}
}

// left is how long it is until the certificate expires, in words; empty where there is none.
func (e Event) left() string {
	left := time.Duration(e.LeftSeconds) * time.Second
	switch {
	case e.NotAfter == nil:
		return ""
	case left <= 0:
		return "it has expired"
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

// details are what there is to know beside the summary. What that says whole is not said again.
func (e Event) details() []detail {
	wrong, label, more := e.Error, "What is wrong", e.Detail
	if e.Kind == Recovered || e.Over {
		label = "What it was"
	}
	if e.Kind != Recovered && strings.Contains(e.Summary, strings.TrimRight(wrong, ".")) {
		wrong = ""
	}
	if e.Kind == Recovered || strings.Contains(e.Summary, more) {
		more = ""
	}
	all := []detail{{label, wrong}, {"More", more}, {"What to do", e.Hint}, {"Certificate", e.Cert}, {"Target", e.Target}}
	if e.NotAfter != nil {
		all = append(all, detail{"Expires", moment(*e.NotAfter) + ", " + e.left()})
	}
	all = append(all, detail{"Found by", e.Node + ", " + moment(e.At)})
	return slices.DeleteFunc(all, func(one detail) bool { return one.Text == "" })
}

// moment is a time for people.
func moment(t time.Time) string { return t.UTC().Format("2006-01-02 15:04 UTC") }
