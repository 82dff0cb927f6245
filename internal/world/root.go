package world

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"
)

// osRoot is a folder of the real file system, held by its descriptor.
type osRoot struct {
	root *os.Root
	dir  string
}

func (OS) OpenRoot(dir string) (Root, error) {
	root, err := os.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return &osRoot{root: root, dir: dir}, nil
}

func (r *osRoot) Close() error { return r.root.Close() }

func (r *osRoot) Stat(name string) (fs.FileInfo, error) { return r.root.Stat(name) }

func (r *osRoot) ReadDir(name string, most int) ([]string, error) {
	folder, err := r.root.OpenFile(name, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer folder.Close()
	names, err := folder.Readdirnames(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

func (r *osRoot) Remove(name string) error { return r.root.Remove(name) }

func (r *osRoot) ReadFile(name string) ([]byte, error) {
	file, err := r.root.OpenFile(name, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	folder, err := r.root.Stat(".")
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	if owner := ownerOf(info); owner != 0 && owner != ownerOf(folder) {
		return nil, fmt.Errorf("%s belongs to user %d, not to %s's owner", filepath.Join(r.dir, name), owner, r.dir)
	}
	return readRegular(filepath.Join(r.dir, name), file)
}

// ownerOf is a file's owner; -1 where the file system has none.
func ownerOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Uid)
	}
	return -1
}

// groupOf is a file's group; -1 where the file system has none.
func groupOf(info fs.FileInfo) int {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return int(stat.Gid)
	}
	return -1
}

func (r *osRoot) MkdirAll(dir string, perm fs.FileMode) error {
	if dir == "." {
		return nil
	}
	info, err := r.root.Lstat(dir)
	switch {
	case err == nil && info.IsDir():
		return nil
	case err == nil:
		return &fs.PathError{Op: "mkdir", Path: filepath.Join(r.dir, dir), Err: syscall.ENOTDIR}
	case !errors.Is(err, fs.ErrNotExist):
		return err
	}
	if err := r.MkdirAll(filepath.Dir(dir), perm); err != nil {
		return err
	}
	if err := r.root.Mkdir(dir, perm); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	folder, err := r.root.OpenFile(dir, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	return setMode(folder, perm)
}

func (r *osRoot) Replace(name string, data []byte, perm fs.FileMode) (err error) {
	temporary := filepath.Join(filepath.Dir(name), "."+rand.Text())
	file, err := r.root.OpenFile(temporary, os.O_WRONLY|os.O_CREATE|os.O_EXCL, perm)
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			// It is of no use to anybody.
			_ = r.root.Remove(temporary)
		}
	}()
	_, err = file.Write(data)
	if err = errors.Join(err, file.Chmod(perm), file.Sync(), file.Close()); err != nil {
		return err
	}
	return r.root.Rename(temporary, name)
}
