package sourcetest_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/sourcetest"
)

// What a running step of CI builds in .tools comes and goes, and parts of it cannot be read: it is not looked at.
func TestWhatIsBuiltIsNoSource(t *testing.T) {
	t.Parallel()
	root := t.TempDir()
	for path, text := range map[string]string{"main.go": "package main", "a/b/c.go": "package b", "a/notes.md": "words", ".tools/debian.new/x.go": "package x", "a/.cache/y.go": "package y"} {
		require.NoError(t, os.MkdirAll(filepath.Join(root, filepath.Dir(path)), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(root, path), []byte(text), 0o644))
	}
	require.NoError(t, os.Symlink("nowhere", filepath.Join(root, ".tools", "z.go"))) // which cannot be read, whoever reads
	require.Equal(t, map[string]string{"main.go": "package main", "a/b/c.go": "package b"}, sourcetest.GoFiles(t, root))
}
