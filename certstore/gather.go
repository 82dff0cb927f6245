package certstore

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"sync"
)

// Gatherer is a store that reads many documents faster together than one after another, such as a database elsewhere.
type Gatherer interface {
	// Gather reads them; errors.ErrUnsupported where that is not faster.
	Gather(ctx context.Context, wanted Wanted) (Gathered, error)
}

// Wanted is what somebody is going to read.
type Wanted struct {
	Documents []string
	Folders   []string // of which every document is wanted
	Lists     []string // folders of which only the names are wanted
}

// Gathered is what there was of it at one moment.
type Gathered struct {
	Documents map[string]Document
	Names     map[string][]string // by folder: the last parts of the names there, sorted as text
}

// Document is a document's content and revision.
type Document struct {
	Data     []byte
	Revision Revision // empty: it is there, and could not be opened
}

// Ahead reads ahead, where that is faster, what is going to be read. The store that it returns answers from that; whatever else is asked, and
// all that is written, goes to the store itself, and what was written there is read there again. An error of reading ahead is that of whoever
// reads then.
func Ahead(ctx context.Context, store Store, wanted Wanted) Store {
	gatherer, isFaster := store.(Gatherer)
	if !isFaster {
		return store
	}
	a := &ahead{Store: store, wanted: wanted, written: map[string]bool{}}
	if a.gathered, a.err = gatherer.Gather(ctx, wanted); errors.Is(a.err, errors.ErrUnsupported) {
		return store
	}
	return a
}

type ahead struct {
	Store
	wanted   Wanted
	gathered Gathered
	err      error

	mu      sync.Mutex
	written map[string]bool
}

func (a *ahead) Read(ctx context.Context, name string) ([]byte, Revision, error) {
	isWanted := slices.Contains(a.wanted.Documents, name) || slices.Contains(a.wanted.Folders, path.Dir(name))
	one, isThere := a.gathered.Documents[name]
	isUnopened := isThere && one.Revision == ""
	switch {
	case !isWanted || isUnopened || a.isWritten(func(other string) bool { return other == name }):
		return a.Store.Read(ctx, name)
	case a.err != nil:
		return nil, "", a.err
	case !isThere:
		return nil, "", fmt.Errorf("store: %s: %w", name, ErrNotFound)
	default:
		return slices.Clone(one.Data), one.Revision, nil
	}
}

func (a *ahead) List(ctx context.Context, folder string) ([]string, error) {
	isWanted := slices.Contains(a.wanted.Folders, folder) || slices.Contains(a.wanted.Lists, folder)
	if !isWanted || a.isWritten(func(other string) bool { return path.Dir(other) == folder }) {
		return a.Store.List(ctx, folder)
	}
	return slices.Clone(a.gathered.Names[folder]), a.err
}

func (a *ahead) isWritten(is func(name string) bool) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	for name := range a.written {
		if is(name) {
			return true
		}
	}
	return false
}

func (a *ahead) writes(name string) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.written[name] = true
}

func (a *ahead) Write(ctx context.Context, name string, data []byte, prev Revision) (Revision, error) {
	a.writes(name)
	return a.Store.Write(ctx, name, data, prev)
}

func (a *ahead) Delete(ctx context.Context, name string) error {
	a.writes(name)
	return a.Store.Delete(ctx, name)
}
