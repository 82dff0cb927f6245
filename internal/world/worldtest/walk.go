package worldtest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"

	"maascert/certstore"
	"maascert/internal/world"
)

// Fault is what goes wrong at a point.
type Fault string

// The faults. Those called after let the effect happen, of which nobody hears.
const (
	Fails        Fault = "error"
	FailsAfter   Fault = "error after"
	Crashes      Fault = "crash"
	CrashesAfter Fault = "crash after"
	FullDisk     Fault = "full disk" // from then on
	Slow         Fault = "slow"
	Cancelled    Fault = "cancelled"
	LockLost     Fault = "lock lost"
)

// Kind says which faults a point may have.
type Kind int

const (
	Reads  Kind = iota // it changes nothing
	Acts               // it changes something elsewhere
	Writes             // it changes a disk
)

// Faults are all that can go wrong at a point of a kind.
func (k Kind) Faults() []Fault {
	faults := []Fault{Fails, Crashes, Slow, Cancelled, LockLost}
	if k != Reads {
		faults = append(faults, FailsAfter, CrashesAfter)
	}
	if k == Writes {
		faults = append(faults, FullDisk)
	}
	return faults
}

// Point is a moment at which the world is touched: the nth time that something is done.
type Point struct {
	What string
	Nth  int
}

func (p Point) String() string { return fmt.Sprintf("%s (%d)", p.What, p.Nth) }

// Seen is a point that was reached.
type Seen struct {
	Point
	Kind Kind
}

var (
	errDead  = errors.New("the process is dead")
	errFault = &fs.PathError{Op: "fault", Path: "of the test", Err: syscall.EIO}
)

// slowTime is what slow takes: longer than a verification may in a walk, shorter than what bounds a look.
const slowTime = 2500 * time.Millisecond

// Walk is a world that is touched at many points, at one of which something goes wrong. A process that is dead touches nothing any more.
type Walk struct {
	At     Point // nowhere where it is zero
	Fault  Fault
	Cancel context.CancelFunc // the process is told to stop
	Alike  *strings.Replacer  // of what differs from run to run

	mu     sync.Mutex
	counts map[string]int
	seen   []Seen
	isDead bool
	isFull bool
	isDone bool // the fault was there
	held   []*certstore.Held
}

// Seen are the points that were reached, in their order.
func (w *Walk) Seen() []Seen {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.seen
}

// IsDone tells whether the fault's point was reached.
func (w *Walk) IsDone() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isDone
}

// IsDead tells whether the process is.
func (w *Walk) IsDead() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.isDead
}

// random is what differs from run to run: names of stages, orders and authorizations, hashes, ports.
var random = regexp.MustCompile(`[A-Za-z0-9_-]{20,}|[0-9a-f]{8,}|\b[0-9]{2,}\b`)

// Do does something to the world at a point.
func (w *Walk) Do(what string, kind Kind, effect func() error) error {
	after, err := w.reach(what, kind)
	if err != nil {
		return err
	}
	if err := effect(); err != nil || after == nil {
		return err
	}
	return after()
}

// reach says what goes wrong before an effect, and what after it.
func (w *Walk) reach(what string, kind Kind) (after func() error, before error) {
	what = random.ReplaceAllString(w.Alike.Replace(what), "#")
	isSlow := false
	defer func() {
		if isSlow { // while everything else goes on
			time.Sleep(slowTime)
		}
	}()
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case w.isDead:
		return nil, errDead
	case w.isFull && kind == Writes:
		return nil, &fs.PathError{Op: "write", Path: what, Err: syscall.ENOSPC}
	}
	if w.counts == nil {
		w.counts = map[string]int{}
	}
	w.counts[what]++
	point := Point{what, w.counts[what]}
	w.seen = append(w.seen, Seen{point, kind})
	if point != w.At {
		return nil, nil
	}
	w.isDone = true
	switch w.Fault {
	case Fails:
		return nil, errFault
	case FailsAfter:
		return func() error { return errFault }, nil
	case Crashes:
		w.die()
		return nil, errDead
	case CrashesAfter:
		return func() error {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.die()
			return errDead
		}, nil
	case FullDisk:
		w.isFull = true
		return nil, &fs.PathError{Op: "write", Path: what, Err: syscall.ENOSPC}
	case Slow:
		isSlow = true
	case Cancelled:
		w.Cancel()
	case LockLost:
		for _, held := range w.held {
			held.Lose()
		}
	}
	return nil, nil
}

