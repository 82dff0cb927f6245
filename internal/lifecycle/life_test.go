package lifecycle_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"math"
	"math/rand/v2"
	"os"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

// What this file proves: whenever everything works for a twentieth of the lifetime (a minute at least) before a served
// certificate ends, no endpoint serves it any more when it ends. A life is a daemon, a CA and three regions in fake time,
// with everything that may break breaking at random; hundreds of lives are lived with lifetimes from two minutes to 398
// days. LIFE_SEED picks other lives, LIFE_COUNT how many, and LIFE_ONLY one of
// them, which then says what it does.

// trouble is something that does not work for a while.
type trouble struct {
	kind     string
	region   int // -1: all of them
	from, to time.Time
	by       time.Duration // by how much the host's clock is ahead
}

// The kinds of trouble.
var troubles = []string{
	"ca down", "ca hangs", "ca refuses", "ca limits", "guard", "lock", "disk", "unreadable", "maas down",
	"region down", "region deaf", "region slow", "regiond stopped", "all deaf", "all down", "clock", "suspended", "daemon down",
}

type span struct{ from, to time.Time }

// life is one life. Its truth is what time it really is; the host's clock may say something else, and the bubble's clock
// stands still while the machine is suspended.
type life struct {
	t         *testing.T
	rng       *rand.Rand
	lifetime  time.Duration
	ari       bool
	authority *certtest.Authority
	store     *simStore
	regions   []*simRegion
	troubles  []trouble
	end       time.Time

	mu        sync.Mutex
	suspended time.Duration
	wrong     time.Duration
	stored    []storedAt // what MAAS's database held, oldest first
	limited   time.Time  // until when the CA limits the rate
	broken    []span
	orders    []time.Time
	calls     []callAt // that MAAS took, each of which makes every region's proxy reload
	refused   []callAt // calls that MAAS did not take
	passes    int
	renewals  int
	violation string
}

type storedAt struct {
	at     time.Time
	bundle *certstore.Bundle
}

type callAt struct {
	at   time.Time
	leaf string
}

// simRegion is a region: what it serves, and what it will take over.
type simRegion struct {
	name   string
	serves *certstore.Bundle
	coming []time.Time // when it reads the database
}

func (l *life) truth() time.Time { return time.Now().Add(l.suspended).Round(0) }

func (l *life) now() time.Time {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.truth().Add(l.wrong)
}

// is tells whether there is trouble of a kind now; the caller holds the mutex.
func (l *life) is(kind string, region int) bool {
	now := l.truth()
	return slices.ContainsFunc(l.troubles, func(t trouble) bool {
		return t.kind == kind && (t.region < 0 || t.region == region) && !now.Before(t.from) && now.Before(t.to)
	})
}

func (l *life) isNow(kind string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.is(kind, -1)
}

// window is how long everything has to work before a certificate ends.
func (l *life) window() time.Duration { return max(l.lifetime/20, time.Minute) }

// catchUp has the regions take over what they have read by now; the caller holds the mutex.
func (l *life) catchUp() {
	now := l.truth()
	for _, r := range l.regions {
		slices.SortFunc(r.coming, time.Time.Compare)
		for len(r.coming) > 0 && !r.coming[0].After(now) {
			at := r.coming[0]
			r.coming = r.coming[1:]
			var bundle *certstore.Bundle
			for _, s := range l.stored {
				if !s.at.After(at) {
					bundle = s.bundle
				}
			}
			if bundle != nil && bundle != r.serves {
				l.check(r, at)
				r.serves = bundle
			}
		}
	}
}

// check finds a certificate that was served when it ended although everything had worked.
func (l *life) check(r *simRegion, until time.Time) {
	if r.serves == nil || !until.After(r.serves.Leaf().NotAfter) {
		return
	}
	ends := r.serves.Leaf().NotAfter
	for _, s := range l.broken {
		if s.from.Before(ends) && s.to.After(ends.Add(-l.window())) {
			return
		}
	}
	if l.violation == "" {
		l.violation = fmt.Sprintf("%s served a certificate of %v that ended at %v until %v, and everything had worked; troubles: %v", r.name, l.lifetime, ends, until, l.troubles)
	}
}

