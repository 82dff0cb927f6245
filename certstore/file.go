package certstore

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// FileStore keeps each document in a file of its own below a folder: files 0600, folders 0700. Reading makes nothing,
// not even the folder. Writers take turns by flock, also across processes, so a revision can simply be the hash of the
// content.
type FileStore struct {
	Node string // what this host calls itself, for who finds a lock taken

	fsys world.FS
	dir  string
}

var _ Store = (*FileStore)(nil)

// NewFileStore is the store in dir, which is made by the first write.
func NewFileStore(fsys world.FS, dir string) *FileStore { return &FileStore{fsys: fsys, dir: dir} }

const (
	// locks is the folder, below the store's, of the lock files; each is empty and stays where it is.
	locks = "lock"
	// holders is the folder, below the locks', of what holders wrote down of themselves.
	holders = ".holders"
	// writers is the lock that whoever writes takes for that moment. Its name can be no document's or caller's.
	writers = ".writers"
	// writersPatience is how long a write waits for the writers before it.
	writersPatience = 10 * time.Second
)

func (s *FileStore) Writable(context.Context) error {
	if err := world.Private(s.fsys, s.dir, os.Geteuid()); errors.Is(err, fs.ErrPermission) {
		return hint.Add(fmt.Errorf("store: %w", err), "%s", roomOrRights(err))
	} else if err != nil {
		return hint.Add(fmt.Errorf("store: %w", err), "as root: chmod 0700 %s", s.dir)
	}
	folders, err := s.folders()
	if err != nil {
		return hint.Add(fmt.Errorf("store: %w", err), "%s", roomOrRights(err))
	}
	for _, folder := range append(folders, filepath.Join(s.dir, locks)) {
		if err := s.fsys.Writable(folder); err != nil {
			return hint.Add(fmt.Errorf("store: %w", err), "%s", roomOrRights(err))
		}
	}
	return nil
}

func (s *FileStore) Read(_ context.Context, name string) ([]byte, Revision, error) {
	path, err := s.path(name)
	if err != nil {
		return nil, "", err
	}
	data, err := s.fsys.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, "", fmt.Errorf("store: %s: %w", name, ErrNotFound)
	}
	if err != nil {
		return nil, "", hint.Add(fmt.Errorf("store: %w", err), "%s", roomOrRights(err))
	}
	return data, revision(data), nil
}

func (s *FileStore) Write(ctx context.Context, name string, data []byte, prev Revision) (Revision, error) {
	path, err := s.path(name)
	if err := errors.Join(err, CheckSize(name, data)); err != nil {
		return "", err
	}
	err = s.alone(ctx, func() error {
		_, now, err := s.Read(ctx, name)
		if err != nil && !errors.Is(err, ErrNotFound) {
			return err
		}
		if now != prev {
			return fmt.Errorf("%s: %w", name, ErrConflict)
		}
		if err := s.make(filepath.Dir(path)); err != nil {
			return err
		}
		return s.fsys.Replace(path, data, 0o600)
	})
	if err != nil {
		return "", fmt.Errorf("store: %w", err)
	}
	return revision(data), nil
}

func (s *FileStore) Delete(ctx context.Context, name string) error {
	path, err := s.path(name)
	if err != nil {
		return err
	}
	err = s.alone(ctx, func() error { return s.fsys.Remove(path) })
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("store: %w", err)
	}
	return nil
}

func (s *FileStore) List(_ context.Context, folder string) ([]string, error) {
	path, err := s.path(folder)
	if err != nil {
		return nil, err
	}
	entries, err := s.fsys.ReadDir(path)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("store: %w", err)
	}
	var names []string
	for _, entry := range entries {
		if !entry.IsDir() && part.MatchString(entry.Name()) {
			names = append(names, entry.Name())
		}
	}
	slices.Sort(names)
	return names, nil
}

// Lock also removes what a killed writer left behind, keys among it.
func (s *FileStore) Lock(ctx context.Context, name string) (*Held, error) {
	if !document.MatchString(name) {
		return nil, fmt.Errorf("store: %q cannot name a lock", name)
	}
	path := filepath.Join(s.dir, locks, name)
	if err := s.make(filepath.Dir(path)); err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	release, err := s.fsys.TryLock(path)
	if errors.Is(err, world.ErrLocked) {
		locked := &LockedError{Name: name}
		if holder, err := s.Holder(ctx, name); err == nil && holder != nil {
			locked.Holder = *holder
		}
		return nil, locked
	}
	if err != nil {
		return nil, fmt.Errorf("store: %w", err)
	}
	err = s.alone(ctx, func() error {
		defer s.sign(name)
		return s.sweep()
	})
	if err != nil {
		return nil, errors.Join(fmt.Errorf("store: %w", err), release())
	}
	return NewHeld(ctx, s, func() {
		// A lock file that cannot be unlocked is unlocked by the process's end.
		_ = release()
	}), nil
}