func (w *Walk) die() {
	w.isDead = true
	w.Cancel()
}

// Take does something to the world that brings a value.
func take[T any](w *Walk, what string, kind Kind, effect func() (T, error)) (value T, err error) {
	err = w.Do(what, kind, func() (err error) {
		value, err = effect()
		return err
	})
	if err != nil {
		var none T
		return none, err
	}
	return value, nil
}

// FS is a file system of the world.
func (w *Walk) FS(real world.FS) world.FS { return walkedFS{real, w} }

type walkedFS struct {
	world.FS
	w *Walk
}

func (f walkedFS) ReadFile(name string) ([]byte, error) {
	return take(f.w, "read "+name, Reads, func() ([]byte, error) { return f.FS.ReadFile(name) })
}

func (f walkedFS) ReadDir(name string) ([]fs.DirEntry, error) {
	return take(f.w, "list "+name, Reads, func() ([]fs.DirEntry, error) { return f.FS.ReadDir(name) })
}

func (f walkedFS) Stat(name string) (fs.FileInfo, error) {
	return take(f.w, "stat "+name, Reads, func() (fs.FileInfo, error) { return f.FS.Stat(name) })
}

func (f walkedFS) Lstat(name string) (fs.FileInfo, error) {
	return take(f.w, "lstat "+name, Reads, func() (fs.FileInfo, error) { return f.FS.Lstat(name) })
}

func (f walkedFS) Writable(dir string) error {
	return f.w.Do("writable "+dir, Reads, func() error { return f.FS.Writable(dir) })
}

func (f walkedFS) MkdirAll(dir string, perm fs.FileMode) error {
	return f.w.Do("mkdir "+dir, Writes, func() error { return f.FS.MkdirAll(dir, perm) })
}

func (f walkedFS) Replace(name string, data []byte, perm fs.FileMode) error {
	return f.w.Do("replace "+name, Writes, func() error { return f.FS.Replace(name, data, perm) })
}

func (f walkedFS) Create(name string, data []byte, perm fs.FileMode) error {
	return f.w.Do("create "+name, Writes, func() error { return f.FS.Create(name, data, perm) })
}

func (f walkedFS) CreateFor(name string, data []byte, perm fs.FileMode, owner world.Owner) error {
	return f.w.Do("create "+name, Writes, func() error { return f.FS.CreateFor(name, data, perm, owner) })
}

func (f walkedFS) Link(name, second string) error {
	return f.w.Do("link "+name, Writes, func() error { return f.FS.Link(name, second) })
}

func (f walkedFS) Rename(name, other string) error {
	return f.w.Do("rename "+name, Acts, func() error { return f.FS.Rename(name, other) })
}

func (f walkedFS) Remove(name string) error {
	return f.w.Do("remove "+name, Acts, func() error { return f.FS.Remove(name) })
}

func (f walkedFS) RemoveAll(name string) error {
	return f.w.Do("remove all "+name, Acts, func() error { return f.FS.RemoveAll(name) })
}

// TryLock gives back a lock also when the process is dead: the lock dies with it.
func (f walkedFS) TryLock(name string) (func() error, error) {
	return take(f.w, "lock "+name, Reads, func() (func() error, error) { return f.FS.TryLock(name) })
}

func (f walkedFS) OpenRoot(dir string) (world.Root, error) {
	return take(f.w, "open "+dir, Reads, func() (world.Root, error) {
		root, err := f.FS.OpenRoot(dir)
		if err != nil {
			return nil, err
		}
		return walkedRoot{root, f.w, dir}, nil
	})
}

type walkedRoot struct {
	world.Root
	w   *Walk
	dir string
}

