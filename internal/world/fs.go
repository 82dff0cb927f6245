// Package world is the machine as maascert sees it: the file system, other programs, the network.
//
// Everything that touches the machine goes through one of its types, so that a test can make any of it fail, hang or
// lie. The zero value of each type is the real thing.
//
// Start reading at [FS] and [Runner].
package world

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"syscall"

	"github.com/gofrs/flock"
	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"
)

// ErrLocked says that another process, or another part of this one, holds the lock.
var ErrLocked = errors.New("locked")

// minFree is the space in bytes that must be left for Writable to promise anything: a few certificates and a record.
const minFree = 256 << 10

// minFiles counts the files that it must be possible to make.
const minFiles = 32

// FS is the part of a file system that maascert needs. Every method returns the operating system's error, so that
// errors.Is with fs.ErrNotExist, fs.ErrExist and syscall numbers works.
type FS interface {
	// ReadFile reads a regular file of at most maxFile bytes. It does not wait for a pipe's other end: some of the files
	// belong to users with fewer rights than ours.
	ReadFile(name string) ([]byte, error)
	ReadDir(name string) ([]fs.DirEntry, error)
	Stat(name string) (fs.FileInfo, error)

	// Writable tells without writing anything whether files could be made in dir (or, while dir does not exist, below
	// its nearest existing parent): permissions, a read-only file system, free space.
	Writable(dir string) error

	// MkdirAll makes a folder and those above it, with exactly these permissions whatever the umask. What is there stays
	// as it is; what somebody else puts there meanwhile is not touched.
	MkdirAll(dir string, perm fs.FileMode) error
	// Replace writes a whole file atomically and durably: readers see the old or the new content, and after a power cut
	// one of the two is there.
	Replace(name string, data []byte, perm fs.FileMode) error
	// Create is like Replace, but fails with fs.ErrExist when the file is there.
	Create(name string, data []byte, perm fs.FileMode) error
	Remove(name string) error
	RemoveAll(name string) error

	// Lstat is Stat that does not follow a link.
	Lstat(name string) (fs.FileInfo, error)
	// CreateFor writes a whole new file durably, which belongs to somebody from its first byte that can be read; fs.ErrExist
	// when there is one. It is not atomic: a file that was killed while it was written stays, and is Rename's to bring in.
	CreateFor(name string, data []byte, perm fs.FileMode, owner Owner) error
	// Link gives a file a second name, in the same folder; fs.ErrExist when there is such a file.
	Link(name, second string) error
	// Rename gives a file another name in the same folder, atomically and durably, in the place of whatever has that name.
	Rename(name, other string) error

	// OpenRoot opens a folder whose owner may have fewer rights than ours. Nothing below it leads out of it.
	OpenRoot(dir string) (Root, error)

	// TryLock takes an advisory lock (flock) on a file, made when it does not exist, or on an existing folder. The
	// error is ErrLocked when somebody else has it. The lock dies with the process.
	TryLock(name string) (unlock func() error, err error)
}

// Root is a folder of somebody else's: a link that leads out of it is an error, at whatever moment it is laid there. Names
// are relative to it.
type Root interface {
	// ReadDir lists the names of at most so many files of a folder, in no order.
	ReadDir(name string, most int) ([]string, error)
	// ReadFile is FS.ReadFile for a file that belongs to the folder's own owner or to root.
	ReadFile(name string) ([]byte, error)
	Stat(name string) (fs.FileInfo, error)
	MkdirAll(dir string, perm fs.FileMode) error
	Replace(name string, data []byte, perm fs.FileMode) error
	Remove(name string) error
	Close() error
}

// Owner is who a file belongs to.
type Owner struct{ UID, GID int }

// OwnerOf is who a file belongs to; we, where the file system does not know.
func OwnerOf(info fs.FileInfo) Owner {
	if uid := ownerOf(info); uid >= 0 {
		return Owner{uid, groupOf(info)}
	}
	return Owner{os.Geteuid(), os.Getegid()}
}