// sign writes down who holds a lock, for people; the caller writes alone. Where that cannot be written nobody knows, and the
// lock holds all the same.
func (s *FileStore) sign(name string) {
	text, err := json.Marshal(Holder{Node: s.Node, PID: os.Getpid(), Since: time.Now().UTC().Truncate(time.Second)})
	path := filepath.Join(s.dir, locks, holders, name)
	if err = errors.Join(err, s.make(filepath.Dir(path))); err == nil {
		err = s.fsys.Replace(path, text, 0o600)
	}
	if err != nil {
		_ = s.fsys.Remove(path) // what stands there is of an earlier time
	}
}

// Holder goes by the kernel's list of locks: what the last holder wrote down stays when it is killed.
func (s *FileStore) Holder(_ context.Context, name string) (*Holder, error) {
	var signed Holder
	text, err := s.fsys.ReadFile(filepath.Join(s.dir, locks, holders, name))
	if err != nil || json.Unmarshal(text, &signed) != nil {
		signed = Holder{}
	}
	pid, err := s.lockedBy(filepath.Join(s.dir, locks, name), signed.PID)
	if err != nil || pid == 0 {
		return nil, err
	}
	if pid != signed.PID {
		return &Holder{PID: pid}, nil
	}
	return &signed, nil
}

// lockedBy is the process that has a lock of a file (proc_locks(5)); 0 for none. Other file systems have files of the same
// number, and some do not name their own device there as stat does: so whoever is the expected process counts as well.
func (s *FileStore) lockedBy(path string, expected int) (pid int, err error) {
	info, err := s.fsys.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, errors.New("store: this system does not say who holds a lock")
	}
	text, err := s.fsys.ReadFile("/proc/locks")
	if err != nil {
		return 0, err
	}
	file := fmt.Sprintf("%02x:%02x:%d", unix.Major(stat.Dev), unix.Minor(stat.Dev), stat.Ino)
	for line := range strings.Lines(string(text)) {
		words := strings.Fields(line)
		if len(words) < 6 || words[1] != "FLOCK" || !strings.HasSuffix(words[5], fmt.Sprintf(":%d", stat.Ino)) {
			continue
		}
		switch holder, err := strconv.Atoi(words[4]); {
		case err != nil:
		case holder == expected:
			return holder, nil
		case words[5] == file:
			pid = holder
		}
	}
	return pid, nil
}

// alone runs f while no other process or goroutine writes to the store.
func (s *FileStore) alone(ctx context.Context, f func() error) error {
	folder := filepath.Join(s.dir, locks)
	if err := s.make(folder); err != nil {
		return err
	}
	deadline := time.Now().Add(writersPatience)
	for {
		unlock, err := s.fsys.TryLock(filepath.Join(folder, writers))
		if err == nil {
			return errors.Join(f(), unlock())
		}
		if !errors.Is(err, world.ErrLocked) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-time.After(time.Millisecond):
		}
	}
}

// make makes a folder of the store. What lies around the store can be passed through, but not listed: others find what
// is public beside it.
func (s *FileStore) make(dir string) error {
	if err := s.fsys.MkdirAll(filepath.Dir(s.dir), 0o711); err != nil {
		return err
	}
	return s.fsys.MkdirAll(dir, 0o700)
}

// folders are those that documents lie in.
func (s *FileStore) folders() ([]string, error) {
	versions := filepath.Join(s.dir, "versions")
	folders := []string{s.dir, filepath.Join(s.dir, "state"), filepath.Join(s.dir, "nodes"), versions}
	certs, err := s.fsys.ReadDir(versions)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	for _, cert := range certs {
		if cert.IsDir() && part.MatchString(cert.Name()) {
			folders = append(folders, filepath.Join(versions, cert.Name()))
		}
	}
	return folders, nil
}

// sweep removes the temporary files of killed writers from the folders that documents lie in.
func (s *FileStore) sweep() error {
	folders, err := s.folders()
	if err != nil {
		return err
	}
	for _, folder := range append(folders, filepath.Join(s.dir, locks, holders)) {
		err = errors.Join(err, world.Sweep(s.fsys, folder))
	}
	return err
}

// roomOrRights advises about a place that cannot be written.
func roomOrRights(err error) string {
	if errors.Is(err, fs.ErrPermission) {
		return "run maascert as the user that the store belongs to (root); maascert monitor tells anybody what endpoints serve"
	}
	return "free or mount it, or set state_dir"
}

func (s *FileStore) path(name string) (string, error) {
	if !document.MatchString(name) {
		return "", fmt.Errorf("store: %q cannot name a document", name)
	}
	return filepath.Join(s.dir, filepath.FromSlash(name)), nil
}

var (
	part     = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*$`)
	document = regexp.MustCompile(`^[A-Za-z0-9_-][A-Za-z0-9._-]*(/[A-Za-z0-9_-][A-Za-z0-9._-]*)*$`)
)

func revision(data []byte) Revision {
	sum := sha256.Sum256(data)
	return Revision(hex.EncodeToString(sum[:]))
}
