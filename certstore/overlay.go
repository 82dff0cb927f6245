package certstore

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
)

// Overlay is a store for a rehearsal: it reads another store and keeps what is written to itself, in memory. Its locks
// keep nobody out.
type Overlay struct {
	base Store

	mu   sync.Mutex
	docs map[string][]byte // nil: deleted
}

var _ Store = (*Overlay)(nil)

// NewOverlay lays an overlay over a store. A nil base is an empty store.
func NewOverlay(base Store) *Overlay { return &Overlay{base: base, docs: map[string][]byte{}} }

func (o *Overlay) Read(ctx context.Context, name string) ([]byte, Revision, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.read(ctx, name)
}

func (o *Overlay) read(ctx context.Context, name string) ([]byte, Revision, error) {
	if !document.MatchString(name) {
		return nil, "", fmt.Errorf("store: %q cannot name a document", name)
	}
	data, own := o.docs[name]
	switch {
	case own && data != nil:
		return slices.Clone(data), revision(data), nil
	case own || o.base == nil:
		return nil, "", fmt.Errorf("store: %s: %w", name, ErrNotFound)
	default:
		return o.base.Read(ctx, name)
	}
}

func (o *Overlay) Write(ctx context.Context, name string, data []byte, prev Revision) (Revision, error) {
	if err := CheckSize(name, data); err != nil {
		return "", err
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	_, now, err := o.read(ctx, name)
	if err != nil && !errors.Is(err, ErrNotFound) {
		return "", err
	}
	if now != prev {
		return "", fmt.Errorf("store: %s: %w", name, ErrConflict)
	}
	o.docs[name] = append([]byte{}, data...)
	return revision(data), nil
}

func (o *Overlay) Delete(_ context.Context, name string) error {
	if !document.MatchString(name) {
		return fmt.Errorf("store: %q cannot name a document", name)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.docs[name] = nil
	return nil
}

func (o *Overlay) List(ctx context.Context, folder string) ([]string, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	var names []string
	if o.base != nil {
		var err error
		if names, err = o.base.List(ctx, folder); err != nil {
			return nil, err
		}
	}
	for name, data := range o.docs {
		last, ok := strings.CutPrefix(name, folder+"/")
		if !ok || strings.Contains(last, "/") {
			continue
		}
		names = slices.DeleteFunc(names, func(have string) bool { return have == last })
		if data != nil {
			names = append(names, last)
		}
	}
	slices.Sort(names)
	return names, nil
}

// Writable asks the store below: a rehearsal shows what a real run would meet.
func (o *Overlay) Writable(ctx context.Context) error {
	if o.base == nil {
		return nil
	}
	return o.base.Writable(ctx)
}

// Lock always succeeds: a rehearsal stands in nobody's way.
func (o *Overlay) Lock(ctx context.Context, name string) (*Held, error) {
	if !document.MatchString(name) {
		return nil, fmt.Errorf("store: %q cannot name a lock", name)
	}
	return NewHeld(ctx, o, func() {}), nil
}

// Holder asks the store below.
func (o *Overlay) Holder(ctx context.Context, name string) (*Holder, error) {
	if o.base == nil {
		return nil, nil
	}
	return o.base.Holder(ctx, name)
}