// OS is the real file system.
type OS struct{}

var _ FS = OS{}

func (OS) ReadDir(name string) ([]fs.DirEntry, error) { return os.ReadDir(name) }
func (OS) Stat(name string) (fs.FileInfo, error)      { return os.Stat(name) }
func (OS) Remove(name string) error                   { return os.Remove(name) }
func (OS) RemoveAll(name string) error                { return os.RemoveAll(name) }

func (OS) Writable(dir string) error {
	at := dir
	for {
		info, err := os.Stat(at)
		if err == nil {
			if !info.IsDir() {
				return &fs.PathError{Op: "write", Path: at, Err: syscall.ENOTDIR}
			}
			break
		}
		if !errors.Is(err, fs.ErrNotExist) || at == filepath.Dir(at) {
			return err
		}
		at = filepath.Dir(at)
	}
	if err := unix.Access(at, unix.W_OK|unix.X_OK); err != nil {
		return &fs.PathError{Op: "write", Path: at, Err: err}
	}
	var stat unix.Statfs_t
	if err := unix.Statfs(at, &stat); err != nil {
		return &fs.PathError{Op: "statfs", Path: at, Err: err}
	}
	if stat.Flags&unix.ST_RDONLY != 0 {
		return &fs.PathError{Op: "write", Path: at, Err: syscall.EROFS}
	}
	// One that counts no files at all has no bound on them.
	if stat.Files > 0 && stat.Ffree < minFiles {
		return &fs.PathError{Op: "write", Path: at, Err: fmt.Errorf("no file can be made any more (%w)", syscall.ENOSPC)}
	}
	// A file system that reports no blocks at all (some network and virtual ones) says nothing about its space.
	if stat.Blocks > 0 && stat.Bavail*uint64(stat.Bsize) < minFree {
		return &fs.PathError{Op: "write", Path: at, Err: syscall.ENOSPC}
	}
	return nil
}

// maxFile is the size in bytes of the largest file that is read.
const maxFile = 4 << 20

func (OS) ReadFile(name string) ([]byte, error) {
	file, err := os.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return readRegular(name, file)
}

func readRegular(name string, file *os.File) ([]byte, error) {
	info, err := file.Stat()
	switch {
	case err != nil:
		return nil, err
	case info.IsDir():
		return nil, &fs.PathError{Op: "read", Path: name, Err: syscall.EISDIR}
	case !info.Mode().IsRegular():
		return nil, &fs.PathError{Op: "read", Path: name, Err: errors.New("not a regular file")}
	}
	data, err := io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = &fs.PathError{Op: "read", Path: name, Err: syscall.EFBIG}
	}
	return data, err
}

func (o OS) MkdirAll(dir string, perm fs.FileMode) error {
	info, err := os.Stat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: dir, Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := o.MkdirAll(filepath.Dir(dir), perm); err != nil {
		return err
	}
	if err := os.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	folder, err := os.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	if err := setMode(folder, perm); err != nil {
		return err
	}
	return syncDir(filepath.Dir(dir))
}

// setMode sets the mode of a folder that was just made, and of no other: it is ours, and empty.
func setMode(folder *os.File, perm fs.FileMode) error {
	info, err := folder.Stat()
	if err == nil {
		if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != os.Geteuid() {
			err = &fs.PathError{Op: "mkdir", Path: folder.Name(), Err: errors.New("somebody else put a folder there")}
		}
	}
	if err == nil && info.Mode().Perm() != perm {
		err = folder.Chmod(perm)
	}
	return errors.Join(err, folder.Close())
}

func (OS) Replace(name string, data []byte, perm fs.FileMode) error {
	file, err := pending(name, data, perm)
	if err != nil {
		return err
	}
	if err := file.CloseAtomicallyReplace(); err != nil {
		return errors.Join(err, file.Cleanup())
	}
	return syncDir(filepath.Dir(name))
}

