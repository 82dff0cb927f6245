package config

import (
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"unicode"

	"github.com/stretchr/testify/require"

	"maascert/maasconfig"
)

// Whatever a configuration file holds, it is read to its end: what is wrong is said in a bounded, printable text, and what is right comes to the
// same when it is written down as it is in force.
func FuzzConfiguration(f *testing.F) {
	err := filepath.WalkDir(filepath.Join("..", "..", "examples"), func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() || filepath.Ext(path) != ".yaml" || strings.Contains(path, "prometheus") {
			return err
		}
		text, err := os.ReadFile(path)
		f.Add(text)
		return err
	})
	require.NoError(f, err)
	f.Fuzz(func(t *testing.T, text []byte) {
		config, err := read("maascert.yaml", text, maasconfig.KnownTypes(), true)
		if err != nil {
			require.Less(t, len(err.Error()), 1<<20)
			require.Equal(t, -1, strings.IndexFunc(err.Error(), func(r rune) bool { return r != '\n' && !unicode.IsPrint(r) }), "%q", err.Error())
			return
		}
		shown, err := config.Effective()
		require.NoError(t, err)
		again, err := read("maascert.yaml", shown, maasconfig.KnownTypes(), true)
		require.NoError(t, err, "%s", shown)
		same, err := again.Effective()
		require.NoError(t, err)
		require.Equal(t, string(shown), string(same))
	})
}
