// Package sourcetest reads the project's own source, for tests of what all of it keeps to.
package sourcetest

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// GoFiles are the texts of the Go files below root, each by its path from there with slashes. Folders whose names begin with a dot are left out, as
// the go command leaves them out: whole operating systems are built in .tools while tests run.
func GoFiles(t testing.TB, root string) map[string]string {
	t.Helper()
	texts := map[string]string{}
	source := os.DirFS(root)
	require.NoError(t, fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		if entry != nil && entry.IsDir() && path != "." && strings.HasPrefix(entry.Name(), ".") {
			return fs.SkipDir
		}
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".go" {
			return err
		}
		text, err := fs.ReadFile(source, path)
		texts[path] = string(text)
		return err
	}))
	require.NotEmpty(t, texts)
	return texts
}
