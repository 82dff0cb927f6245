package world_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/internal/world"
)

func sh(script string) world.Command {
	return world.Command{Path: "/bin/sh", Args: []string{"-c", script}}
}

func TestRun(t *testing.T) {
	t.Parallel()
	result, err := world.Exec{}.Run(t.Context(), sh("echo out; echo err >&2; exit 3"))
	require.NoError(t, err)
	require.Equal(t, 3, result.Exit)
	require.Equal(t, "out\n", string(result.Stdout))
	require.Equal(t, "err\n", string(result.Stderr))

	_, err = world.Exec{}.Run(t.Context(), world.Command{Path: "/nonexistent/program"})
	require.EqualError(t, err, "/nonexistent/program: no such file or directory")
}

// config-tls was seen to print its prompt for ever; what is kept is bounded and the program is ended.
func TestAProgramThatPrintsForEverIsEnded(t *testing.T) {
	t.Parallel()
	command := sh("while :; do echo 'proceed? (y/n): proceed? (y/n): proceed? (y/n): proceed? (y/n): '; done")
	command.Timeout = time.Minute
	result, err := world.Exec{}.Run(t.Context(), command)
	require.ErrorContains(t, err, "printed more than")
	require.LessOrEqual(t, len(result.Stdout), 64<<10)
}

func TestAProgramThatHangsIsEndedWithItsChildren(t *testing.T) {
	t.Parallel()
	mark := filepath.Join(t.TempDir(), "pid")
	command := sh("sleep 1000 & echo $! >" + mark + "; wait")
	command.Timeout = 300 * time.Millisecond
	_, err := world.Exec{}.Run(t.Context(), command)
	require.ErrorIs(t, err, world.ErrTimeout)
	pid, err := os.ReadFile(mark)
	require.NoError(t, err)
	require.Eventually(t, func() bool {
		state, err := os.ReadFile("/proc/" + strings.TrimSpace(string(pid)) + "/stat")
		return err != nil || strings.Contains(string(state), ") Z ")
	}, 10*time.Second, time.Millisecond)

	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(errors.New("interrupted"))
	_, err = world.Exec{}.Run(ctx, sh("sleep 1000"))
	require.ErrorContains(t, err, "interrupted")
}

// A helper that outlives the program and holds its output does not turn success into failure.
func TestWhoeverIsLeftBehindDoesNotChangeTheResult(t *testing.T) {
	t.Parallel()
	result, err := world.Exec{}.Run(t.Context(), sh("setsid sleep 2 & exit 0"))
	require.NoError(t, err)
	require.Zero(t, result.Exit)
}

func TestTheEnvironmentIsNotHandedOn(t *testing.T) {
	t.Setenv("MAASCERT_TEST_SECRET", "hunter2")
	t.Setenv("MAAS_CLI_VERBOSE_ERRORS", "1")
	result, err := world.Exec{}.Run(t.Context(), sh("env"))
	require.NoError(t, err)
	require.NotContains(t, string(result.Stdout), "hunter2")
	require.NotContains(t, string(result.Stdout), "MAAS_CLI")
	require.Contains(t, string(result.Stdout), "PATH=")
}

func TestCommandsReadAsAShellTakesThem(t *testing.T) {
	t.Parallel()
	require.Equal(t, "maas config-tls '' 'a b' 'it'\\''s' --yes", world.Command{Path: "maas", Args: []string{"config-tls", "", "a b", "it's", "--yes"}}.String())
}

func TestFilesAreWhole(t *testing.T) {
	t.Parallel()
	fsys, dir := world.OS{}, t.TempDir()
	name := filepath.Join(dir, "file")
	require.NoError(t, fsys.Create(name, []byte("1"), 0o600))
	require.ErrorIs(t, fsys.Create(name, []byte("2"), 0o600), fs.ErrExist)
	require.NoError(t, fsys.Replace(name, []byte("3"), 0o640))
	data, err := fsys.ReadFile(name)
	require.NoError(t, err)
	require.Equal(t, "3", string(data))
	info, err := fsys.Stat(name)
	require.NoError(t, err)
	require.Equal(t, fs.FileMode(0o640), info.Mode())
	entries, err := fsys.ReadDir(dir)
	require.NoError(t, err)
	require.Len(t, entries, 1, "no temporary file is left")
}

// Some files belong to users with fewer rights than ours: none of what they may put there stops or floods us.
func TestOnlyRegularFilesOfBoundedSizeAreRead(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	pipe := filepath.Join(dir, "pipe")
	require.NoError(t, syscall.Mkfifo(pipe, 0o600))
	_, err := world.OS{}.ReadFile(pipe)
	require.ErrorContains(t, err, "not a regular file")
	_, err = world.OS{}.ReadFile("/dev/zero")
	require.ErrorContains(t, err, "not a regular file")
	_, err = world.OS{}.ReadFile(dir)
	require.ErrorIs(t, err, syscall.EISDIR)
	large := filepath.Join(dir, "large")
	require.NoError(t, os.WriteFile(large, make([]byte, 5<<20), 0o600))
	_, err = world.OS{}.ReadFile(large)
	require.ErrorIs(t, err, syscall.EFBIG)
}

func TestFoldersHaveTheModesThatWereAskedFor(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	require.NoError(t, world.OS{}.MkdirAll(dir, 0o711))
	for _, d := range []string{dir, filepath.Dir(dir)} {
		info, err := os.Stat(d)
		require.NoError(t, err)
		require.Equal(t, fs.FileMode(0o711), info.Mode().Perm())
	}
	require.NoError(t, world.OS{}.MkdirAll(dir, 0o700))
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	require.ErrorIs(t, world.OS{}.MkdirAll(filepath.Join(dir, "file"), 0o700), syscall.ENOTDIR)
}

func TestSweepTakesOnlyWhatAKilledWriterLeft(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, name := range []string{".maas3141592653", ".bashrc", ".ssh", ".writers", "maas", "1"} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), nil, 0o600))
	}
	require.NoError(t, world.Sweep(world.OS{}, dir))
	require.NoFileExists(t, filepath.Join(dir, ".maas3141592653"))
	for _, name := range []string{".bashrc", ".ssh", ".writers", "maas", "1"} {
		require.FileExists(t, filepath.Join(dir, name))
	}
	require.NoError(t, world.Sweep(world.OS{}, filepath.Join(dir, "nowhere")))
}

func TestWritable(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	require.NoError(t, world.OS{}.Writable(filepath.Join(dir, "not", "yet", "there")))
	require.NoDirExists(t, filepath.Join(dir, "not"))
	file := filepath.Join(dir, "file")
	require.NoError(t, os.WriteFile(file, nil, 0o600))
	require.ErrorIs(t, world.OS{}.Writable(file), syscall.ENOTDIR)
	require.Error(t, world.OS{}.Writable("/proc/1"), "a file system that takes no files")
}
