package world

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"syscall"
	"time"
)

// MaxOutput is how many bytes of each of a program's outputs are kept. One that prints more than flood is ended: MAAS's
// config-tls is known to print its prompt for ever (MAAS fact 1.2).
const (
	MaxOutput = 64 << 10
	flood     = 4 << 20
)

// Command is one program to run. It gets a short environment; a secret in our own environment is not handed on.
type Command struct {
	Path    string
	Args    []string
	Timeout time.Duration // 0: no limit but the context's
	Stdin   []byte        // what it reads from its standard input; empty: nothing
	Proxies bool          // it is told of the proxies that our environment names
}

// String is the command as a shell would take it.
func (c Command) String() string {
	words := make([]string, 0, 1+len(c.Args))
	for _, word := range append([]string{c.Path}, c.Args...) {
		words = append(words, Quoted(word))
	}
	return strings.Join(words, " ")
}

// Quoted is a word as a shell takes it for itself.
func Quoted(word string) string {
	if word == "" || strings.ContainsAny(word, " \t\n'\"\\$`*?[]{}()<>|&;#~!") {
		return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
	}
	return word
}

// Result holds the exit code and the outputs of a program that ended; each output is cut after 64 KiB.
type Result struct {
	Exit           int
	Stdout, Stderr []byte
}

// ErrTimeout says that a program was ended because its time was up.
var ErrTimeout = errors.New("timed out")

// Runner runs programs.
type Runner interface {
	// LookPath finds a program as a shell would.
	LookPath(name string) (string, error)
	// Run waits for the program to end. An exit code other than 0 is no error; not having started, having run out of
	// time (ErrTimeout), having printed without end, or the context's end is. Whatever the outcome, the program and what
	// is left of its process group have ended when Run returns.
	Run(ctx context.Context, command Command) (Result, error)
}

// Logged is a runner that tells a log, at the level debug, of each program that is run: its arguments, and of what it prints nothing.
type Logged struct {
	Runner
	Log *slog.Logger
}

func (l Logged) Run(ctx context.Context, command Command) (Result, error) {
	began := time.Now()
	result, err := l.Runner.Run(ctx, command)
	fields := []any{"command", command.String(), "exit", result.Exit, "took", time.Since(began).Round(time.Millisecond)}
	if err != nil {
		fields = append(fields, "error", err)
	}
	l.Log.Debug("command", fields...)
	return result, err
}

// Exec is the real runner.
type Exec struct{}

var _ Runner = Exec{}

func (Exec) LookPath(name string) (string, error) { return exec.LookPath(name) }

func (Exec) Run(ctx context.Context, command Command) (Result, error) {
	if command.Timeout > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, command.Timeout, fmt.Errorf("%w after %v", ErrTimeout, command.Timeout))
		defer cancel()
	}
	ctx, stop := context.WithCancelCause(ctx)
	defer stop(nil)

	// The kernel ends the child when the thread that started it ends (Pdeathsig), so the thread has to live as long as
	// the child does.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()

	var stdout, stderr capped
	stdout.flooded = func() { stop(fmt.Errorf("printed more than %d bytes", flood)) }
	stderr.flooded = stdout.flooded
	cmd := exec.CommandContext(ctx, command.Path, command.Args...)
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if len(command.Stdin) > 0 {
		cmd.Stdin = bytes.NewReader(command.Stdin)
	}
	cmd.Env = environment(os.Environ(), inherited)
	if command.Proxies {
		cmd.Env = append(cmd.Env, environment(os.Environ(), proxies)...)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	cmd.WaitDelay = 150 * time.Millisecond // for what is left in a pipe that somebody else holds

	err := cmd.Run()
	if cmd.Process != nil {
		// Grandchildren that the program left in its group; most often there are none, and that is no error.
		_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL)
	}
	result := Result{Exit: cmd.ProcessState.ExitCode(), Stdout: stdout.kept.Bytes(), Stderr: stderr.kept.Bytes()}
	var exit *exec.ExitError
	switch {
	case err == nil, errors.As(err, &exit) && exit.Exited():
		return result, nil
	case errors.Is(err, exec.ErrWaitDelay) && cmd.ProcessState.Exited():
		// It ended by itself; only somebody whom it left behind still holds its output.
		return result, nil
	case ctx.Err() != nil:
		return result, fmt.Errorf("%s: %w", command.Path, context.Cause(ctx))
	default:
		return result, fmt.Errorf("%s: %w", command.Path, unwrapExec(err))
	}
}

// unwrapExec drops the path that exec and fs errors repeat.
func unwrapExec(err error) error {
	if path, ok := errors.AsType[*os.PathError](err); ok {
		return path.Err
	}
	if lookup, ok := errors.AsType[*exec.Error](err); ok {
		return lookup.Err
	}
	return err
}

// inherited are the variables that a child gets from us: what a shell, snap and Python need to start.
var inherited = []string{"PATH", "HOME", "USER", "LOGNAME", "TMPDIR", "XDG_RUNTIME_DIR", "DBUS_SESSION_BUS_ADDRESS"}

// proxies are the variables that name proxies.
var proxies = []string{"HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY", "http_proxy", "https_proxy", "no_proxy"}

func environment(ours, names []string) []string {
	env := []string{"LC_ALL=C.UTF-8"}
	for _, name := range names {
		for _, entry := range ours {
			if strings.HasPrefix(entry, name+"=") {
				env = append(env, entry)
			}
		}
	}
	return env
}

// capped keeps the first MaxOutput bytes and says when far too many came. It must not have the buffer's own ReadFrom,
// which would take everything.
type capped struct {
	kept    bytes.Buffer
	seen    int
	flooded func()
}

func (c *capped) Write(p []byte) (int, error) {
	c.seen += len(p)
	if room := MaxOutput - c.kept.Len(); room > 0 {
		c.kept.Write(p[:min(room, len(p))])
	}
	if c.seen > flood {
		c.flooded()
	}
	return len(p), nil
}

// Dial opens a connection; net.Dialer's DialContext is the real one.
type Dial func(ctx context.Context, network, address string) (net.Conn, error)

// Listen opens a listener; net.Listen is the real one.
type Listen func(network, address string) (net.Listener, error)
