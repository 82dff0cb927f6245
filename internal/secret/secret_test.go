package secret_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/secret"
)

func TestRead(t *testing.T) {
	dir := t.TempDir()
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte(" hunter2\n"), 0o600))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "empty"), []byte("\n"), 0o600))
	t.Setenv("MAASCERT_TEST_KEY", "hunter3\n")
	t.Setenv("CREDENTIALS_DIRECTORY", dir)
	for reference, want := range map[secret.Reference]string{
		"file:key": "hunter2", "file:" + secret.Reference(filepath.Join(dir, "key")): "hunter2", "env:MAASCERT_TEST_KEY": "hunter3", "cred:key": "hunter2",
	} {
		got, err := reference.Read(dir)
		require.NoError(t, err, reference)
		require.Equal(t, want, got)
	}
	for reference, want := range map[secret.Reference]string{
		"hunter2": "not written here", "": "not written here", "file:": "not written here", "http://x": "not written here",
		"file:nowhere": "file:nowhere: no such file or directory", "file:empty": "it is empty", "env:MAASCERT_NO_SUCH": "empty or not set",
		"cred:../key": "no slash",
	} {
		_, err := reference.Read(dir)
		require.ErrorContains(t, err, want, reference)
		require.NotContains(t, err.Error(), "hunter2")
	}
}
