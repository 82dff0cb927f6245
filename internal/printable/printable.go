// Package printable tames text from outside: what a CA, a name server, a region or a program says is shown, logged and
// stored as one line of bounded length in which nothing steers a terminal.
package printable

import (
	"strings"
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