// notify tells the regions that the database changed; the caller holds the mutex.
func (l *life) notify() {
	now := l.truth()
	for i, r := range l.regions {
		switch {
		case l.is("region deaf", i), l.is("all deaf", i), l.is("region down", i), l.is("all down", i), l.is("regiond stopped", i):
		case l.is("region slow", i):
			r.coming = append(r.coming, now.Add(120*time.Second))
		default:
			r.coming = append(r.coming, now.Add(time.Second))
		}
	}
}

// pause is a wait within the bubble that ends with the context.
func pause(ctx context.Context, d time.Duration) error {
	select {
	case <-ctx.Done():
		return context.Cause(ctx)
	case <-time.After(d):
		return nil
	}
}

// simStore fails while the disk does.
type simStore struct {
	*certstore.Overlay
	life *life
	mu   sync.Mutex
	held bool
}

func (s *simStore) Read(ctx context.Context, name string) ([]byte, certstore.Revision, error) {
	if s.life.isNow("unreadable") {
		return nil, "", errors.New("input/output error")
	}
	return s.Overlay.Read(ctx, name)
}

func (s *simStore) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	if s.life.isNow("disk") {
		return "", errors.New("no space left on device")
	}
	return s.Overlay.Write(ctx, name, data, prev)
}

func (s *simStore) Lock(ctx context.Context, name string) (*certstore.Held, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.held || s.life.isNow("lock") {
		return nil, &certstore.LockedError{Name: name}
	}
	s.held = true
	return certstore.NewHeld(ctx, s, func() {
		s.mu.Lock()
		defer s.mu.Unlock()
		s.held = false
	}), nil
}

// The life is also its CA.
var _ lifecycle.Issuer = (*life)(nil)

func (l *life) Window(ctx context.Context, leaf *x509.Certificate) (acme.Window, error) {
	switch {
	case !l.ari:
		return acme.Window{}, acme.ErrNoWindow
	case l.isNow("ca down"):
		return acme.Window{}, errors.New("connection refused")
	case l.isNow("ca hangs"):
		<-ctx.Done()
		return acme.Window{}, context.Cause(ctx)
	}
	start := leaf.NotBefore.Add(l.lifetime * 6 / 10)
	w, err := acme.NewWindow(leaf, start, start.Add(max(l.lifetime/20, 2*time.Second)))
	w.Asked = l.now()
	w.AskAgain = w.Asked.Add(l.lifetime / 30)
	return w, err
}

func (l *life) Retract(context.Context, []certstore.Answer) ([]certstore.Answer, error) {
	return nil, nil
}

