// Command demo-fleet shows a MAAS in high availability on this machine: three region hosts in network namespaces, each with maascert, one shared
// PostgreSQL with a follower, and a virtual address. They start at once and order once; a host is killed in the middle of a renewal; the
// database fails over. It needs root, listens in its own network alone, asks nothing, and leaves nothing behind. It fails when any step does
// not end as it should.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"maascert/certstore"
	"maascert/internal/fleettest"
	"maascert/maasconfig/maastest"
)

func main() {
	maastest.Main()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := demo(ctx, os.Args[1:]); err != nil {
		if _, ok := errors.AsType[*exec.ExitError](err); !ok { // else it was said inside
			fmt.Fprintf(os.Stderr, "demo-fleet: %v\n", err)
		}
		os.Exit(1)
	}
}

func demo(ctx context.Context, args []string) error {
	if len(args) != 1 {
		return errors.New("usage: demo-fleet PATH-OF-MAASCERT")
	}
	program, err := filepath.Abs(args[0])
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errors.New("network namespaces need root")
	}
	if isInside, err := fleettest.Enter(ctx, program); !isInside {
		return err
	}
	dir, err := os.MkdirTemp("", "maascert-demo-fleet")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	return play(ctx, fleettest.Options{Dir: dir, Program: program, Validity: 90 * 24 * time.Hour, Sync: true})
}

// stage ends like a test: what was started is ended, the last first.
type stage struct{ ends []func() }

// failed is how a step ends that does not end as it should.
type failed struct{ words string }

func (s *stage) Helper() {}

func (s *stage) Cleanup(end func()) { s.ends = append(s.ends, end) }

func (s *stage) Errorf(format string, args ...any) { panic(failed{fmt.Sprintf(format, args...)}) }

func (s *stage) FailNow() { panic(failed{"a step failed"}) }

func (s *stage) end() {
	for _, end := range slices.Backward(s.ends) {
		end()
	}
}

func play(ctx context.Context, options fleettest.Options) (err error) {
	s := &stage{}
	defer s.end()
	defer func() {
		switch cause := recover().(type) {
		case nil:
		case failed:
			err = errors.New(cause.words)
		default:
			panic(cause)
		}
	}()
	f := fleettest.Start(s, options)
	w := &watcher{fleet: f, began: time.Now(), served: map[string]string{}}
	w.say("a CA, a simulated MAAS 3.7.3 of three regions, PostgreSQL and its follower, HAProxy at %s", fleettest.VirtualAddress)
	watching, stop := context.WithCancel(ctx)
	var group sync.WaitGroup
	group.Go(func() { w.watch(watching) })
	defer group.Wait()
	defer stop()
	return w.play(ctx)
}

// watcher says what every region and proxy serves, when that changes.
type watcher struct {
	fleet *fleettest.Fleet
	began time.Time

	mu     sync.Mutex
	served map[string]string
}

func (w *watcher) say(format string, args ...any) {
	fmt.Printf("%6.2f s  %s\n", time.Since(w.began).Seconds(), fmt.Sprintf(format, args...))
}

func (w *watcher) watch(ctx context.Context) {
	for ctx.Err() == nil {
		served := w.fleet.Served()
		w.mu.Lock()
		for _, h := range w.fleet.Hosts {
			for _, port := range []string{"5443", "443"} {
				address := h.Address.String() + ":" + port
				now := "nothing"
				if leaf := served[address]; leaf != nil {
					now = certstore.Fingerprint(leaf)[:15]
				}
				if w.served[address] != now {
					w.say("  %s  %-16s serves %s", h.Name, address, now)
				}
				w.served[address] = now
			}
		}
		w.mu.Unlock()
		time.Sleep(50 * time.Millisecond)
	}
}

// one waits until everybody serves one certificate, other than before.
func (w *watcher) one(ctx context.Context, before string) (string, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, time.Minute, errors.New("the fleet does not come to serve one certificate"))
	defer cancel()
	for ctx.Err() == nil {
		if leaf := w.fleet.Converged(); leaf != nil && certstore.Fingerprint(leaf) != before {
			w.say("all six serve %s", certstore.Fingerprint(leaf)[:15])
			return certstore.Fingerprint(leaf), nil
		}
		time.Sleep(50 * time.Millisecond)
	}
	return "", context.Cause(ctx)
}

func (w *watcher) play(ctx context.Context) error {
	f := w.fleet
	w.say("== three daemons start at once, on an empty store")
	for _, h := range f.Hosts {
		h.Run()
	}
	first, err := w.one(ctx, "")
	if err != nil {
		return err
	}
	if n, calls := f.CA.Orders(), len(f.MAAS.Calls()); n != 1 || calls != 1 {
		return fmt.Errorf("%d orders and %d calls of config-tls instead of one each", n, calls)
	}
	w.say("the CA got one order, and MAAS was told once")

	victim := f.Hosts[1]
	w.say("== %s renews, and is killed when the CA has issued", victim.Name)
	second, err := w.killInTheMiddle(ctx, victim, first)
	if err != nil {
		return err
	}
	if n := len(f.CA.Issued()); n != 2 {
		return fmt.Errorf("the CA issued %d certificates instead of two", n)
	}

	w.say("== the database dies, and its follower takes its place")
	f.FailOver()
	w.say("%s renews", f.Hosts[2].Name)
	if out, code := f.Hosts[2].Maascert(ctx, "renew", "--force", "--wait", "30s"); code != 0 {
		return fmt.Errorf("renew: exit %d: %s", code, out)
	}
	if _, err := w.one(ctx, second); err != nil {
		return err
	}
	f.Heal()

	w.say("== maascert status, on %s", f.Hosts[0].Name)
	out, code := f.Hosts[0].Maascert(ctx, "status")
	fmt.Print(out)
	if code != 0 || !strings.Contains(out, "3 hosts:") {
		return fmt.Errorf("status: exit %d", code)
	}
	return nil
}

// killInTheMiddle kills a host in the middle of a renewal of its own, and starts it again when the others have done what is left.
func (w *watcher) killInTheMiddle(ctx context.Context, victim *fleettest.Host, before string) (string, error) {
	renewing, kill := context.WithCancel(ctx)
	defer kill()
	done := make(chan struct{})
	issued := len(w.fleet.CA.Issued())
	go func() {
		defer close(done)
		// How it ends is seen.
		_, _ = victim.Maascert(renewing, "renew", "--force")
	}()
	for len(w.fleet.CA.Issued()) == issued && ctx.Err() == nil {
		time.Sleep(time.Millisecond)
	}
	kill()
	victim.Kill()
	<-done
	w.say("%s is dead", victim.Name)
	time.Sleep(5 * time.Second)
	w.say("%s is back", victim.Name)
	victim.Run()
	return w.one(ctx, before)
}
