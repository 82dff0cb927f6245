// Package printable is how text is shown. It tames what comes from outside: what a CA, a name server, a region or a program says is
// shown, logged and stored as one line of bounded length in which nothing steers a terminal. And it has the one form in which
// people read moments and lists.
package printable

import (
	"fmt"
	"strings"
	"time"
	"unicode"
)

// The lengths, in bytes, at which texts from outside are cut.
const (
	// Word is for a name, a kind or a URL.
	Word = 500
	// Sentence is for an error or a hint with all that surrounds it.
	Sentence = 2000
)

// Line makes one line of a text: what is not printable (control characters, also C1, and those that change the direction
// of writing) and runs of white space become one space, what is no UTF-8 a question mark, and what is longer than most
// bytes is cut and ends with "…".
func Line(text string, most int) string {
	if len(text) > 4*most {
		text = text[:4*most] // more than is ever kept, so that a flood costs no time
	}
	text = strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "?"))
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > most {
		text = strings.ToValidUTF8(text[:most], "") + "…"
	}
	return text
}

// Lines is Line for some texts, of which more than so many are left out.
func Lines(texts []string, most, lines int) []string {
	kept := make([]string, 0, min(len(texts), lines))
	for _, text := range texts[:min(len(texts), lines)] {
		kept = append(kept, Line(text, most))
	}
	return kept
}

// Phrase is a text from outside as one printable line of a word's length.
func Phrase(text string) string { return Line(text, Word) }

// Text is a text, whoever wrote it, as one printable line of a sentence's length.
func Text(text string) string { return Line(text, Sentence) }

// Error is an error's text as one printable line of a sentence's length.
func Error(err error) string { return Text(err.Error()) }

// Tamed is an error whose text may be shown, and which still is what it is.
type Tamed struct {
	Text string
	Err  error
}

// Tame is an error whose text is that of Error.
func Tame(err error) error { return &Tamed{Error(err), err} }

// Error is the text that may be shown.
func (t *Tamed) Error() string { return t.Text }

// GoString is the same.
func (t *Tamed) GoString() string { return t.Text }

// Unwrap is what it is.
func (t *Tamed) Unwrap() error { return t.Err }

// Time is a moment for people, to the minute.
func Time(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// From tells how far a moment is from now: "in 89 days", "2 hours ago".
func From(now, t time.Time) string {
	away := t.Sub(now).Round(time.Minute)
	var words string
	switch far := away.Abs(); {
	case far >= 48*time.Hour:
		words = fmt.Sprintf("%d days", int(far/(24*time.Hour)))
	case far >= 2*time.Hour:
		words = fmt.Sprintf("%d hours", int(far/time.Hour))
	case far >= 2*time.Minute:
		words = fmt.Sprintf("%d minutes", int(far/time.Minute))
	default:
		return "now"
	}
	if away < 0 {
		return words + " ago"
	}
	return "in " + words
}

// List is some words in a line of columns at most; how many more there are is said.
func List(words []string, columns int) string {
	line := ""
	for i, word := range words {
		more := fmt.Sprintf(" and %d more", len(words)-i)
		next := line
		if i > 0 {
			next += ", "
		}
		next += word
		if i > 0 && (len(next) > columns || i < len(words)-1 && len(next)+len(more) > columns) {
			return line + more
		}
		line = next
	}
	return line
}
