package command

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/signal"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/coreos/go-systemd/v22/daemon"
	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/maasconfig"
)

// daemonName is the daemon's command.
const daemonName = "run"

func (a *app) runCommand() *cobra.Command {
	return a.command(spec{
		name: daemonName, group: acting,
		short: "the daemon: passes at the start, on the schedule, and when a certificate gets due",
		long:  "SIGHUP reads the configuration again; a bad file is told and the old configuration stays in force.",
		options: []option{
			a.acceptOption(maasconfig.NamesLost, maasconfig.Juju),
		},
		action: a.runDaemon,
	})
}

func (a *app) runDaemon(c *call) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	wake := make(chan struct{}, 1)
	d := &service{app: a, ctx: c.Context, wake: wake, path: c.text("config"), accept: maasconfig.Accept{}, board: newBoard(a.now), said: newRunLog(a.log)}
	a.observe = d.board.observe
	for _, code := range c.list("accept") {
		if code != maasconfig.NamesLost && code != maasconfig.Juju {
			return hint.Add(fmt.Errorf("--accept: a daemon cannot override %q", code), "by hand, once: maascert renew --accept %s", code)
		}
		d.accept[code] = true
	}
	if err := a.mayRun(c.text("config"), config); err != nil {
		return err
	}
	d.watchdog.every = watchdogPause()
	parts := a.assemble(config)
	err = parts.checkTwin(c.Context)
	if err == nil && !config.Store.IsShared() {
		// A full disk may have room again; rights do not come by themselves.
		if writable := parts.store.Writable(c.Context); errors.Is(writable, fs.ErrPermission) {
			err = fmt.Errorf("run: %w", writable)
		}
	}
	if err != nil {
		parts.close()
		return err
	}
	d.use(parts)
	defer d.close()
	defer d.board.close()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	defer signal.Stop(hup)
	stopped := make(chan struct{})
	go func() {
		defer close(stopped)
		d.reloads(c.Context, hup)
	}()
	a.log.Info("started", "version", version(), "schedule", config.Schedule)
	a.tell(daemon.SdNotifyReady)
	(&lifecycle.Daemon{Schedule: d, Now: a.now, Pass: d.pass, After: d.after, Passed: d.passed, Alive: d.alive, Wake: wake}).Run(c.Context)
	a.tell(daemon.SdNotifyStopping)
	<-stopped
	a.log.Info("stopped")
	return nil
}

// tell tells systemd, if it is there.
func (a *app) tell(state string) {
	if _, err := daemon.SdNotify(false, state); err != nil {
		a.log.Warn("telling systemd", "error", err)
	}
}

// watchdog tells systemd that the daemon is at work, as often as that wants to be told and no oftener.
type watchdog struct {
	every time.Duration // 0: it does not
	mu    sync.Mutex
	fed   time.Time
}

// watchdogPause is how often systemd's watchdog is fed: four times before it would bite.
func watchdogPause() time.Duration {
	// Without systemd nobody watches.
	bites, _ := daemon.SdWatchdogEnabled(false)
	return bites / 4
}

// alive feeds systemd's watchdog, and sees to it that the board and the challenges' addresses are listened on. It is called while the daemon
// sleeps, and at the end of every stage of a pass, so that one that hangs is ended.
func (s *service) alive() {
	s.board.listenAgain()
	s.mu.Lock()
	passing := s.passing
	s.mu.Unlock()
	if passing != nil {
		passing.standBy(s.app)
	}
	w := &s.watchdog
	w.mu.Lock()
	defer w.mu.Unlock()
	if now := time.Now(); w.every > 0 && now.Sub(w.fed) >= w.every {
		w.fed = now
		s.tell(daemon.SdNotifyWatchdog)
	}
}

// service is the daemon's configuration, which may be replaced while it runs.
type service struct {
	*app
	path     string
	accept   maasconfig.Accept
	watchdog watchdog
	board    *board
	said     *runLog
	ctx      context.Context // of the daemon's life
	wake     chan<- struct{} // has it make a pass at once

	watching sync.WaitGroup

	mu      sync.Mutex
	unwatch context.CancelFunc // ends watching what other hosts write; nil: nobody does
	refused error              // why the configuration that was read last is not in force; nil: it is
	parts   *assembly
	passing *assembly // what the pass under way is made with, or was; only the daemon's own goroutine changes it
}

func (s *service) use(p *assembly) {
	p.engine.Alive, p.teller.Config = s.alive, s.notInForce
	if err := s.board.listen(p.config.ListenAddress()); err != nil {
		s.log.Warn("listen", "error", printable.Error(err), "hint", printable.Text(hint.Of(err)))
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.watch(p.store)
	s.parts, s.refused = p, nil
}

// watch has the daemon make a pass when another host has written a version, and that has had a moment to be served. The caller holds the
// mutex.
func (s *service) watch(store certstore.Store) {
	if s.unwatch != nil {
		s.unwatch()
	}
	watcher, isShared := store.(certstore.Watcher)
	if !isShared {
		s.unwatch = nil
		return
	}
	ctx, stop := context.WithCancel(s.ctx)
	s.unwatch = stop
	s.watching.Go(func() { watcher.Watch(ctx, func() { time.AfterFunc(rolloutTime, s.wakeUp) }) })
}

// rolloutTime is what the host that wrote a version needs, most often, to have it served.
const rolloutTime = 3 * time.Second

// wakeUp has the daemon make a pass at once, unless one is to be made already.
func (s *service) wakeUp() {
	select {
	case s.wake <- struct{}{}:
	default:
	}
}

// notInForce is why the configuration that was read last is not in force; nil: it is.
func (s *service) notInForce() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.refused
}

func (s *service) refuse(err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.refused = err
}

func (s *service) current() *assembly {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.parts
}

