package notifytest

import (
	"errors"
	"fmt"

	"maascert/internal/secret"
	"maascert/internal/section"
)

var _ section.Place = Place{}

// Path of the section.
func (p Place) Path() string { return "notify[0]" }

// Fault keeps what is wrong.
func (p Place) Fault(key, format string, args ...any) {
	if p.Faults == nil {
		panic(key + ": " + fmt.Sprintf(format, args...))
	}
	*p.Faults = append(*p.Faults, key+": "+fmt.Sprintf(format, args...))
}

// Hide hides nothing: there is no excerpt.
func (p Place) Hide(string) {}

// Read is a file's text.
func (p Place) Read(key, path string) []byte {
	text, ok := p.Files[path]
	if !ok {
		p.Fault(key, "%s: no such file", path)
		return nil
	}
	return []byte(text)
}

// Secret is a secret.
func (p Place) Secret(key string, reference secret.Reference) string {
	value, err := p.Again(reference)
	if err != nil {
		p.Fault(key, "%v", err)
	}
	return value
}

// Again is a secret.
func (p Place) Again(reference secret.Reference) (string, error) {
	value, ok := p.Values[string(reference)]
	if !ok {
		return "", errors.New("no such secret")
	}
	return value, nil
}

// Under is the same place.
func (p Place) Under(string) section.Place { return p }
