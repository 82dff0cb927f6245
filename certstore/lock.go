package certstore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"maascert/internal/hint"
	"maascert/internal/printable"
)

var (
	// ErrLocked says that somebody else holds the lock; the error is a *LockedError.
	ErrLocked = errors.New("locked by another run")
	// ErrLockLost says that a lock which was held is not held any more.
	ErrLockLost = hint.Add(errors.New("the lock is lost"), "was the database, or the way to it, away for a moment? What was written down by then is kept, and the next pass goes on from it; a command that you gave may not have been carried out: look with maascert status, and give it again")
)

// Holder is who holds a lock.
type Holder struct {
	Node  string    `json:"node"` // empty when only the process is known
	PID   int       `json:"pid"`
	Since time.Time `json:"since"`
}

// LockedError says who holds a lock that was wanted.
type LockedError struct {
	Name   string
	Holder Holder
}

func (e *LockedError) Error() string {
	if e.Holder.Node == "" {
		return fmt.Sprintf("store: %s: %v", e.Name, ErrLocked)
	}
	return fmt.Sprintf("store: %s: %v (process %d on %s, since %s)", e.Name, ErrLocked, e.Holder.PID, e.Holder.Node, printable.Time(e.Holder.Since))
}

// Is tells that the error is ErrLocked.
func (e *LockedError) Is(target error) bool { return target == ErrLocked }

// Held is a lock that is held. It is the store to write to meanwhile: once the lock is lost, or given back, it refuses.
type Held struct {
	Store
	ctx     context.Context
	cancel  context.CancelCauseFunc
	lost    atomic.Bool
	once    sync.Once
	release func()
}

// NewHeld is a lock of a store, for who implements one; release gives it back. A context that ends does not lose it: what has
// happened may still be written down.
func NewHeld(ctx context.Context, store Store, release func()) *Held {
	h := &Held{Store: store, release: release}
	h.ctx, h.cancel = context.WithCancelCause(ctx)
	return h
}

// Context ends when the lock is lost or given back, or its parent ends; its cause says which.
func (h *Held) Context() context.Context { return h.ctx }

// Lose says that the lock is held no more, for who implements a store whose locks can be lost.
func (h *Held) Lose() {
	h.lost.Store(true)
	h.cancel(ErrLockLost)
}

// Unlock gives the lock back; the second time does nothing.
func (h *Held) Unlock() {
	h.Lose()
	h.once.Do(h.release)
}

func (h *Held) Write(ctx context.Context, name string, data []byte, prev Revision) (Revision, error) {
	if h.lost.Load() {
		return "", fmt.Errorf("store: %s: %w", name, ErrLockLost)
	}
	return h.Store.Write(ctx, name, data, prev)
}

func (h *Held) Delete(ctx context.Context, name string) error {
	if h.lost.Load() {
		return fmt.Errorf("store: %s: %w", name, ErrLockLost)
	}
	return h.Store.Delete(ctx, name)
}

// LockWithin takes a lock and waits for it as long as wait; a *LockedError when it is still held then.
func LockWithin(ctx context.Context, store Store, name string, wait time.Duration) (*Held, error) {
	deadline := time.Now().Add(wait)
	pause := 20 * time.Millisecond
	for {
		held, err := store.Lock(ctx, name)
		left := time.Until(deadline)
		if !errors.Is(err, ErrLocked) || left <= 0 {
			return held, err
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-time.After(min(pause, left)):
		}
		pause = min(2*pause, time.Second)
	}
}
