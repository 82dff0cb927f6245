package fleettest

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// The networks that hosts are on, and what is on each beside them.
const (
	networks = 3
	people   = 0 // regions, proxies, the virtual address
	store    = 1 // the databases
	ca       = 2 // the CA and its name server
)

// Network is one that a host can be cut off from.
type Network int

const (
	Store Network = store
	CA    Network = ca
)

// VirtualAddress is where people find MAAS, whichever host is up.
const VirtualAddress = "10.93.0.100"

const inside = "MAASCERT_FLEET_INSIDE"

// Enter starts this program again, with some arguments, in a network of its own, which ends with it. It tells whether it is inside already;
// outside all is done when it returns.
func Enter(ctx context.Context, args ...string) (isInside bool, err error) {
	if os.Getenv(inside) != "" {
		return true, ip("link", "set", "lo", "up")
	}
	self, err := os.Executable()
	if err != nil {
		return false, err
	}
	cmd := exec.CommandContext(ctx, self, args...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET, Pdeathsig: syscall.SIGKILL}
	return false, cmd.Run()
}

// ip runs Debian's ip.
func ip(args ...string) error {
	if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
		return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
	}
	return nil
}

// bridges makes the networks, with our addresses there.
func bridges() error {
	var failures []error
	for n, addresses := range [networks][]string{people: {"1", "100"}, store: {"1", "2"}, ca: {"1"}} {
		name := fmt.Sprintf("net%d", n)
		failures = append(failures, ip("link", "add", name, "type", "bridge"), ip("link", "set", name, "up"))
		for _, address := range addresses {
			failures = append(failures, ip("address", "add", fmt.Sprintf("10.93.%d.%s/24", n, address), "dev", name))
		}
	}
	return errors.Join(failures...)
}

// machine is a network namespace with a machine ID of its own: what holds it is a process that sleeps.
type machine struct {
	number int
	holder *exec.Cmd
}

// startMachine makes one and connects it to every network.
func startMachine(number int, dir string) (*machine, error) {
	id := filepath.Join(dir, "machine-id")
	if err := os.WriteFile(id, fmt.Appendf(nil, "%032x\n", 0xf1ee7000+number), 0o644); err != nil {
		return nil, err
	}
	ready := filepath.Join(dir, "ready")
	m := &machine{number: number, holder: exec.Command("sh", "-c", fmt.Sprintf("mount --make-rprivate / && mount --bind '%s' /etc/machine-id && touch '%s' && exec sleep 100000", id, ready))}
	m.holder.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	if err := m.holder.Start(); err != nil {
		return nil, err
	}
	pid := strconv.Itoa(m.holder.Process.Pid)
	failures := []error{waitFor(ready)}
	for n := range networks {
		out, in := m.port(n), fmt.Sprintf("eth%d", n)
		failures = append(failures,
			ip("link", "add", out, "type", "veth", "peer", "name", in, "netns", pid),
			ip("link", "set", out, "master", fmt.Sprintf("net%d", n), "up"),
			m.run("ip", "address", "add", fmt.Sprintf("10.93.%d.%d/24", n, 10+number), "dev", in),
			m.run("ip", "link", "set", in, "up"),
		)
	}
	return m, errors.Join(append(failures, m.run("ip", "link", "set", "lo", "up"))...)
}

// waitFor waits until a file is there.
func waitFor(path string) error {
	for range 1000 {
		if _, err := os.Stat(path); err == nil {
			return nil
		}
		pause()
	}
	return fmt.Errorf("%s does not come", path)
}

// port is the machine's end of a cable at a network's bridge.
func (m *machine) port(network int) string { return fmt.Sprintf("host%dn%d", m.number, network) }

// cut takes the machine off a network, without a word to anybody, or puts it back.
func (m *machine) cut(network Network, off bool) error {
	if off {
		return ip("link", "set", m.port(int(network)), "nomaster")
	}
	return ip("link", "set", m.port(int(network)), "master", fmt.Sprintf("net%d", network))
}

// within begins the command line of a program that runs on the machine.
func (m *machine) within() []string {
	return []string{"nsenter", "-t", strconv.Itoa(m.holder.Process.Pid), "-n", "-m", "--wd=/", "--"}
}

func (m *machine) command(ctx context.Context, words ...string) *exec.Cmd {
	all := append(m.within(), words...)
	cmd := exec.CommandContext(ctx, all[0], all[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (m *machine) run(words ...string) error {
	if out, err := m.command(context.Background(), words...).CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(words, " "), err, out)
	}
	return nil
}

// listen listens on the machine, from within this process.
func (m *machine) listen(network, address string) (net.Listener, error) {
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	here, err := os.Open("/proc/thread-self/ns/net")
	if err != nil {
		return nil, err
	}
	defer here.Close()
	there, err := os.Open(fmt.Sprintf("/proc/%d/ns/net", m.holder.Process.Pid))
	if err != nil {
		return nil, err
	}
	defer there.Close()
	if err := unix.Setns(int(there.Fd()), unix.CLONE_NEWNET); err != nil {
		return nil, err
	}
	listener, err := net.Listen(network, address)
	// The thread is used for other things, and processes that it started would end with it.
	if back := unix.Setns(int(here.Fd()), unix.CLONE_NEWNET); back != nil {
		panic(back)
	}
	return listener, err
}
