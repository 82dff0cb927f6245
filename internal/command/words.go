package command

import (
	"encoding/json"
	"errors"
	"io"
	"strings"
	"syscall"
	"time"

	"maascert/internal/printable"
)

// oneLine is an error's text in one printable line, whoever wrote it.
func oneLine(err error) string { return line(err.Error()) }

// line is a text, whoever wrote it, in one printable line.
func line(text string) string { return printable.Line(text, printable.Sentence) }

func joinParagraphs(paragraphs ...string) string {
	var kept []string
	for _, p := range paragraphs {
		if p != "" {
			kept = append(kept, p)
		}
	}
	return strings.Join(kept, "\n\n")
}

func writeJSON(w io.Writer, doc any) error {
	encoder := json.NewEncoder(w)
	encoder.SetIndent("", "  ")
	encoder.SetEscapeHTML(false)
	err := encoder.Encode(doc)
	if errors.Is(err, syscall.EPIPE) {
		return nil // whoever read it is gone; what was done and its exit code stay
	}
	return err
}

// day is a moment for people.
func day(t time.Time) string {
	if t.IsZero() {
		return "unknown"
	}
	return t.UTC().Format("2006-01-02 15:04 UTC")
}

// stamp is a moment for machines; nil for none.
func stamp(t time.Time) *string {
	if t.IsZero() {
		return nil
	}
	text := t.UTC().Format(time.RFC3339)
	return &text
}
