package maasapi

import (
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"maascert/internal/printable"
)

// Error is an answer by which MAAS refuses a request.
type Error struct {
	Status int
	Words  string // MAAS's own, as one printable line; empty where they are not to be shown
}

func (e *Error) Error() string {
	switch {
	case e.Status == http.StatusUnauthorized:
		return "MAAS refuses the API key (401)"
	case e.Status == http.StatusForbidden:
		return "the API key is no administrator's (403)"
	case e.Words == "":
		return fmt.Sprintf("it answers %d %s", e.Status, http.StatusText(e.Status))
	default:
		return fmt.Sprintf("it answers %d: %s", e.Status, e.Words)
	}
}

// isBusy tells whether it makes sense to ask again soon: regiond starts or is overloaded. Any other 500 is a handler's exception.
func (e *Error) isBusy() bool {
	return e.Status == http.StatusBadGateway || e.Status == http.StatusServiceUnavailable
}

func hasStatus(err error, status int) bool {
	var refused *Error
	return errors.As(err, &refused) && refused.Status == status
}

// wordsOf makes one line of what MAAS says: a text, or words by field. A page says nothing.
func wordsOf(body, kind string) string {
	if strings.HasPrefix(kind, "text/html") {
		return ""
	}
	var fields map[string][]string
	if json.Unmarshal([]byte(body), &fields) != nil {
		return printable.Phrase(body)
	}
	var words []string
	for _, field := range slices.Sorted(maps.Keys(fields)) {
		one := strings.Join(fields[field], " ")
		if field != "__all__" {
			one = field + ": " + one
		}
		words = append(words, one)
	}
	return printable.Phrase(strings.Join(words, "; "))
}