func (s *service) close() {
	s.mu.Lock()
	if s.unwatch != nil {
		s.unwatch()
	}
	passing := s.passing
	s.mu.Unlock()
	s.watching.Wait()
	if passing != nil && passing != s.current() { // it was replaced, and no pass was made since
		passing.close()
	}
	s.current().close()
}

// Next is the schedule of the configuration in force.
func (s *service) Next(t time.Time) time.Time { return s.current().config.Times().Next(t) }

func (s *service) pass(ctx context.Context) []lifecycle.Result {
	s.mu.Lock()
	before := s.passing
	s.passing = s.parts
	s.mu.Unlock()
	if before != nil && before != s.passing { // nobody uses it any more
		before.close()
	}
	s.passing.standBy(s.app)
	return s.passing.engine.Pass(ctx, lifecycle.Options{Accept: s.accept})
}

// show has the page show a pass, and the other hosts as the pass read what they said.
func (s *service) show(results []lifecycle.Result) {
	s.board.shown.Passed(report.NewPastPass(results, s.now()))
	silence := lifecycle.SilenceOf(s.passing.engine.Period, lifecycle.Views(results)...)
	for _, r := range results {
		if !r.After.Blind && !r.After.State.NodesUnknown {
			s.board.shown.Heard(s.passing.config.Node, r.After.State.Nodes, silence, r.After.State.Now)
		}
	}
}

// after tells people what a pass came to, rehearses what is due, and tells what came of that. However long it takes, no look is missed
// that what is left of a certificate asks for.
func (s *service) after(ctx context.Context, results []lifecycle.Result, next time.Time) time.Time {
	for _, r := range results {
		s.said.tell(r, next, s.now(), ctx.Err() != nil)
	}
	s.show(results)
	again := s.tellPeople(ctx, results, next)
	if ctx.Err() != nil {
		return again
	}
	isRehearsed := false
	rehearsing := s.passing.engine.RehearseDue(ctx, results, func(ctx context.Context, cert string) lifecycle.Rehearsed {
		isRehearsed = true
		s.passed(results, next) // a rehearsal takes its time
		return s.rehearseNext(ctx, cert)
	})
	if isRehearsed {
		again = s.tellPeople(ctx, lifecycle.WithoutActs(results), next)
	}
	if again.IsZero() || !rehearsing.IsZero() && rehearsing.Before(again) {
		return rehearsing
	}
	return again
}

// tellPeople tells people what a pass came to.
func (s *service) tellPeople(ctx context.Context, results []lifecycle.Result, next time.Time) (again time.Time) {
	again = s.passing.tell(ctx, results, max(soonestTellTime, min(tellTime, next.Sub(s.now()))))
	for _, one := range s.passing.tellings {
		if one.Err != nil {
			s.log.Warn("not told", "notifier", one.Channel, "type", one.Type, "error", printable.Error(one.Err), "hint", printable.Text(hint.Of(one.Err)))
		}
	}
	s.alive()
	return again
}

// rehearseNext rehearses the next renewal of a certificate, with harmless parts.
func (s *service) rehearseNext(ctx context.Context, cert string) lifecycle.Rehearsed {
	r := s.passing.rehearsal(nil)
	defer r.close()
	result := r.withRefusals(r.engine.Pass(ctx, lifecycle.Options{Certificates: []string{cert}, Force: true, Accept: s.accept}))[0]
	rehearsed := lifecycle.Rehearsed{Result: result, Level: r.level(cert)}
	if issuer, ok := r.issuers[cert]; ok {
		rehearsed.AtCA, rehearsed.Reused = issuer.AtCA, issuer.Reused
	}
	log := s.log.With("cert", cert, "level", rehearsed.Level)
	if err := result.Err(); err != nil {
		log.Warn("a rehearsal of the next renewal failed", "stage", result.Stage(), "error", printable.Error(err), "hint", printable.Text(hint.Of(err)))
	} else {
		log.Info("rehearsed the next renewal")
	}
	return rehearsed
}

// passed writes down what a pass came to and when the next one is.
func (s *service) passed(results []lifecycle.Result, next time.Time) {
	for _, warning := range s.passing.writeDown(context.Background(), passEnd{results: results, byDaemon: true, next: next, board: s.board.shown}) {
		s.log.Warn("writing down the pass", "error", printable.Error(warning))
	}
	s.log.Debug("sleeping", "next", next.UTC())
	s.tell("STATUS=" + statusLine(results, next))
}

// statusLine is what systemctl status shows: how the certificates are, and when they are looked at again.
func statusLine(results []lifecycle.Result, next time.Time) string {
	var words []string
	for _, r := range results {
		words = append(words, fmt.Sprintf("%s: %s", r.Name, r.After.Summary))
	}
	return printable.Text(fmt.Sprintf("%s; next look %s", strings.Join(words, ", "), report.Time{Time: next}))
}

// reloads reads the configuration again at every hangup signal and has a pass made with it.
func (s *service) reloads(ctx context.Context, hup <-chan os.Signal) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-hup:
		}
		s.tell(daemon.SdNotifyReloading)
		config, err := config.Load(s.path, s.types)
		if err == nil {
			err = s.mayRun(s.path, config)
		}
		var parts *assembly
		if err == nil {
			parts = s.assemble(config)
			err = parts.checkTwin(ctx)
		}
		if err != nil {
			if parts != nil {
				parts.close()
			}
			s.log.Error("the configuration is not taken; the old one stays in force", "error", printable.Error(err), "hint", printable.Text(hint.Of(err)))
			s.refuse(err)
		} else {
			// A pass may still be using the old parts; the next one closes them.
			s.use(parts)
			s.log.Info("read the configuration again")
		}
		s.tell(daemon.SdNotifyReady)
		s.wakeUp()
	}
}