func (l *life) Obtain(ctx context.Context, request acme.Request) (*acme.Issued, error) {
	switch {
	case l.isNow("ca down"):
		return nil, errors.New("connection refused")
	case l.isNow("ca hangs"):
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	if err := pause(ctx, time.Second); err != nil {
		return nil, err
	}
	l.mu.Lock()
	wrong, truth := l.wrong, l.truth()
	if l.is("ca limits", -1) && truth.After(l.limited) {
		l.limited = truth.Add(max(time.Minute, l.lifetime/100))
	}
	limited, refuses := l.limited, l.is("ca refuses", -1)
	l.mu.Unlock()
	if truth.Before(limited) {
		return nil, &acme.Error{Op: "newOrder", Type: "rateLimited", Status: 429, RetryAfter: l.now().Add(limited.Sub(truth))}
	}
	if wrong.Abs() > 24*time.Hour {
		return nil, errors.New("this host's clock is wrong")
	}
	if request.Resume == nil { // else it is taken up
		l.mu.Lock()
		l.orders = append(l.orders, truth)
		l.mu.Unlock()
	}
	if err := request.Save(certstore.Order{Directory: wish.Directory, URL: "order", Names: request.Names, KeyType: request.KeyType}); err != nil {
		return nil, err
	}
	if refuses {
		return nil, &acme.Error{Op: "validation", Type: "unauthorized", Status: 403}
	}
	l.mu.Lock()
	bundle, err := l.authority.Issue(request.KeyType, -l.suspended, l.lifetime, request.Names...)
	now := l.truth().Add(l.wrong)
	l.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if leaf := bundle.Leaf(); leaf.NotBefore.After(now.Add(certstore.MaxSkew)) || !leaf.NotAfter.After(now) {
		return nil, fmt.Errorf("%w: the clock is wrong", acme.ErrUnfit)
	}
	return &acme.Issued{Bundle: bundle, Directory: wish.Directory, Account: "account/1", Requests: 5}, nil
}

// simTarget is the life as a target.
type simTarget struct{ *life }

var _ maasconfig.Target = simTarget{}

func (simTarget) Info() maasconfig.Info {
	return maasconfig.Info{Name: "maas", Type: "maas", Shared: true}
}
func (simTarget) Tidy(context.Context) error { return nil }

func (s simTarget) Guards(maasconfig.Want) []maasconfig.Guard {
	return []maasconfig.Guard{{Code: "guard", Ask: func(context.Context) (string, error) {
		if s.isNow("guard") {
			return "", errors.New("the stage cannot be written")
		}
		return "", nil
	}}}
}

func (simTarget) Discover(context.Context, map[string]string) {}

func (s simTarget) Probe(context.Context) []maasconfig.Served {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.catchUp()
	var all []maasconfig.Served
	for i, r := range s.regions {
		served := maasconfig.Served{Address: r.name + ":5443", State: maasconfig.None, Err: errors.New("connection refused")}
		switch {
		case s.is("region down", i), s.is("all down", i):
			served.State = maasconfig.Unknown
		case r.serves != nil:
			served = maasconfig.Served{
				Address: served.Address, Certs: append([]*x509.Certificate{r.serves.Leaf()}, r.serves.Chain()...), Stopped: s.is("regiond stopped", i), Pretended: true,
			}
		}
		all = append(all, served)
	}
	return all
}

func (simTarget) Backup(context.Context) (*certstore.Bundle, error) {
	return nil, errors.New("no backup")
}

func (s simTarget) tell(ctx context.Context, bundle *certstore.Bundle) error {
	s.mu.Lock()
	begun := s.truth()
	s.mu.Unlock()
	if err := pause(ctx, time.Duration(2+s.rng.IntN(7))*time.Second); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.is("maas down", -1) {
		s.refused = append(s.refused, callAt{begun, bundle.Fingerprint()})
		return errors.New("config-tls: connection to server failed")
	}
	s.calls = append(s.calls, callAt{s.truth(), bundle.Fingerprint()})
	s.stored = append(s.stored, storedAt{s.truth(), bundle})
	s.notify()
	return nil
}

func (s simTarget) Prepare(_ context.Context, bundle *certstore.Bundle, _ maasconfig.Want) (maasconfig.Change, error) {
	return maasconfig.Change{
		Within:  5 * time.Minute,
		Settles: 300 * time.Millisecond,
		Make: func(ctx context.Context) (maasconfig.Telling, error) {
			if err := s.tell(ctx, bundle); err != nil {
				return maasconfig.NotTold, err
			}
			return maasconfig.Told, nil
		},
		Undo: s.tell,
	}, nil
}

// logUniform draws a duration so that each order of magnitude is as likely as any other.
func logUniform(rng *rand.Rand, least, most time.Duration) time.Duration {
	low, high := math.Log(float64(least)), math.Log(float64(most))
	return time.Duration(math.Exp(low + rng.Float64()*(high-low)))
}

func newLife(t *testing.T, rng *rand.Rand) *life {
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	l := &life{t: t, rng: rng, lifetime: logUniform(rng, 2*time.Minute, 398*day).Truncate(time.Second), ari: rng.IntN(2) == 0, authority: authority}
	l.store = &simStore{Overlay: certstore.NewOverlay(nil), life: l}
	for i := range 3 {
		l.regions = append(l.regions, &simRegion{name: fmt.Sprintf("region%d", i+1)})
	}
	// The first certificate comes while everything works, and after the last trouble everything works for long enough.
	begun := time.Now().Round(0)
	troubled := time.Duration(float64(l.lifetime) * (1 + rng.Float64()))
	l.end = begun.Add(time.Minute + troubled)
	for n := range 1 + rng.IntN(8) {
		from := begun.Add(time.Minute + time.Duration(rng.Float64()*float64(troubled)))
		one := trouble{kind: troubles[rng.IntN(len(troubles))], region: rng.IntN(len(l.regions)), from: from, to: from.Add(logUniform(rng, time.Second, l.longestTrouble()))}
		if n == 0 {
			l.hold(&one, begun)
		}
		switch one.kind {
		case "region down", "region deaf", "region slow", "regiond stopped":
		case "clock":
			one.region, one.to = -1, one.from.Add(logUniform(rng, time.Second, min(l.lifetime, 3*time.Hour)))
			one.by = logUniform(rng, time.Second, 2*l.lifetime) * time.Duration(1-2*rng.IntN(2))
		default:
			one.region = -1
		}
		l.troubles = append(l.troubles, one)
		settled := one.to
		switch one.kind {
		case "region slow":
			settled = settled.Add(130 * time.Second)
		case "ca limits":
			settled = settled.Add(max(time.Minute, l.lifetime/100))
		case "region down", "regiond stopped", "all down": // who starts reads the database
			settled = settled.Add(time.Second)
			for i, r := range l.regions {
				if one.region < 0 || one.region == i {
					r.coming = append(r.coming, settled)
				}
			}
		}
		l.broken = append(l.broken, span{one.from, settled})
		if settled.After(l.end) {
			l.end = settled
		}
	}
	l.end = l.end.Add(l.lifetime * 5 / 4)
	return l
}

// hold makes a trouble one that lasts from before the first renewal until just as long before the first certificate ends as
// has to be enough: nothing but the looks and acts of that last while can save it. What lasts on after its trouble, such as
// a region's two minutes, ends then too.
func (l *life) hold(t *trouble, begun time.Time) {
	t.from = begun.Add(l.lifetime * time.Duration(20+l.rng.IntN(40)) / 100)
	t.to = begun.Add(l.lifetime - l.window() - logUniform(l.rng, 2*time.Second, max(4*time.Second, l.lifetime/20)))
	switch t.kind {
	case "region slow":
		t.to = t.to.Add(-130 * time.Second)
	case "ca limits":
		t.to = t.to.Add(-max(time.Minute, l.lifetime/100))
	}
	if !t.to.After(t.from) {
		t.to = t.from.Add(time.Second)
	}
}

// longestTrouble is longer than a certificate lives, unless that is so long that looks after its end would take all the
// time of the test.
func (l *life) longestTrouble() time.Duration {
	if l.lifetime <= 3*day {
		return l.lifetime * 6 / 5
	}
	return max(l.lifetime/8, 6*time.Hour)
}

// live lives the life: the daemon runs, is restarted, suspended, and its clock is set.
func (l *life) live() {
	done := make(chan struct{})
	ctx, cancel := context.WithCancel(l.t.Context())
	go func() {
		defer close(done)
		for ctx.Err() == nil {
			l.daemon(ctx)
		}
	}()
	l.history(ctx)
	cancel()
	<-done
	l.mu.Lock()
	defer l.mu.Unlock()
	l.catchUp()
	for _, r := range l.regions {
		l.check(r, l.truth())
		if r.serves == nil || !r.serves.Leaf().NotAfter.After(l.truth()) {
			l.violation = fmt.Sprintf("%s was given up for good: %v, %v", r.name, l.lifetime, l.troubles)
		}
	}
}

// history makes happen what happens at a moment.
func (l *life) history(ctx context.Context) {
	for ctx.Err() == nil {
		l.mu.Lock()
		now, next := l.truth(), l.end
		l.wrong = 0
		var sleeping time.Duration
		for _, t := range l.troubles {
			isNow := !now.Before(t.from) && now.Before(t.to)
			switch {
			case isNow && t.kind == "clock":
				l.wrong += t.by
			case isNow && t.kind == "suspended":
				sleeping = max(sleeping, t.to.Sub(now))
			}
			for _, at := range []time.Time{t.from, t.to} {
				if at.After(now) && at.Before(next) {
					next = at
				}
			}
		}
		l.suspended += sleeping
		l.mu.Unlock()
		switch {
		case sleeping > 0:
			continue
		case !now.Before(l.end):
			return
		}
		_ = pause(ctx, next.Sub(now))
	}
}

// daemon is one incarnation of the daemon.
func (l *life) daemon(ctx context.Context) {
	schedule, err := cron.ParseStandard("@every 12h")
	require.NoError(l.t, err)
	eng := &lifecycle.Engine{
		Store: l.store, Node: "region1", Now: l.now, Log: slog.New(slog.DiscardHandler), Period: 12 * time.Hour,
		Certificates: []lifecycle.Certificate{{Name: "maas", Wish: wish, Keep: 3, Trust: certstore.Rehearsed(certstore.Trust{Now: l.now}), Issuer: l, Targets: []maasconfig.Target{simTarget{l}}, Means: "m"}},
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	d := &lifecycle.Daemon{Schedule: schedule, Now: l.now, Nap: max(5*time.Second, l.lifetime/1000), Pass: func(ctx context.Context) []lifecycle.Result {
		results := eng.Pass(ctx, lifecycle.Options{})
		l.mu.Lock()
		defer l.mu.Unlock()
		l.passes++
		r := results[0]
		d := r.After.State.Record.Deployments["maas"]
		l.say("%v, %v, wait %v, told %v, next %v, version %d of %d told %d, back %d, %v", r.After.Plan.Why, r.After.Summary, r.After.Plan.Wait.Format(time.TimeOnly),
			r.Told, r.After.Plan.Next.Format(time.DateTime), d.Verified, d.Version, d.Tries, d.RolledBack, r.Err())
		if results[0].Obtained {
			l.renewals++
		}
		return results
	}}
	stop := make(chan struct{})
	go func() { // which is ended when its trouble begins
		defer close(stop)
		for ctx.Err() == nil {
			if l.isNow("daemon down") {
				cancel()
				return
			}
			_ = pause(ctx, max(time.Second, l.lifetime/500))
		}
	}()
	d.Run(ctx)
	<-stop
	for l.isNow("daemon down") && l.t.Context().Err() == nil {
		time.Sleep(time.Second + l.lifetime/1000)
	}
}

// most is the largest number of moments within a while.
func most(moments []time.Time, within time.Duration) int {
	largest, first := 0, 0
	for i, at := range moments {
		for at.Sub(moments[first]) >= within {
			first++
		}
		largest = max(largest, i-first+1)
	}
	return largest
}

// R1, R2, R3, R4, R11, M4, M5.
func TestNoEndpointServesAnExpiredCertificateWhenEverythingWorked(t *testing.T) {
	t.Parallel()
	number := func(name string, otherwise uint64) uint64 {
		if n, err := strconv.ParseUint(os.Getenv(name), 10, 64); err == nil {
			return n
		}
		return otherwise
	}
	seed, count := number("LIFE_SEED", 1), number("LIFE_COUNT", 40)
	var mu sync.Mutex
	var total struct{ lives, passes, renewals, troubles, jumps, orders, calls, quickOrders int }
	first := number("LIFE_ONLY", 0)
	if first > 0 {
		count = first + 1
	}
	const shards = 4
	var next atomic.Uint64
	next.Store(first)
	t.Run("lives", func(t *testing.T) {
		for shard := range uint64(shards) {
			t.Run(strconv.FormatUint(shard, 10), func(t *testing.T) {
				t.Parallel()
				for n := next.Add(1) - 1; n < count; n = next.Add(1) - 1 {
					synctest.Test(t, func(t *testing.T) {
						l := newLife(t, rand.New(rand.NewPCG(seed, n)))
						l.live()
						require.Empty(t, l.violation, "LIFE_SEED=%d, life %d", seed, n)
						l.checkActs(n)
						mu.Lock()
						defer mu.Unlock()
						total.lives++
						total.passes += l.passes
						total.renewals += l.renewals
						total.troubles += len(l.troubles)
						for _, one := range l.troubles {
							if one.kind == "clock" || one.kind == "suspended" {
								total.jumps++
							}
						}
						if l.lifetime >= day {
							total.orders = max(total.orders, most(l.orders, time.Hour))
							total.calls = max(total.calls, most(l.callTimes(), day))
						}
						total.quickOrders = max(total.quickOrders, most(l.orders, time.Hour))
					})
					if t.Failed() {
						return
					}
				}
			})
		}
	})
	t.Logf("seed %d: %d lives, %d passes, %d renewals, %d outages, of which %d jumps of the clock or suspensions; with lifetimes of a day and more at most %d orders an hour and %d calls a day, with any lifetime %d orders an hour",
		seed, total.lives, total.passes, total.renewals, total.troubles, total.jumps, total.orders, total.calls, total.quickOrders)
}

func (l *life) callTimes() []time.Time {
	var at []time.Time
	for _, c := range l.calls {
		at = append(at, c.at)
	}
	return at
}

// say tells of a life that is lived alone.
func (l *life) say(format string, args ...any) {
	if os.Getenv("LIFE_ONLY") != "" {
		l.t.Logf("%v (host %v) %s", l.truth().Format(time.DateTime), l.truth().Add(l.wrong).Format(time.TimeOnly), fmt.Sprintf(format, args...))
	}
}

// clockWasSet tells whether the host's clock was set between two moments: what it wrote down before may lie in its future, and
// then counts for nothing.
func (l *life) clockWasSet(from, to time.Time) bool {
	within := func(at time.Time) bool { return at.After(from.Add(-time.Second)) && !at.After(to) }
	return slices.ContainsFunc(l.troubles, func(t trouble) bool { return t.kind == "clock" && (within(t.from) || within(t.to)) })
}

// checkActs checks the bounds on orders and calls.
func (l *life) checkActs(n uint64) {
	for i := 1; i < len(l.orders); i++ {
		// One that worked takes a second, its call two, and the next look comes after one. A clock that is set ahead ends a back-off.
		if !l.clockWasSet(l.orders[i-1], l.orders[i]) {
			require.GreaterOrEqual(l.t, l.orders[i].Sub(l.orders[i-1]), 4*time.Second, "life %d: orders follow each other too soon", n)
		}
	}
	if l.lifetime >= day {
		require.LessOrEqual(l.t, most(l.orders, time.Hour), 5, "life %d: what Let's Encrypt allows of failed validations", n)
		require.LessOrEqual(l.t, most(l.callTimes(), day), 60, "life %d: %v %v", n, l.lifetime, l.troubles)
	}
	for i := 1; i < len(l.refused); i++ {
		if a, b := l.refused[i-1], l.refused[i]; a.leaf == b.leaf && !l.clockWasSet(a.at, b.at) {
			require.GreaterOrEqual(l.t, b.at.Sub(a.at), 10*time.Second, "life %d", n)
		}
	}
	// Of three calls in a row for one version, the third is not made at once.
	for i := 2; i < len(l.calls); i++ {
		if a, c := l.calls[i-2], l.calls[i]; a.leaf == c.leaf && l.calls[i-1].leaf == c.leaf && !l.clockWasSet(a.at, c.at) {
			require.GreaterOrEqual(l.t, c.at.Sub(a.at), 10*time.Second, "life %d", n)
		}
	}
}