func (r walkedRoot) ReadDir(name string, most int) ([]string, error) {
	return take(r.w, "list "+r.dir+"/"+name, Reads, func() ([]string, error) { return r.Root.ReadDir(name, most) })
}

func (r walkedRoot) ReadFile(name string) ([]byte, error) {
	return take(r.w, "read "+r.dir+"/"+name, Reads, func() ([]byte, error) { return r.Root.ReadFile(name) })
}

func (r walkedRoot) Stat(name string) (fs.FileInfo, error) {
	return take(r.w, "stat "+r.dir+"/"+name, Reads, func() (fs.FileInfo, error) { return r.Root.Stat(name) })
}

func (r walkedRoot) MkdirAll(dir string, perm fs.FileMode) error {
	return r.w.Do("mkdir "+r.dir+"/"+dir, Writes, func() error { return r.Root.MkdirAll(dir, perm) })
}

func (r walkedRoot) Replace(name string, data []byte, perm fs.FileMode) error {
	return r.w.Do("replace "+r.dir+"/"+name, Writes, func() error { return r.Root.Replace(name, data, perm) })
}

func (r walkedRoot) Remove(name string) error {
	return r.w.Do("remove "+r.dir+"/"+name, Acts, func() error { return r.Root.Remove(name) })
}

// Runner runs programs of the world.
func (w *Walk) Runner(real world.Runner) world.Runner { return walkedRunner{real, w} }

type walkedRunner struct {
	world.Runner
	w *Walk
}

func (r walkedRunner) Run(ctx context.Context, command world.Command) (world.Result, error) {
	return take(r.w, "run "+command.String(), Acts, func() (world.Result, error) { return r.Runner.Run(ctx, command) })
}

// Dial opens connections of the world.
func (w *Walk) Dial(real world.Dial) world.Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		return take(w, "dial "+address, Reads, func() (net.Conn, error) { return real(ctx, network, address) })
	}
}

// Store is a store of the world whose locks can be lost.
func (w *Walk) Store(real certstore.Store) certstore.Store { return walkedStore{real, w} }

type walkedStore struct {
	certstore.Store
	w *Walk
}

type written struct {
	data     []byte
	revision certstore.Revision
}

func (s walkedStore) Read(ctx context.Context, name string) ([]byte, certstore.Revision, error) {
	got, err := take(s.w, "store read "+name, Reads, func() (written, error) {
		data, revision, err := s.Store.Read(ctx, name)
		return written{data, revision}, err
	})
	return got.data, got.revision, err
}

func (s walkedStore) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	return take(s.w, "store write "+name, Writes, func() (certstore.Revision, error) { return s.Store.Write(ctx, name, data, prev) })
}

func (s walkedStore) Delete(ctx context.Context, name string) error {
	return s.w.Do("store delete "+name, Acts, func() error { return s.Store.Delete(ctx, name) })
}

func (s walkedStore) List(ctx context.Context, folder string) ([]string, error) {
	return take(s.w, "store list "+folder, Reads, func() ([]string, error) { return s.Store.List(ctx, folder) })
}

func (s walkedStore) Lock(ctx context.Context, name string) (*certstore.Held, error) {
	return take(s.w, "store lock "+name, Reads, func() (*certstore.Held, error) {
		real, err := s.Store.Lock(ctx, name)
		if err != nil {
			return nil, err
		}
		held := certstore.NewHeld(ctx, walkedStore{real, s.w}, real.Unlock)
		s.w.mu.Lock()
		defer s.w.mu.Unlock()
		s.w.held = append(s.w.held, held)
		return held, nil
	})
}

// Gather reads many documents at once, where the real one can.
func (s walkedStore) Gather(ctx context.Context, wanted certstore.Wanted) (certstore.Gathered, error) {
	return take(s.w, "store gather", Reads, func() (certstore.Gathered, error) { return s.Store.(certstore.Gatherer).Gather(ctx, wanted) })
}

// Close closes what the real one keeps open.
func (s walkedStore) Close() {
	if open, ok := s.Store.(interface{ Close() }); ok {
		open.Close()
	}
}
