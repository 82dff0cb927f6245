//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// debian is a machine with a Debian of its own, on which nothing is installed but what Debian needs, systemd and Ansible. It is
// in the network of the test. Before it is booted, its programs run in a root of their own without systemd.
type debian struct {
	*testing.T
	root   string
	shared string // a folder that the machine and the test have in common, at the same path
	boot   *exec.Cmd
	leader int // the process that is its init; 0: not booted
}

// newDebian unpacks one, until the test ends.
func newDebian(t *testing.T, shared string) *debian {
	t.Helper()
	d := &debian{T: t, root: filepath.Join(t.TempDir(), "root"), shared: shared}
	from := tool(t, "debian/etc/debian_version")
	out, err := exec.Command("cp", "-a", "--reflink=auto", filepath.Dir(filepath.Dir(from)), d.root).CombinedOutput()
	require.NoError(t, err, string(out))
	return d
}

// newShared makes a folder for the test and its machines, in which the program of the test is, too: a machine sees nothing else
// of this host.
func newShared(t *testing.T) (dir, self string) {
	t.Helper()
	dir, err := os.MkdirTemp("/srv", "e2e")
	require.NoError(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	require.NoError(t, os.Chmod(dir, 0o755))
	t.Setenv("TMPDIR", dir)
	running, err := os.Executable()
	require.NoError(t, err)
	self = filepath.Join(dir, "simulated")
	out, err := exec.Command("cp", running, self).CombinedOutput()
	require.NoError(t, err, string(out))
	return dir, self
}

const bootTime = 30 * time.Second

// start boots it. Where a machine within this one cannot be, it says why.
func (d *debian) start() error {
	d.Helper()
	d.boot = exec.Command("systemd-nspawn", "--quiet", "--register=no", "--keep-unit", "--resolv-conf=off", "--timezone=off", "--link-journal=no",
		"--boot", "--directory="+d.root, "--bind="+d.shared)
	var said bytes.Buffer
	d.boot.Stdout, d.boot.Stderr = &said, &said
	d.boot.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL, Setsid: true}
	if err := d.boot.Start(); err != nil {
		return err
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = d.boot.Wait()
	}()
	d.Cleanup(func() {
		_ = d.boot.Process.Signal(syscall.SIGTERM) // it is shut down
		select {
		case <-ended:
		case <-time.After(20 * time.Second):
			_ = d.boot.Process.Kill()
			<-ended
		}
	})
	var state string
	children := fmt.Sprintf("/proc/%d/task/%[1]d/children", d.boot.Process.Pid)
	for deadline := time.Now().Add(bootTime); time.Now().Before(deadline); time.Sleep(50 * time.Millisecond) {
		select {
		case <-ended:
			return fmt.Errorf("systemd-nspawn ended:\n%s", said.String())
		default:
		}
		text, _ := os.ReadFile(children)
		first, _, _ := strings.Cut(string(text), " ")
		leader, err := strconv.Atoi(first)
		if err != nil {
			continue // it has none yet
		}
		d.leader = leader
		if state, _ = d.sh("systemctl is-system-running"); strings.HasPrefix(state, "running") || strings.HasPrefix(state, "degraded") {
			return nil
		}
	}
	d.leader = 0
	return fmt.Errorf("it does not come up (%s):\n%s", state, said.String())
}

// sh runs a line of a shell there, as root.
func (d *debian) sh(line string) (said string, code int) {
	d.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	words := []string{"unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-c", `set -e
mkdir -p "$1$2"
mount --bind "$2" "$1$2"
mount -t proc proc "$1/proc"
mount --rbind /dev "$1/dev"
exec chroot "$1" bash -c "$3"`, "sh", d.root, d.shared, line}
	if d.leader != 0 {
		words = []string{"nsenter", "--target", strconv.Itoa(d.leader), "--mount", "--uts", "--ipc", "--pid", "--net", "--root", "--wd", "bash", "-c", line}
	}
	cmd := exec.CommandContext(ctx, words[0], words[1:]...)
	cmd.Env = []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/snap/bin", "HOME=/root", "LANG=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"}
	cmd.WaitDelay = time.Second
	out, err := cmd.CombinedOutput()
	if cmd.ProcessState == nil {
		return err.Error(), -1
	}
	return string(out), cmd.ProcessState.ExitCode()
}

// must runs a line there, which has to end well, and returns what it says.
func (d *debian) must(line string) string {
	d.Helper()
	said, code := d.sh(line)
	require.Zero(d, code, "%s\n%s\n%s", line, said, d.log())
	return strings.TrimSpace(said)
}

// log is what the units said last.
func (d *debian) log() string {
	if d.leader == 0 {
		return ""
	}
	said, _ := d.sh("journalctl --no-pager -n 30 -o cat -u 'maascert*'")
	return said
}

// until waits until a line ends well there.
func (d *debian) until(line string) {
	d.Helper()
	require.Eventually(d, func() bool { _, code := d.sh(line); return code == 0 }, 30*time.Second, 100*time.Millisecond, "%s\n%s", line, d.log())
}
