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
	copyBeside = "copy" // what is to be the old one, while it is written
	freeBeside = "free" // never there: could somebody else take such a name?
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
	// Not every file system has second names. A copy has its name only when it is whole.
	data, readErr := s.fsys.ReadFile(f.path)
	if readErr != nil {
		return errors.Join(err, readErr)
	}
	if err := s.fsys.CreateFor(beside(f.path, copyBeside), data, info.Mode().Perm(), world.OwnerOf(info)); err != nil {
		return err
	}
	return s.fsys.Rename(beside(f.path, copyBeside), beside(f.path, oldBeside))
}

func (s swap) replace(f file) error { return s.fsys.Rename(beside(f.path, newBeside), f.path) }

// back puts back what was there before, if all of it is kept, and leaves nothing beside the files.
func (s swap) back() error {
	old, none, err := s.kept(s.files[0].path)
	if err != nil {
		return err
	}
	finish := s.clear
	if old || none {
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

// kept tells whether the old file is kept beside the new one, or a mark that there was none.
func (s swap) kept(path string) (old, none bool, err error) {
	if old, err = s.isThere(beside(path, oldBeside)); err == nil {
		none, err = s.isThere(beside(path, noneBeside))
	}
	return old, none, err
}

func (s swap) restore(path string) error {
	old, none, err := s.kept(path)
	switch {
	case err != nil:
	case old:
		err = s.fsys.Rename(beside(path, oldBeside), path)
	case none:
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
	var failed []error
	for _, what := range []string{noneBeside, oldBeside, newBeside, copyBeside} {
		failed = append(failed, s.removeIf(beside(path, what)))
	}
	return errors.Join(failed...)
}

// isOpen tells whether one was begun and neither forgotten nor taken back.
func (s swap) isOpen() (bool, error) {
	for _, f := range s.files {
		for _, what := range []string{newBeside, oldBeside, noneBeside, copyBeside} {
			if there, err := s.isThere(beside(f.path, what)); there || err != nil {
				return there, err
			}
		}
	}
	return false, nil
}

func (s swap) removeIf(path string) error {
	if err := s.fsys.Remove(path); !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// isThere tells whether there is a file. What cannot be known is an error, and never a no.
func (s swap) isThere(path string) (bool, error) {
	_, err := s.fsys.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}