func (OS) Create(name string, data []byte, perm fs.FileMode) error {
	file, err := pending(name, data, perm)
	if err != nil {
		return err
	}
	err = file.Sync()
	if err == nil {
		err = os.Link(file.Name(), name)
	}
	if err := errors.Join(err, file.Cleanup()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func (OS) Lstat(name string) (fs.FileInfo, error) { return os.Lstat(name) }

func (OS) CreateFor(name string, data []byte, perm fs.FileMode, owner Owner) (err error) {
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// It is of no use to anybody.
			_ = os.Remove(name)
		}
	}()
	if info, statErr := file.Stat(); statErr != nil || OwnerOf(info) != owner {
		err = errors.Join(statErr, file.Chown(owner.UID, owner.GID))
	}
	if err == nil {
		err = file.Chmod(perm) // after the owner: a change of that takes rights away
	}
	if err == nil {
		_, err = file.Write(data)
	}
	if err = errors.Join(err, file.Sync(), file.Close()); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func (OS) Link(name, second string) error {
	if err := os.Link(name, second); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func (OS) Rename(name, other string) error {
	if err := os.Rename(name, other); err != nil {
		return err
	}
	return syncDir(filepath.Dir(name))
}

func (OS) TryLock(name string) (func() error, error) {
	options := []flock.Option{flock.SetPermissions(0o600)}
	if info, err := os.Stat(name); err == nil && info.IsDir() {
		options = []flock.Option{flock.SetFlag(os.O_RDONLY)}
	}
	lock := flock.New(name, options...)
	held, err := lock.TryLock()
	if err != nil {
		return nil, err
	}
	if !held {
		return nil, fmt.Errorf("%s: %w", name, ErrLocked)
	}
	return lock.Unlock, nil
}

// leftover are the names of the temporary files of Replace and Create: a dot, the file's own name, and a random number.
var leftover = regexp.MustCompile(`^\..+\d{5,}$`)

// Sweep removes what a killed Replace or Create left in dir. The caller holds whatever lock keeps others from writing
// there. A folder that does not exist is clean.
func Sweep(fsys FS, dir string) error {
	entries, err := fsys.ReadDir(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	for _, entry := range entries {
		if !entry.IsDir() && leftover.MatchString(entry.Name()) {
			if removed := fsys.Remove(filepath.Join(dir, entry.Name())); !errors.Is(removed, fs.ErrNotExist) {
				err = errors.Join(err, removed)
			}
		}
	}
	return err
}

// Private tells whether a folder is safe to keep keys in: it is a folder, it is ours, and nobody else may enter it. One
// that does not exist yet will be.
func Private(fsys FS, dir string, uid int) error {
	info, err := fsys.Stat(dir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	switch {
	case !info.IsDir():
		return &fs.PathError{Op: "use", Path: dir, Err: syscall.ENOTDIR}
	case ok && int(stat.Uid) != uid:
		return fmt.Errorf("%s belongs to user %d, not to us: %w", dir, stat.Uid, fs.ErrPermission)
	case info.Mode().Perm()&0o077 != 0:
		return fmt.Errorf("%s can be entered by others (mode %#o)", dir, info.Mode().Perm())
	default:
		return nil
	}
}

// pending writes data to a temporary file beside name. The temporary file is on the same file system by construction,
// so that the final rename or link cannot fail with EXDEV.
func pending(name string, data []byte, perm fs.FileMode) (*renameio.PendingFile, error) {
	file, err := renameio.NewPendingFile(name, renameio.WithTempDir(filepath.Dir(name)), renameio.WithStaticPermissions(perm))
	if err != nil {
		return nil, err
	}
	if _, err := file.Write(data); err != nil {
		return nil, errors.Join(err, file.Cleanup())
	}
	return file, nil
}

func syncDir(dir string) error {
	folder, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(folder.Sync(), folder.Close())
}
