package certstore

import (
	"context"
	"errors"
	"fmt"
)

// Store keeps small documents under names like "state/maas", with compare-and-swap, and locks under names of their own.
// A name is made of one or more parts of letters, digits, dots, hyphens and underscores that do not begin with a dot,
// separated by slashes.
//
// A store is safe for concurrent use, by one process and by several. The suite in storetest says the rest.
type Store interface {
	// Read returns a document and its revision; ErrNotFound when there is none.
	Read(ctx context.Context, name string) ([]byte, Revision, error)
	// Write replaces the document whose revision is still prev, or makes a new one when prev is empty, and returns the
	// new revision; ErrConflict when somebody was faster. When it returns nil the document is durable; when it returns
	// an error the old one is whole, and a reader sees the old or the new one, never a part. More than MaxDocument bytes
	// are refused: nobody could read them again.
	Write(ctx context.Context, name string, data []byte, prev Revision) (Revision, error)
	// Delete removes a document; one that does not exist is no error.
	Delete(ctx context.Context, name string) error
	// List returns the last parts of the names that are one part longer than folder, sorted as text.
	List(ctx context.Context, folder string) ([]string, error)
	// Writable tells without writing anything whether documents could be written, as far as that can be seen.
	Writable(ctx context.Context) error
	// Lock takes a named lock without waiting: a *LockedError when somebody else has it. The lock dies with the process.
	Lock(ctx context.Context, name string) (*Held, error)
	// Holder tells who holds a lock now; nil for nobody.
	Holder(ctx context.Context, name string) (*Holder, error)
}

// Watcher is a store that several hosts share, and that tells when another one has written a version of a certificate.
type Watcher interface {
	// Watch calls changed soon after that, until the context ends.
	Watch(ctx context.Context, changed func())
}

// MaxDocument is the size in bytes of the largest document that a store takes, and one that is sealed has Overhead bytes less; a
// certificate with its chain and key has about ten thousand.
const (
	MaxDocument = 1 << 20
	Overhead    = 1 << 10
)

// CheckSize refuses what is more than a document may have, for who implements a store.
func CheckSize(name string, data []byte) error {
	if len(data) > MaxDocument {
		return fmt.Errorf("store: %s: %d bytes are more than a document may have", name, len(data))
	}
	return nil
}

// CheckName refuses what can name no document and no lock, for who implements a store.
func CheckName(name string) error {
	if !document.MatchString(name) {
		return fmt.Errorf("store: %q cannot name a document", name)
	}
	return nil
}

// Revision identifies one state of a document; the empty one means that it does not exist.
type Revision string

var (
	// ErrNotFound says that there is no such document.
	ErrNotFound = errors.New("not found")
	// ErrAway says that the store cannot be reached, so that nobody knows what is in it; most often it comes back.
	ErrAway = errors.New("the store cannot be reached")
	// ErrConflict says that a document changed since it was read.
	ErrConflict = errors.New("changed by somebody else meanwhile")
)
