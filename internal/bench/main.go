// Command bench measures what the first issuance of a certificate takes, and what it takes to see that there is nothing to
// do: maascert beside other ACME clients, each as a process of its own, doing the same work on the same CA. The CA is
// Pebble, in this process; a proxy between it and the clients adds the round trip of a network.
//
// It prints a table. It judges nothing: whoever runs it reads it.
package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"text/tabwriter"
	"time"

	"maascert/acme/acmetest"
)

// legoLibrary is the argument with which this program is lego's library as a client.
const legoLibrary = "lego-library"

func main() {
	if len(os.Args) > 1 && os.Args[1] == measured {
		measure(os.Args[2], os.Args[3:])
		return
	}
	if len(os.Args) > 1 && os.Args[1] == legoLibrary {
		if err := obtainByLego(os.Args[2:]); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	b := &bench{out: os.Stdout}
	names := flag.String("names", "1,10,100", "how many names in one certificate")
	validations := flag.String("validation", "0s,2s", "how long the CA takes to validate a name at the most, in whole seconds")
	trips := flag.String("rtt", "0s,50ms", "the round trip between client and CA")
	peers := flag.String("peers", "", "only these clients, separated by commas")
	flag.StringVar(&b.tools, "tools", ".tools", "where clients are installed that are not in PATH")
	flag.StringVar(&b.maascert, "maascert", "bin/maascert", "the program")
	flag.DurationVar(&b.cap, "cap", time.Minute, "how long one issuance may take")
	flag.IntVar(&b.runs, "runs", 3, "how often maascert runs; the median is shown. The others run once")
	flag.Parse()
	if err := b.run(ctx, *names, *validations, *trips, *peers); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

type bench struct {
	out             *os.File
	tools, maascert string
	cap             time.Duration
	runs            int
}

func (b *bench) run(ctx context.Context, names, validations, trips, only string) error {
	var err error
	if b.maascert, err = filepath.Abs(b.maascert); err != nil {
		return err
	}
	if b.tools, err = filepath.Abs(b.tools); err != nil {
		return err
	}
	var clients []client
	for _, c := range b.clients() {
		if wanted := strings.Split(only, ","); only != "" && !slices.Contains(wanted, c.name) {
			continue
		}
		if c.path = b.find(c.path); c.path == "" {
			fmt.Fprintf(b.out, "%s: not installed\n", c.name)
			continue
		}
		clients = append(clients, c)
	}
	table := tabwriter.NewWriter(b.out, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(table, "client\twork\tnames\tvalidation\tround trip\twall s\tcpu s\tpeak MiB\trequests\t")
	for validation := range strings.SplitSeq(validations, ",") {
		for trip := range strings.SplitSeq(trips, ",") {
			for number := range strings.SplitSeq(names, ",") {
				if err := b.measureAll(ctx, table, clients, number, validation, trip); err != nil {
					return err
				}
			}
		}
	}
	return table.Flush()
}

// measureAll measures every client in one scene.
func (b *bench) measureAll(ctx context.Context, table *tabwriter.Writer, clients []client, names, validation, trip string) error {
	s, err := newScene(names, validation, trip)
	if err != nil {
		return err
	}
	defer s.close()
	for _, c := range clients {
		if err := b.measure(ctx, table, s, c); err != nil {
			return err
		}
	}
	return nil
}

// find finds a program in PATH or among the tools.
func (b *bench) find(name string) string {
	if path, err := exec.LookPath(filepath.Join(b.tools, name)); err == nil {
		return path
	}
	path, err := exec.LookPath(name)
	if err != nil {
		return ""
	}
	return path
}

// scene is one kind of work: a CA, a network in front of it, and how many names.
type scene struct {
	ca               *acmetest.CA
	proxy            *proxy
	names            int
	validation, trip time.Duration
}

func newScene(names, validation, trip string) (*scene, error) {
	s := &scene{}
	var err error
	if s.names, err = strconv.Atoi(names); err != nil {
		return nil, err
	}
	if s.validation, err = time.ParseDuration(validation); err != nil {
		return nil, err
	}
	if s.trip, err = time.ParseDuration(trip); err != nil {
		return nil, err
	}
	options := acmetest.Options{Validity: 90 * 24 * time.Hour}
	if s.validation > 0 {
		// Pebble takes 0 to N-1 whole seconds, and the slowest of three validators counts.
		options.Sleep = int(s.validation/time.Second) + 1
	}
	if s.ca, err = acmetest.Start(options); err != nil {
		return nil, err
	}
	if s.proxy, err = newProxy(s.ca.Address(), s.trip); err != nil {
		s.ca.Stop()
	}
	return s, err
}

func (s *scene) close() {
	s.proxy.close()
	s.ca.Stop()
}

// directory is the CA's, as seen through the proxy.
func (s *scene) directory() string {
	return strings.Replace(s.ca.Directory, s.ca.Address(), s.proxy.address, 1)
}

// domains are the names for one client, so that none finds what another one proved.
func (s *scene) domains(of string) []string {
	all := make([]string, s.names)
	for i := range all {
		all[i] = fmt.Sprintf("n%d.%s.example", i, of)
	}
	return all
}

// figures hold what one run of a client took.
type figures struct {
	wall, cpu time.Duration
	peak      int64 // KiB
	requests  int
	err       error
}

func (b *bench) measure(ctx context.Context, table *tabwriter.Writer, s *scene, c client) error {
	runs := 1
	if c.name == "maascert" {
		runs = b.runs
	}
	var issued, idle, rests []figures
	for run := range runs {
		dir, err := os.MkdirTemp("", "maascert-bench-")
		if err != nil {
			return err
		}
		w := work{dir: dir, domains: s.domains(fmt.Sprintf("r%d.%s", run, c.id)), scene: s, path: c.path}
		if err := os.WriteFile(w.root(), s.ca.DirectoryRoot(), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(w.issuer(), s.ca.Root(0), 0o644); err != nil {
			return err
		}
		issue, again, err := c.prepare(w)
		if err != nil {
			return err
		}
		issued = append(issued, b.once(ctx, s, issue))
		if again != nil && issued[len(issued)-1].err == nil {
			idle = append(idle, b.once(ctx, s, *again))
		}
		if c.daemon != nil {
			rests = append(rests, b.rest(ctx, c.daemon(w)))
		}
		if err := os.RemoveAll(dir); err != nil {
			return err
		}
		if ctx.Err() != nil {
			return ctx.Err()
		}
	}
	b.print(table, s, c, "issue", issued)
	b.print(table, s, c, "nothing to do", idle)
	b.print(table, s, c, "daemon at rest", rests)
	return nil
}

func (b *bench) print(table *tabwriter.Writer, s *scene, c client, what string, all []figures) {
	if len(all) == 0 {
		return
	}
	slices.SortFunc(all, func(x, y figures) int { return int(x.wall - y.wall) })
	f := all[len(all)/2]
	row := fmt.Sprintf("%s\t%s\t%d\t%v\t%v\t", c.name, what, s.names, s.validation, s.trip)
	switch {
	case f.err != nil && f.wall >= b.cap:
		fmt.Fprintf(table, "%s>%.0f\t\t\t>%d\t\n", row, b.cap.Seconds(), f.requests)
	case f.err != nil:
		fmt.Fprintf(table, "%sfailed: %v\t\t\t\t\n", row, f.err)
	default:
		fmt.Fprintf(table, "%s%.3f\t%.2f\t%.0f\t%d\t\n", row, f.wall.Seconds(), f.cpu.Seconds(), float64(f.peak)/1024, f.requests)
	}
	// Each row is shown as soon as it is there: a whole run takes a while.
	fmt.Fprintf(os.Stderr, "%s %s, %d names, validation %v, round trip %v: %.3f s\n", c.name, what, s.names, s.validation, s.trip, f.wall.Seconds())
}

// once runs a command and measures it.
func (b *bench) once(ctx context.Context, s *scene, command command) figures {
	ctx, cancel := context.WithTimeout(ctx, b.cap)
	defer cancel()
	before := len(s.ca.Requests())
	report, err := os.CreateTemp("", "maascert-bench-")
	if err != nil {
		return figures{err: err}
	}
	defer os.Remove(report.Name())
	defer report.Close()
	cmd := exec.CommandContext(ctx, self(), append([]string{measured, report.Name()}, command.args...)...)
	cmd.Env = append(os.Environ(), command.env...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	var said strings.Builder
	cmd.Stdout, cmd.Stderr = &said, &said
	begun := time.Now()
	err = cmd.Start()
	if err == nil && command.until != nil {
		go func() {
			// A server never ends by itself.
			for ctx.Err() == nil && !command.until() {
				time.Sleep(5 * time.Millisecond)
			}
			// It may have ended already.
			_ = syscall.Kill(-cmd.Process.Pid, syscall.SIGTERM)
		}()
	}
	if err == nil {
		err = cmd.Wait()
	}
	f := figures{wall: time.Since(begun), requests: len(s.ca.Requests()) - before, err: err}
	if command.until != nil && ctx.Err() == nil && command.until() {
		f.err = nil
	}
	var told usage
	if decodeErr := json.NewDecoder(report).Decode(&told); decodeErr == nil {
		f.wall, f.cpu, f.peak = told.Wall, told.CPU, told.Peak
	}
	if f.err != nil && ctx.Err() == nil {
		fmt.Fprintln(os.Stderr, said.String())
	}
	return f
}

// rest starts a daemon that has nothing to do, and sees how much memory it has when it sleeps.
func (b *bench) rest(ctx context.Context, args []string) (f figures) {
	ctx, cancel := context.WithTimeout(ctx, b.cap)
	defer cancel()
	cmd := exec.CommandContext(ctx, args[0], args[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	said, err := cmd.StderrPipe()
	if err != nil {
		return figures{err: err}
	}
	begun := time.Now()
	if f.err = cmd.Start(); f.err != nil {
		return f
	}
	lines := bufio.NewScanner(said)
	for lines.Scan() && !strings.Contains(lines.Text(), "nothing to do") {
	}
	f.wall = time.Since(begun)
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", cmd.Process.Pid))
	for line := range strings.Lines(string(status)) {
		if size, ok := strings.CutPrefix(line, "VmRSS:"); ok {
			f.peak, err = strconv.ParseInt(strings.Fields(size)[0], 10, 64)
		}
	}
	// It ends by the signal, which is no failure.
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	f.err = err
	return f
}

// measured is the argument with which this program runs another one and measures it. The kernel counts the memory of
// whoever starts a program as that program's, and this process holds a whole CA, so a small one stands between.
const measured = "measured"

// usage holds what a program took.
type usage struct {
	Wall, CPU time.Duration
	Peak      int64 // KiB
}

// measure runs a program and writes into a file what it took. A signal to end is for the program.
func measure(file string, args []string) {
	signal.Notify(make(chan os.Signal, 1), syscall.SIGTERM)
	cmd := exec.Command(args[0], args[1:]...)
	cmd.Stdout, cmd.Stderr = os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	begun := time.Now()
	err := cmd.Run()
	took := usage{Wall: time.Since(begun)}
	if state := cmd.ProcessState; state != nil {
		took.CPU = state.UserTime() + state.SystemTime()
		if rusage, ok := state.SysUsage().(*syscall.Rusage); ok {
			took.Peak = rusage.Maxrss
		}
	}
	text, jsonErr := json.Marshal(took)
	if err = errors.Join(err, jsonErr, os.WriteFile(file, text, 0o600)); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}
