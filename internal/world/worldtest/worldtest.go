// Package worldtest makes the machine fail on demand.
package worldtest

import (
	"io/fs"

	"maascert/internal/world"
)

// FS is a file system whose operations fail when Fail says so. The operation's name is that of the method.
type FS struct {
	world.FS
	Fail func(op, name string) error
}

var _ world.FS = FS{}

func (f FS) ReadFile(name string) ([]byte, error) {
	if err := f.Fail("ReadFile", name); err != nil {
		return nil, err
	}
	return f.FS.ReadFile(name)
}

func (f FS) Writable(dir string) error {
	if err := f.Fail("Writable", dir); err != nil {
		return err
	}
	return f.FS.Writable(dir)
}

func (f FS) MkdirAll(dir string, perm fs.FileMode) error {
	if err := f.Fail("MkdirAll", dir); err != nil {
		return err
	}
	return f.FS.MkdirAll(dir, perm)
}

func (f FS) Replace(name string, data []byte, perm fs.FileMode) error {
	if err := f.Fail("Replace", name); err != nil {
		return err
	}
	return f.FS.Replace(name, data, perm)
}

func (f FS) Create(name string, data []byte, perm fs.FileMode) error {
	if err := f.Fail("Create", name); err != nil {
		return err
	}
	return f.FS.Create(name, data, perm)
}

func (f FS) Remove(name string) error {
	if err := f.Fail("Remove", name); err != nil {
		return err
	}
	return f.FS.Remove(name)
}

func (f FS) Lstat(name string) (fs.FileInfo, error) {
	if err := f.Fail("Lstat", name); err != nil {
		return nil, err
	}
	return f.FS.Lstat(name)
}

func (f FS) CreateFor(name string, data []byte, perm fs.FileMode, owner world.Owner) error {
	if err := f.Fail("CreateFor", name); err != nil {
		return err
	}
	return f.FS.CreateFor(name, data, perm, owner)
}

func (f FS) Link(name, second string) error {
	if err := f.Fail("Link", name); err != nil {
		return err
	}
	return f.FS.Link(name, second)
}

func (f FS) Rename(name, other string) error {
	if err := f.Fail("Rename", name); err != nil {
		return err
	}
	return f.FS.Rename(name, other)
}

func (f FS) OpenRoot(dir string) (world.Root, error) {
	root, err := f.FS.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	return Root{root, f.Fail}, nil
}

// Root is a folder of somebody else's whose operations fail when Fail says so.
type Root struct {
	world.Root
	Fail func(op, name string) error
}

func (r Root) ReadFile(name string) ([]byte, error) {
	if err := r.Fail("ReadFile", name); err != nil {
		return nil, err
	}
	return r.Root.ReadFile(name)
}

func (r Root) Replace(name string, data []byte, perm fs.FileMode) error {
	if err := r.Fail("Replace", name); err != nil {
		return err
	}
	return r.Root.Replace(name, data, perm)
}

func (r Root) Remove(name string) error {
	if err := r.Fail("Remove", name); err != nil {
		return err
	}
	return r.Root.Remove(name)
}
