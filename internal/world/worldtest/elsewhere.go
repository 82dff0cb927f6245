package worldtest

import (
	"io/fs"
	"path/filepath"
	"strings"

	"maascert/internal/world"
)

// Elsewhere is a file system whose absolute paths lie below a folder: a host of a test's own. Those below one of Kept stay what they are.
type Elsewhere struct {
	world.FS
	Root string
	Kept []string
}

var _ world.FS = Elsewhere{}

func (e Elsewhere) at(name string) string {
	if !filepath.IsAbs(name) {
		return name
	}
	for _, kept := range append(e.Kept, e.Root) {
		if name == kept || strings.HasPrefix(name, kept+"/") {
			return name
		}
	}
	return filepath.Join(e.Root, name)
}

func (e Elsewhere) ReadFile(name string) ([]byte, error)       { return e.FS.ReadFile(e.at(name)) }
func (e Elsewhere) ReadDir(name string) ([]fs.DirEntry, error) { return e.FS.ReadDir(e.at(name)) }
func (e Elsewhere) Stat(name string) (fs.FileInfo, error)      { return e.FS.Stat(e.at(name)) }
func (e Elsewhere) Lstat(name string) (fs.FileInfo, error)     { return e.FS.Lstat(e.at(name)) }
func (e Elsewhere) Writable(dir string) error                  { return e.FS.Writable(e.at(dir)) }
func (e Elsewhere) Remove(name string) error                   { return e.FS.Remove(e.at(name)) }
func (e Elsewhere) RemoveAll(name string) error                { return e.FS.RemoveAll(e.at(name)) }
func (e Elsewhere) Link(name, second string) error             { return e.FS.Link(e.at(name), e.at(second)) }
func (e Elsewhere) Rename(name, other string) error            { return e.FS.Rename(e.at(name), e.at(other)) }
func (e Elsewhere) OpenRoot(dir string) (world.Root, error)    { return e.FS.OpenRoot(e.at(dir)) }
func (e Elsewhere) TryLock(name string) (func() error, error)  { return e.FS.TryLock(e.at(name)) }

func (e Elsewhere) MkdirAll(dir string, perm fs.FileMode) error {
	return e.FS.MkdirAll(e.at(dir), perm)
}
func (e Elsewhere) Replace(name string, data []byte, perm fs.FileMode) error {
	return e.FS.Replace(e.at(name), data, perm)
}

func (e Elsewhere) Create(name string, data []byte, perm fs.FileMode) error {
	return e.FS.Create(e.at(name), data, perm)
}

func (e Elsewhere) CreateFor(name string, data []byte, perm fs.FileMode, owner world.Owner) error {
	return e.FS.CreateFor(e.at(name), data, perm, owner)
}
