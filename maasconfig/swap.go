package maasconfig

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"maascert/internal/world"
)

// swap replaces some files together, and can put back what was there before, also after whoever began it was killed. The caller
// keeps others from changing them meanwhile.
//
// Beside each file stand, while it is at work: the new one, until it takes the place; and the old one under a second name, or a
// mark that there was none. They begin with a dot, so that nobody who loads all files of a folder takes them for one of these.
// What was kept of the first file is kept last and forgotten first: as long as it is there, what is kept of all is put back, and
// otherwise none is.
type swap struct {
	fsys  world.FS
	files []file
}

// file is one file as it has to be.
type file struct {
	path  string
	data  []byte
	perm  fs.FileMode
	owner world.Owner
}

// The names beside a file.
const (
	newBeside  = "new"
	oldBeside  = "old"
	noneBeside = "none"
)

func beside(path, what string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+".maascert-"+what)
}

// bring brings all files in. On an error what was there before is there again. Otherwise the old ones stand beside the new ones
// until forget or back.
func (s swap) bring() error {
	for _, step := range []func(file) error{s.write, s.keep, s.replace} {
		for _, f := range slices.Backward(s.files) {
			if err := step(f); err != nil {
				return errors.Join(err, s.back())
			}
		}
	}
	return nil
}

func (s swap) write(f file) error {
	return s.fsys.CreateFor(beside(f.path, newBeside), f.data, f.perm, f.owner)
}

func (s swap) keep(f file) error {
	info, err := s.fsys.Lstat(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return s.fsys.CreateFor(beside(f.path, noneBeside), nil, 0o600, world.Owner{UID: os.Geteuid(), GID: os.Getegid()})
	}
	if err != nil {
		return err
	}
	err = s.fsys.Link(f.path, beside(f.path, oldBeside))
	if err == nil || errors.Is(err, fs.ErrExist) {
		return err
	}
	// Not every file system has second names.
	data, readErr := s.fsys.ReadFile(f.path)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	return s.fsys.CreateFor(beside(f.path, oldBeside), data, info.Mode().Perm(), world.OwnerOf(info))
}

func (s swap) replace(f file) error { return s.fsys.Rename(beside(f.path, newBeside), f.path) }

// back puts back what was there before, if all of it is kept, and leaves nothing beside the files.
func (s swap) back() error {
	finish := s.clear
	if s.isKept(s.files[0].path) {
		finish = s.restore
	}
	for _, f := range slices.Backward(s.files) {
		if err := finish(f.path); err != nil {
			// The first file's is left alone, so that this can be finished later.
			return fmt.Errorf("putting the files back that were there before: %w", err)
		}
	}
	return nil
}

func (s swap) isKept(path string) bool {
	return isThere(s.fsys, beside(path, oldBeside)) || isThere(s.fsys, beside(path, noneBeside))
}

func (s swap) restore(path string) error {
	var err error
	switch {
	case isThere(s.fsys, beside(path, oldBeside)):
		err = s.fsys.Rename(beside(path, oldBeside), path)
	case isThere(s.fsys, beside(path, noneBeside)):
		err = s.removeIf(path)
	}
	if err != nil {
		return err
	}
	return s.clear(path) // of two names of one file a rename leaves both
}

// forget ends the swap: what was there before is gone.
func (s swap) forget() error {
	first := s.files[0].path
	for _, what := range []string{oldBeside, noneBeside} {
		// Other than a removal, this is there after a power cut, before anything else of it is.
		if err := s.fsys.Rename(beside(first, what), beside(first, newBeside)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	var failed []error
	for _, f := range s.files {
		failed = append(failed, s.clear(f.path))
	}
	return errors.Join(failed...)
}

// clear removes what stands beside a file.
func (s swap) clear(path string) error {
	return errors.Join(s.removeIf(beside(path, noneBeside)), s.removeIf(beside(path, oldBeside)), s.removeIf(beside(path, newBeside)))
}

// isOpen tells whether one was begun and neither forgotten nor taken back.
func (s swap) isOpen() bool {
	for _, f := range s.files {
		for _, what := range []string{newBeside, oldBeside, noneBeside} {
			if isThere(s.fsys, beside(f.path, what)) {
				return true
			}
		}
	}
	return false
}

func (s swap) removeIf(path string) error {
	if err := s.fsys.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func isThere(fsys world.FS, path string) bool {
	_, err := fsys.Lstat(path)
	return err == nil
}
