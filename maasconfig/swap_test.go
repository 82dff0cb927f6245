package maasconfig

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/world"
	"maascert/internal/world/worldtest"
)

// state is what stands in a folder, dot files included, in one line.
func state(t *testing.T, dir string) string {
	t.Helper()
	entries, err := os.ReadDir(dir)
	require.NoError(t, err)
	var words []string
	for _, entry := range entries {
		text, err := os.ReadFile(filepath.Join(dir, entry.Name()))
		require.NoError(t, err)
		words = append(words, entry.Name()+"="+string(text))
	}
	return strings.Join(words, " ")
}

func swapIn(dir string, fsys world.FS) swap {
	own := world.Owner{UID: os.Geteuid(), GID: os.Getegid()}
	return swap{fsys, []file{
		{filepath.Join(dir, "cert"), []byte("new"), 0o644, own},
		{filepath.Join(dir, "chain"), []byte("new"), 0o644, own},
		{filepath.Join(dir, "key"), []byte("new"), 0o600, own},
	}}
}

func fill(t *testing.T, dir string) string {
	t.Helper()
	// The second one is not there yet.
	require.NoError(t, os.WriteFile(filepath.Join(dir, "cert"), []byte("old"), 0o640))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "key"), []byte("old"), 0o400))
	return state(t, dir)
}

const brought = "cert=new chain=new key=new"

// Every effect of a swap fails or is the last before the program is killed: what is there afterwards is all old or all new, and
// nothing is left beside it.
func TestASwapInterruptedAnywhereIsAllOldOrAllNew(t *testing.T) {
	t.Parallel()
	walked := 0
	for _, end := range []string{"forget", "back", "forget a copy", "put a copy back"} {
		for _, kill := range []bool{false, true} {
			for n := 1; ; n++ {
				dir := t.TempDir()
				old := fill(t, dir)
				count, dead, hit := 0, false, ""
				fsys := worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
					if op == "ReadFile" {
						return nil
					}
					if op == "Link" && strings.Contains(end, "copy") {
						return errors.ErrUnsupported
					}
					count++
					if dead || count == n {
						hit, dead = op, kill // a killed program does nothing any more; a fault may be a single one
						return errors.New("fault")
					}
					return nil
				}}
				s := swapIn(dir, fsys)
				err := s.bring()
				if err == nil && strings.HasPrefix(end, "forget") {
					err = s.forget()
				} else if err == nil {
					err = s.back()
				}
				if count < n {
					require.NoError(t, err)
					require.Equal(t, strings.HasPrefix(end, "forget"), state(t, dir) == brought)
					require.Contains(t, []string{old, brought}, state(t, dir))
					break
				}
				walked++
				if hit != "Link" || kill { // of which there is a copy otherwise
					require.Error(t, err)
				}
				// The next run.
				healed := swapIn(dir, world.OS{})
				require.NoError(t, healed.back())
				open, err := healed.isOpen()
				require.NoError(t, err)
				require.False(t, open)
				require.Contains(t, []string{old, brought}, state(t, dir), fmt.Sprint(end, kill, n))
				require.NoError(t, healed.bring())
				require.NoError(t, healed.forget())
				require.Equal(t, brought, state(t, dir))
			}
		}
	}
	t.Log("effects walked:", walked)
	require.Greater(t, walked, 50)
}

func TestASwapKeepsModesOfWhatItPutsBack(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	fill(t, dir)
	s := swapIn(dir, world.OS{})
	require.NoError(t, s.bring())
	open, err := s.isOpen()
	require.NoError(t, err)
	require.True(t, open)
	info, err := os.Stat(filepath.Join(dir, "key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode())
	require.NoError(t, s.back())
	info, err = os.Stat(filepath.Join(dir, "key"))
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o400), info.Mode())
}

// A file system without second names keeps a copy.
func TestASwapWithoutSecondNames(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	old := fill(t, dir)
	s := swapIn(dir, worldtest.FS{FS: world.OS{}, Fail: func(op, _ string) error {
		if op == "Link" {
			return errors.ErrUnsupported
		}
		return nil
	}})
	require.NoError(t, s.bring())
	require.NoError(t, s.back())
	require.Equal(t, old, state(t, dir))
}
