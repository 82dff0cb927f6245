package lifecycle_test

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

// effects counts the side effects of a pass and makes one of them fail: with dead, everything after it fails as well,
// as if the process had been killed.
type effects struct {
	mu    sync.Mutex
	n     int
	fail  int // 0: none
	dead  bool
	names []string
	at    func(name string) error // what becomes of an effect; nil: nothing
}

var errEffect = errors.New("this effect fails")

func (e *effects) happen(name string) error {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.n++
	e.names = append(e.names, name)
	if e.at != nil {
		if err := e.at(name); err != nil {
			return err
		}
	}
	if e.fail != 0 && (e.n == e.fail || e.dead && e.n > e.fail) {
		return fmt.Errorf("%s: %w", name, errEffect)
	}
	return nil
}

// memory is an in-memory store whose writes are effects. A failing write leaves the old document.
type memory struct {
	*certstore.Overlay
	effects *effects
	mu      *sync.Mutex
	locked  map[string]bool
	broken  func(name string) bool // whether a read fails; nil: none does
	refuse  func(name string) bool // whether a write fails; nil: none does
	deaf    func(name string) bool // whether nobody hears that a write worked; nil: of all somebody does
	reads   map[string]int         // by the first part of the name
}

func newMemory(e *effects) *memory {
	return &memory{certstore.NewOverlay(nil), e, new(sync.Mutex), map[string]bool{}, nil, nil, nil, map[string]int{}}
}

func (m *memory) Read(ctx context.Context, name string) ([]byte, certstore.Revision, error) {
	if m.broken != nil && m.broken(name) {
		return nil, "", errors.New("input/output error")
	}
	m.mu.Lock()
	kind, _, _ := strings.Cut(name, "/")
	m.reads[kind]++
	m.mu.Unlock()
	return m.Overlay.Read(ctx, name)
}

func (m *memory) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	if m.refuse != nil && m.refuse(name) {
		return "", errors.New("no space left on device")
	}
	if err := m.effects.happen("write " + name); err != nil {
		return "", err
	}
	revision, err := m.Overlay.Write(ctx, name, data, prev)
	if err == nil && m.deaf != nil && m.deaf(name) {
		return "", errors.New("the connection was lost")
	}
	return revision, err
}

func (m *memory) Delete(ctx context.Context, name string) error {
	if err := m.effects.happen("delete " + name); err != nil {
		return err
	}
	return m.Overlay.Delete(ctx, name)
}

func (m *memory) Lock(ctx context.Context, name string) (*certstore.Held, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.locked[name] {
		return nil, &certstore.LockedError{Name: name}
	}
	m.locked[name] = true
	return certstore.NewHeld(ctx, m, func() {
		m.mu.Lock()
		defer m.mu.Unlock()
		m.locked[name] = false
	}), nil
}

// ca is an in-memory issuer with the order semantics of a real one: an order that was saved can be resumed, and yields
// the certificate that was made for its key.
type ca struct {
	retracted []certstore.Answer
	t         testing.TB
	effects   *effects
	lifetime  time.Duration
	fail      error

	mu     sync.Mutex
	root   *certtest.Authority
	orders map[string]*certstore.Bundle // by URL; nil while it is not finalized
	made   []string
	issued []*certstore.Bundle
}

func newCA(t testing.TB, e *effects, lifetime time.Duration) *ca {
	t.Helper()
	root, err := certtest.NewAuthority()
	require.NoError(t, err)
	return &ca{t: t, effects: e, lifetime: lifetime, root: root, orders: map[string]*certstore.Bundle{}}
}

func (c *ca) Window(context.Context, *x509.Certificate) (acme.Window, error) {
	return acme.Window{}, acme.ErrNoWindow
}

func (c *ca) Retract(_ context.Context, left []certstore.Answer) ([]certstore.Answer, error) {
	c.retracted = append(c.retracted, left...)
	return nil, nil
}

func (c *ca) Obtain(_ context.Context, request acme.Request) (*acme.Issued, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.fail != nil {
		return nil, c.fail
	}
	if isIssued := request.Resume != nil && slices.Contains(c.issued, c.orders[request.Resume.URL]); request.FetchOnly && !isIssued {
		return nil, acme.ErrNotIssued
	}
	order := certstore.Order{Directory: wish.Directory, Created: time.Now(), Names: request.Names, KeyType: request.KeyType}
	if left := request.Resume; left != nil && slices.Equal(left.Names, request.Names) {
		order = *left
	} else {
		if err := c.effects.happen("new order"); err != nil {
			return nil, err
		}
		order.URL = fmt.Sprintf("order/%d", len(c.made)+1)
		c.made = append(c.made, order.URL)
		if err := request.Save(order); err != nil {
			return nil, err
		}
	}
	bundle := c.orders[order.URL]
	if order.Key == "" {
		made, err := c.root.Issue(request.KeyType, 0, c.lifetime, request.Names...)
		if err != nil {
			return nil, err
		}
		bundle = made
		order.Key = string(bundle.KeyPEM())
		if err := request.Save(order); err != nil {
			return nil, err
		}
		c.orders[order.URL] = bundle
	}
	if err := c.effects.happen("finalize"); err != nil {
		return nil, err
	}
	if !slices.Contains(c.issued, bundle) {
		c.issued = append(c.issued, bundle)
	}
	if string(bundle.KeyPEM()) != order.Key {
		c.t.Error("an order was resumed with another key")
	}
	if err := c.effects.happen("download"); err != nil {
		return nil, err
	}
	return &acme.Issued{Bundle: bundle, Directory: wish.Directory, Account: "account/1", Requests: 5}, nil
}

// place is an in-memory target.
type place struct {
	name    string // empty: maas, which the deployment shares; any other is this host's own
	effects *effects
	mu      sync.Mutex
	serves  map[string]*certstore.Bundle // by endpoint; nil: no TLS
	deaf    map[string]bool
	calls   int
	ready   error
	asked   func() // called when the guard is asked; nil: nothing
	tell    error  // what config-tls answers
}

func newPlace(e *effects, endpoints ...string) *place {
	p := &place{effects: e, serves: map[string]*certstore.Bundle{}, deaf: map[string]bool{}}
	for _, endpoint := range endpoints {
		p.serves[endpoint] = nil
	}
	return p
}

func (p *place) Info() maasconfig.Info {
	if p.name != "" {
		return maasconfig.Info{Name: p.name, Type: "files", Logs: "its log"}
	}
	return maasconfig.Info{Name: "maas", Type: "maas", Shared: true, Logs: "its log"}
}

func (p *place) Tidy(context.Context) error { return nil }

func (p *place) Guards(maasconfig.Want) []maasconfig.Guard {
	return []maasconfig.Guard{{Code: "ready", Ask: func(context.Context) (string, error) {
		if p.asked != nil {
			p.asked()
		}
		return "", p.ready
	}}}
}

func (p *place) Discover(context.Context, map[string]string) {}

func (p *place) Probe(context.Context) []maasconfig.Served {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []maasconfig.Served
	for _, endpoint := range slices.Sorted(maps.Keys(p.serves)) {
		s := maasconfig.Served{Address: endpoint, State: maasconfig.None, Err: errors.New("connection refused"), Remedy: "restart the region"}
		if b := p.serves[endpoint]; b != nil {
			s = maasconfig.Served{Address: endpoint, Certs: append([]*x509.Certificate{b.Leaf()}, b.Chain()...), Pretended: true}
		}
		all = append(all, s)
	}
	return all
}

func (p *place) Backup(context.Context) (*certstore.Bundle, error) {
	return nil, errors.New("no backup")
}

func (p *place) Prepare(_ context.Context, bundle *certstore.Bundle, _ maasconfig.Want) (maasconfig.Change, error) {
	return maasconfig.Change{
		Within: 60 * time.Millisecond,
		Make: func(context.Context) (maasconfig.Telling, error) {
			if err := errors.Join(p.effects.happen("config-tls"), p.tell); err != nil {
				return maasconfig.NotTold, err
			}
			p.mu.Lock()
			defer p.mu.Unlock()
			p.calls++
			for endpoint := range p.serves {
				if !p.deaf[endpoint] {
					p.serves[endpoint] = bundle
				}
			}
			return maasconfig.Told, nil
		},
		Undo: func(context.Context, *certstore.Bundle) error { return errors.New("nothing is put back here") },
	}, nil
}

func engine(e *effects, store certstore.Store, issuer lifecycle.Issuer, target maasconfig.Target) *lifecycle.Engine {
	return &lifecycle.Engine{
		Store: store, Node: "region1", Now: time.Now, Log: slog.New(slog.DiscardHandler),
		Certificates: []lifecycle.Certificate{{Name: "maas", Wish: wish, Keep: 3, Trust: certstore.Rehearsed(certstore.Trust{}), Issuer: issuer, Targets: []maasconfig.Target{target}}},
	}
}

func TestAPassObtainsDeploysAndThenRests(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a", "b")
	eng := engine(e, store, issuer, target)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.True(t, r.Obtained && r.Changed && r.Deployed["maas"] && r.Healthy())
	require.Equal(t, lifecycle.Missing, r.Before.Plan.Why)
	require.Equal(t, 1, r.After.Version())

	before := e.n
	r = eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.False(t, r.Changed)
	require.Equal(t, before, e.n, "a pass with nothing to do has no effect: %v", e.names[before:])
}

// Whatever effect fails, and whether the process dies with it or lives on, the next passes converge: one more order at
// the most, no key lost, nothing left over.
func TestWhereverAPassIsCutOffTheNextOnesConverge(t *testing.T) {
	t.Parallel()
	whole := new(effects)
	require.NoError(t, engine(whole, newMemory(whole), newCA(t, whole, 90*day), newPlace(whole, "a", "b")).Pass(t.Context(), lifecycle.Options{})[0].Err())
	require.Greater(t, whole.n, 8, "%v", whole.names)
	for n := 1; n <= whole.n; n++ {
		for _, dead := range []bool{true, false} {
			t.Run(fmt.Sprintf("effect %d, %s, dead %v", n, whole.names[n-1], dead), func(t *testing.T) {
				t.Parallel()
				synctest.Test(t, func(t *testing.T) {
					e := &effects{fail: n, dead: dead}
					store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a", "b")
					eng := engine(e, store, issuer, target)
					first := eng.Pass(t.Context(), lifecycle.Options{})[0]
					e.fail = 0
					var last lifecycle.Result
					for range 3 {
						last = eng.Pass(t.Context(), lifecycle.Options{})[0]
						switch {
						case last.IsNotNow():
							time.Sleep(time.Until(last.After.Plan.Wait))
						case last.Err() != nil:
							time.Sleep(time.Minute) // a call that failed is not repeated at once
						}
					}
					require.NoError(t, last.Err(), "%v", first.Err())
					require.True(t, last.Healthy())
					require.LessOrEqual(t, len(issuer.made), 2)
					for _, served := range target.serves {
						require.NotNil(t, served)
						require.Equal(t, last.After.State.Current.Bundle.Fingerprint(), served.Fingerprint())
					}
					record := last.After.State.Record
					require.Nil(t, record.Order, "no key is left in the record")
					require.Nil(t, record.Attempt)
					require.LessOrEqual(t, len(issuer.issued), len(issuer.made))
					if dead {
						require.Len(t, issuer.issued, 1, "a certificate that was issued is never lost")
					}
				})
			})
		}
	}
}

// A renewal that a person forced and interrupted, by a signal or by a lock that got lost, when the CA may have issued already: the next pass
// fetches the certificate, although nothing is due, instead of throwing its key away. Before that the order is just dropped.
func TestAnInterruptedForcedRenewalLosesNoCertificate(t *testing.T) {
	t.Parallel()
	for effect, issued := range map[string]int{"new order": 1, "finalize": 1, "download": 2} {
		t.Run(effect, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a", "b")
				eng := engine(e, store, issuer, target)
				require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
				ctx, cancel := context.WithCancel(t.Context())
				e.at = func(name string) error {
					if name == effect {
						cancel()
						return ctx.Err()
					}
					return nil
				}
				require.Error(t, eng.Pass(ctx, lifecycle.Options{Force: true, ByHand: true})[0].Err())
				e.at = nil
				require.Len(t, issuer.issued, issued)
				record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
				require.NoError(t, err)
				record.Answers = []certstore.Answer{{Type: "dns-01", Name: "a.example", Token: "t", Thumbprint: "p"}}
				_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
				require.NoError(t, err)
				next := eng.Pass(t.Context(), lifecycle.Options{})[0]
				require.NoError(t, next.Err())
				require.Equal(t, effect == "download", next.Obtained)
				require.Equal(t, issued, next.After.Version())
				require.Nil(t, next.After.State.Record.Order)
				require.Nil(t, next.After.State.Record.Attempt)
				require.LessOrEqual(t, len(issuer.made), 2)
				require.Len(t, issuer.retracted, 1, "no answer outlives the next pass")
				require.Empty(t, next.After.State.Record.Answers)
			})
		})
	}
}

// What the CA issued to a forced renewal is fetched however long something else is in the way: a CA that is away afterwards, or a disk that was
// full when it came.
func TestAForcedRenewalIsFetchedWhenItCan(t *testing.T) {
	t.Parallel()
	const away, full, unheard = "the CA is away", "the disk is full", "nobody hears that it was saved"
	for _, name := range []string{away, full, unheard} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a", "b")
				eng := engine(e, store, issuer, target)
				require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
				ctx, cancel := context.WithCancel(t.Context())
				isVersion := func(name string) bool { return strings.HasPrefix(name, "versions/") }
				switch name {
				case full:
					store.refuse = isVersion
				case unheard:
					store.deaf = isVersion
				case away:
					e.at = func(name string) error {
						if name == "download" {
							cancel()
							return ctx.Err()
						}
						return nil
					}
				}
				require.Error(t, eng.Pass(ctx, lifecycle.Options{Force: true, ByHand: true})[0].Err())
				cancel()
				e.at = nil
				if name != full {
					issuer.fail = errors.New("connection refused")
				}
				for range 3 {
					for range 2 { // one of them within the back-off, when there may be something else to write down
						r := eng.Pass(t.Context(), lifecycle.Options{})[0]
						require.Error(t, r.Err())
						require.NotNil(t, r.After.State.Record.Order, "its key is kept")
					}
					time.Sleep(24 * time.Hour)
				}
				issuer.fail, store.refuse, store.deaf = nil, nil, nil
				r := eng.Pass(t.Context(), lifecycle.Options{})[0]
				require.NoError(t, r.Err())
				require.Equal(t, 2, r.After.Version())
				require.Len(t, issuer.made, 2)
				require.Nil(t, r.After.State.Record.Order)
				require.Nil(t, r.After.State.Record.Attempt)
			})
		})
	}
}

func TestAYearOfTheDaemon(t *testing.T) {
	t.Parallel()
	for name, row := range map[string]struct {
		lifetime time.Duration
		min, max int
		runs     time.Duration
	}{
		"90 days":  {90 * day, 6, 7, 365 * day},
		"6 days":   {6 * day, 120, 123, 365 * day},
		"24 hours": {day, 238, 242, 120 * day},
		"1 hour":   {time.Hour, 334, 337, 7 * day},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				store, issuer, target := newMemory(e), newCA(t, e, row.lifetime), newPlace(e, "a", "b", "c")
				eng := engine(e, store, issuer, target)
				ctx, cancel := context.WithTimeout(t.Context(), row.runs)
				defer cancel()
				schedule, err := cron.ParseStandard("@every 12h")
				require.NoError(t, err)
				passes := 0
				// A clock that nobody sets needs no nap of seconds.
				(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Nap: 10 * time.Minute, Pass: func(ctx context.Context) []lifecycle.Result {
					passes++
					results := eng.Pass(ctx, lifecycle.Options{})
					if ctx.Err() == nil {
						require.NoError(t, results[0].Err())
						leaf := results[0].After.State.Current.Bundle.Leaf()
						require.True(t, time.Now().Before(leaf.NotAfter.Add(-row.lifetime/10)), "never into the last tenth")
					}
					return results
				}}).Run(ctx)
				require.GreaterOrEqual(t, len(issuer.issued), row.min)
				require.LessOrEqual(t, len(issuer.issued), row.max)
				require.Len(t, issuer.made, len(issuer.issued))
				require.InDelta(t, len(issuer.issued), target.calls, 1, "MAAS is told once per certificate, of the last one perhaps not yet")
				require.LessOrEqual(t, passes, 731+9*len(issuer.issued), "a look in each tenth of what is left, until it is renewed")
				versions, err := store.List(t.Context(), "versions/maas")
				require.NoError(t, err)
				require.InDelta(t, 3, len(versions), 1)
			})
		})
	}
}

func TestACAThatFailsIsAskedLessAndLess(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		eng := engine(e, store, issuer, target)
		issuer.fail = &acme.Error{Op: "newOrder", Type: "serverInternal", Detail: "no", Status: 500}
		var waits []time.Duration
		for range 5 {
			r := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.Error(t, r.Err())
			require.Equal(t, lifecycle.StageObtain, r.Stage())
			held := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.True(t, held.IsNotNow())
			require.ErrorContains(t, held.Err(), "newOrder: serverInternal: no")
			waits = append(waits, time.Until(held.After.Plan.Wait))
			time.Sleep(time.Until(held.After.Plan.Wait))
		}
		for i, want := range []time.Duration{time.Minute, 10 * time.Minute, 100 * time.Minute, day, day} {
			require.InDelta(t, want, waits[i], float64(want/10), "a tenth either way")
		}
		issuer.fail = nil
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, r.Err())
		require.Zero(t, r.After.State.Record.Failures)
	})
}

func TestTheCAsRetryAfterHoldsEvenForce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		eng := engine(e, store, issuer, target)
		issuer.fail = &acme.Error{Type: "rateLimited", Status: 429, RetryAfter: time.Now().Add(36 * time.Hour)}
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.True(t, r.IsNotNow())
		issuer.fail = nil
		time.Sleep(35 * time.Hour)
		r = eng.Pass(t.Context(), lifecycle.Options{Force: true})[0]
		require.True(t, r.IsNotNow())
		require.Error(t, r.Err())
		time.Sleep(time.Hour)
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	})
}

func TestACrashLoopIsSlowedDown(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		eng := engine(e, store, issuer, target)
		orders := 0
		for range 10 {
			// The process dies while it orders: the attempt is written down, and nothing after it.
			e.fail, e.dead, e.n = 2, true, 0
			eng.Pass(t.Context(), lifecycle.Options{})
			if slices.Contains(e.names, "new order") {
				orders++
			}
			e.names = nil
		}
		require.LessOrEqual(t, orders, 3)
		e.fail = 0
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.True(t, r.IsNotNow())
		require.ErrorContains(t, r.Err(), "killed")
	})
}

func TestALaggardIsToldTwiceAndHealsWithoutAnOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a", "b", "c")
		target.deaf["c"] = true
		eng := engine(e, store, issuer, target)
		for range 4 {
			r := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.Equal(t, lifecycle.StageVerify, r.Stage())
			require.ErrorContains(t, r.Err(), "c serves no certificate")
			require.Equal(t, lifecycle.StateDegraded, r.After.Summary)
			require.Equal(t, 2, target.calls)
		}
		target.serves["c"] = target.serves["a"]
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, r.Err())
		require.True(t, r.Healthy())
		require.Len(t, issuer.made, 1)
		require.Equal(t, 2, target.calls)
	})
}

func TestADeploymentThatFailedIsTriedAgainWithoutAnOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		target.tell = errors.New("config-tls: connection to server failed")
		eng := engine(e, store, issuer, target)
		for range 5 {
			r := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.Equal(t, lifecycle.StageDeploy, r.Stage())
			require.Equal(t, lifecycle.StateWaiting, r.After.Summary)
			require.False(t, r.After.Plan.Next.IsZero())
			r = eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.Equal(t, lifecycle.StageVerify, r.Stage(), "not at once")
			time.Sleep(time.Minute)
		}
		target.tell = nil
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		require.Len(t, issuer.made, 1)
		require.Equal(t, 1, target.calls)
	})
}

func TestAGuardStopsAPassBeforeItOrders(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
	target.ready = &maasconfig.Refusal{Code: maasconfig.FirstEnable, Why: "TLS is off"}
	eng := engine(e, store, issuer, target)
	for range 3 {
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.Equal(t, lifecycle.StageGuard, r.Stage())
		require.Empty(t, issuer.made)
		var refusal *maasconfig.Refusal
		require.ErrorAs(t, r.Err(), &refusal)
	}
	record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.Len(t, record.Attempts, 1, "the same failure again is the same attempt")
}

// fiveVersions is an engine that keeps five versions and has made them.
func fiveVersions(t *testing.T) (*lifecycle.Engine, *memory) {
	t.Helper()
	e := new(effects)
	store := newMemory(e)
	eng := engine(e, store, newCA(t, e, 90*day), newPlace(e, "a", "b"))
	eng.Certificates[0].Keep = 5
	for range 5 {
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Err())
	}
	return eng, store
}

// A shared store is asked over a network, and each version that is opened has its key under way.
func TestAPassReadsTheRecordSeldomAndOpensFewKeys(t *testing.T) {
	t.Parallel()
	eng, store := fiveVersions(t)
	clear(store.reads)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Err())
	t.Logf("a forced renewal reads %v", store.reads)
	require.LessOrEqual(t, store.reads["state"], 4)
	require.LessOrEqual(t, store.reads["versions"], 2)
	clear(store.reads)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.False(t, r.Changed)
	t.Logf("a pass with nothing to do reads %v", store.reads)
	require.LessOrEqual(t, store.reads["state"], 1)
	require.LessOrEqual(t, store.reads["versions"], 1)
}

// A record of an earlier maascert lists no versions: they are opened once, and listed from then on.
func TestTheIndexOfAnOldRecordIsMadeOnce(t *testing.T) {
	t.Parallel()
	eng, store := fiveVersions(t)
	record, revision, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.Len(t, record.Versions, 5)
	record.Versions = nil
	_, err = certstore.SaveRecord(t.Context(), store, "maas", record, revision)
	require.NoError(t, err)
	for _, opened := range []int{5, 1} {
		clear(store.reads)
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.NoError(t, r.Err())
		require.Len(t, r.After.State.Known, 5)
		require.Equal(t, opened, store.reads["versions"])
	}
}

// twoTargets is an engine for MAAS and a proxy of this host's own.
func twoTargets(t *testing.T) (eng *lifecycle.Engine, issuer *ca, maas, front *place) {
	t.Helper()
	e := new(effects)
	issuer, maas, front = newCA(t, e, 90*day), newPlace(e, "a"), newPlace(e, "front")
	front.name = "front"
	eng = engine(e, newMemory(e), issuer, maas)
	eng.Certificates[0].Targets = []maasconfig.Target{front, maas}
	return eng, issuer, maas, front
}

func TestATargetThatRefusesHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	eng, issuer, maas, front := twoTargets(t)
	front.ready = hint.Add(errors.New("the folder cannot be written"), "mount it")
	maas.tell = errors.New("the database is down")
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.True(t, r.Obtained)
	require.Len(t, r.Troubles, 2, "both are told: %v", r.Troubles)
	require.Equal(t, lifecycle.StageGuard, r.Stage(), "what a person has to mend is the worst")
	require.EqualError(t, r.Err(), "front: the folder cannot be written")
	require.Equal(t, "mount it", hint.Of(r.Err()))
	require.Equal(t, lifecycle.StateFailed, r.After.Summary)

	maas.tell = nil
	r = eng.Pass(t.Context(), lifecycle.Options{ByHand: true})[0]
	require.NotNil(t, maas.serves["a"], "MAAS has it")
	require.Len(t, r.Troubles, 1)
	require.Equal(t, "front", r.Troubles[0].Target)
	failures := r.After.State.Failures("maas")
	require.Len(t, failures, 1, "%v", failures)
	require.Equal(t, "front", failures[0].Target)
	record, _, err := certstore.LoadRecord(t.Context(), eng.Store, "maas")
	require.NoError(t, err)
	require.Equal(t, 1, record.Deployments["maas"].Verified)
	require.NotContains(t, record.Deployments, "front", "another host has a front too")

	front.ready = nil
	r = eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.Empty(t, r.After.State.Failures("maas"))
	require.Len(t, issuer.made, 1, "no other order was needed")
	record, _, err = certstore.LoadRecord(t.Context(), eng.Store, "maas")
	require.NoError(t, err)
	require.Equal(t, 1, record.Deployments["front.at.region1"].Verified)
}

func TestNothingIsOrderedWhenEveryTargetRefuses(t *testing.T) {
	t.Parallel()
	eng, issuer, maas, front := twoTargets(t)
	front.ready, maas.ready = errors.New("no"), errors.New("no")
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Len(t, r.Troubles, 2)
	require.Empty(t, issuer.made)
}

// What belongs to this host waits for nobody who works on what all share, and the other way round.
func TestAHostsOwnTargetHasALockOfItsOwn(t *testing.T) {
	t.Parallel()
	eng, issuer, maas, front := twoTargets(t)
	held, err := eng.Store.Lock(t.Context(), "maas.at.region1")
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Equal(t, lifecycle.StageLock, r.Stage())
	require.NotNil(t, maas.serves["a"])
	require.Nil(t, front.serves["front"])
	held.Unlock()
	held, err = eng.Store.Lock(t.Context(), "maas")
	require.NoError(t, err)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	require.NotNil(t, front.serves["front"])
	require.Len(t, issuer.made, 1)
	held.Unlock()
}

func TestAnOrderThatCannotBeWrittenDownTellsNoTarget(t *testing.T) {
	t.Parallel()
	eng, issuer, _, front := twoTargets(t)
	eng.Store.(*memory).refuse = func(name string) bool { return name == "state/maas" }
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Equal(t, lifecycle.StageSave, r.Stage())
	require.Empty(t, issuer.made)
	require.Nil(t, front.serves["front"])
}

// A revocation waits for what other hosts serve of their own, and is made in the pass that replaces the last of this host's.
func TestARevocationWaitsForEveryHostsOwnTargets(t *testing.T) {
	t.Parallel()
	eng, _, _, _ := twoTargets(t)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	revoked := 0
	eng.Revoke = func(context.Context, certstore.Version, uint) error {
		revoked++
		return nil
	}
	record, revision, err := certstore.LoadRecord(t.Context(), eng.Store, "maas")
	require.NoError(t, err)
	record.Deployments["front.at.region2"] = certstore.Deployment{Verified: 1, Version: 1}
	_, err = certstore.SaveRecord(t.Context(), eng.Store, "maas", record, revision)
	require.NoError(t, err)
	require.NoError(t, certstore.UpdateNode(t.Context(), eng.Store, "region2", func(n *certstore.Node) {
		n.LastPass, n.Targets = time.Now(), []certstore.NodeTarget{{Certificate: "maas", Name: "front", Type: "files"}}
	}))
	_, _, err = eng.AskRevocation(t.Context(), eng.Certificates[0], lifecycle.Revoking{Reason: 4})
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.True(t, r.Obtained)
	require.Zero(t, revoked, "region2 serves it")

	record, revision, err = certstore.LoadRecord(t.Context(), eng.Store, "maas")
	require.NoError(t, err)
	record.Deployments["front.at.region2"] = certstore.Deployment{Verified: 2, Version: 2}
	_, err = certstore.SaveRecord(t.Context(), eng.Store, "maas", record, revision)
	require.NoError(t, err)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	require.Equal(t, 1, revoked)

	_, _, err = eng.AskRevocation(t.Context(), eng.Certificates[0], lifecycle.Revoking{Reason: 4})
	require.NoError(t, err)
	record, revision, err = certstore.LoadRecord(t.Context(), eng.Store, "maas")
	require.NoError(t, err)
	delete(record.Deployments, "front.at.region2")
	_, err = certstore.SaveRecord(t.Context(), eng.Store, "maas", record, revision)
	require.NoError(t, err)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err(), "in one pass")
	require.Equal(t, 2, revoked)
}

// Somebody who works on what all share does not hold up this host's proxy, and its lock hides no trouble of MAAS's.
func TestTroublesOfLocksAreThoseOfTheirTargets(t *testing.T) {
	t.Parallel()
	eng, _, maas, front := twoTargets(t)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	maas.deaf["a"], maas.serves["a"], front.serves["front"] = true, nil, nil
	held, err := eng.Store.Lock(t.Context(), "maas")
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Equal(t, lifecycle.StageLock, r.Stage())
	require.NotNil(t, front.serves["front"], "told all the same")
	held.Unlock()

	front.serves["front"] = nil
	held, err = eng.Store.Lock(t.Context(), "maas.at.region1")
	require.NoError(t, err)
	r = eng.Pass(t.Context(), lifecycle.Options{ByHand: true})[0]
	require.Len(t, r.Troubles, 2, "%v", r.Troubles)
	require.False(t, r.IsNotNow(), "MAAS is deaf, which time does not mend")
	held.Unlock()
}

// An order that a person forces and that fails keeps nothing from this host's own proxy.
func TestAForcedOrderThatFailsHoldsUpNoOwnTarget(t *testing.T) {
	t.Parallel()
	eng, issuer, _, front := twoTargets(t)
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	issuer.fail, front.serves["front"] = errors.New("the CA is down"), nil
	r := eng.Pass(t.Context(), lifecycle.Options{Force: true, ByHand: true})[0]
	require.Equal(t, lifecycle.StageObtain, r.Stage())
	require.NotNil(t, front.serves["front"])
}

// What another host's pass found is no word on this host's own targets.
func TestAnotherHostHealsNoFailureOfAnOwnTarget(t *testing.T) {
	t.Parallel()
	eng, _, _, front := twoTargets(t)
	front.ready = errors.New("the disk is full")
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Equal(t, lifecycle.StateFailed, r.After.Summary)
	for _, host := range []string{"region2", "region1"} {
		require.NoError(t, certstore.UpdateNode(t.Context(), eng.Store, host, func(n *certstore.Node) {
			n.LastPass, n.LastOK = time.Now(), map[string]time.Time{"maas": time.Now()}
		}))
		view, err := eng.Look(t.Context(), eng.Certificates[0])
		require.NoError(t, err)
		require.Equal(t, host == "region2", view.State.LastFailure("maas") != nil, host)
	}
	other := *eng
	other.Node = "region3"
	view, err := other.Look(t.Context(), other.Certificates[0])
	require.NoError(t, err)
	require.Nil(t, view.State.LastFailure("maas"), "its own front is another one")
}

func TestALockedCertificateIsNotWaitedFor(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
	eng := engine(e, store, issuer, target)
	held, err := store.Lock(t.Context(), "maas")
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Equal(t, lifecycle.StageLock, r.Stage())
	require.True(t, r.IsNotNow())
	require.Empty(t, issuer.made)
	held.Unlock()
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
}

func TestOneCertificatesFailureDoesNotStopAnother(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store := newMemory(e)
	bad, good := newCA(t, e, 90*day), newCA(t, e, 90*day)
	bad.fail = errors.New("no")
	eng := engine(e, store, bad, newPlace(e, "a"))
	eng.Certificates = append(eng.Certificates, lifecycle.Certificate{Name: "other", Wish: wish, Keep: 1, Trust: certstore.Rehearsed(certstore.Trust{}), Issuer: good, Targets: []maasconfig.Target{newPlace(e, "b")}})
	results := eng.Pass(t.Context(), lifecycle.Options{})
	require.Error(t, results[0].Err())
	require.NoError(t, results[1].Err())
	require.Len(t, eng.Pass(t.Context(), lifecycle.Options{Certificates: []string{"other"}}), 1)
}

func TestTwoRunsAtOnceMakeOneOrder(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
	var group sync.WaitGroup
	for range 4 {
		group.Go(func() {
			engine(e, store, issuer, target).Pass(t.Context(), lifecycle.Options{Wait: time.Minute})
		})
	}
	group.Wait()
	require.Len(t, issuer.made, 1)
}

// A daemon whose pass fails for a reason that is not the CA's looks again soon, then as the schedule says.
func TestTheDaemonLooksAgainAfterAFailure(t *testing.T) {
	t.Parallel()
	for name, breaks := range map[string]func(*ca, *place){
		"a guard":    func(_ *ca, p *place) { p.ready = errors.New("MAAS is not here") },
		"config-tls": func(_ *ca, p *place) { p.tell = errors.New("config-tls: the database is down") },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
				eng := engine(e, store, issuer, target)
				breaks(issuer, target)
				schedule, err := cron.ParseStandard("@every 12h")
				require.NoError(t, err)
				begun := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 30*time.Hour)
				defer cancel()
				var at []time.Duration
				(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Pass: func(ctx context.Context) []lifecycle.Result {
					at = append(at, time.Since(begun).Round(time.Second))
					return eng.Pass(ctx, lifecycle.Options{})
				}}).Run(ctx)
				require.Less(t, len(at), 14, "%v", at)
				require.Equal(t, []time.Duration{0, time.Minute}, at[:2])
				require.LessOrEqual(t, at[3], 21*time.Minute+time.Second)
				require.Greater(t, at[len(at)-1], 20*time.Hour)
				require.LessOrEqual(t, len(issuer.made), 1)
			})
		})
	}
}

// The daemon obeys its own back-off: after a failed order the next comes when the ladder says, not with the schedule.
func TestTheDaemonOrdersAgainAsTheLadderSays(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		eng := engine(e, store, issuer, target)
		issuer.fail = &acme.Error{Op: "newOrder", Detail: "no", Status: 403}
		schedule, err := cron.ParseStandard("@every 12h")
		require.NoError(t, err)
		begun := time.Now()
		ctx, cancel := context.WithTimeout(t.Context(), 40*time.Hour)
		defer cancel()
		var tries []time.Duration
		(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Pass: func(ctx context.Context) []lifecycle.Result {
			results := eng.Pass(ctx, lifecycle.Options{})
			if !results[0].IsNotNow() {
				tries = append(tries, time.Since(begun).Round(time.Minute))
			}
			return results
		}}).Run(ctx)
		for i, want := range []time.Duration{0, time.Minute, 11 * time.Minute, 111 * time.Minute, day + 111*time.Minute} {
			require.InDelta(t, want, tries[i], float64(want/10+time.Minute), "a tenth either way")
		}
	})
}

// A CA that gives every new certificate a window in the past gets no order a minute.
func TestABadWordOfTheCADoesNotOrderWithoutEnd(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, target := newMemory(e), newPlace(e, "a")
		issuer := &gloomy{newCA(t, e, 90*day)}
		eng := engine(e, store, issuer, target)
		schedule, err := cron.ParseStandard("@every 12h")
		require.NoError(t, err)
		ctx, cancel := context.WithTimeout(t.Context(), day)
		defer cancel()
		(&lifecycle.Daemon{Schedule: schedule, Now: time.Now, Pass: func(ctx context.Context) []lifecycle.Result {
			return eng.Pass(ctx, lifecycle.Options{})
		}}).Run(ctx)
		require.LessOrEqual(t, len(issuer.made), 5)
		require.GreaterOrEqual(t, len(issuer.made), 2, "but it is believed in the end")
	})
}

// gloomy always says that a certificate should have been renewed an hour ago, and wants to be asked every minute.
type gloomy struct{ *ca }

func (gloomy) Window(context.Context, *x509.Certificate) (acme.Window, error) {
	now := time.Now()
	return acme.Window{Start: now.Add(-2 * time.Hour), End: now.Add(-time.Hour), AskAgain: now.Add(time.Minute)}, nil
}

// R9: a certificate that finds no room costs one order, is fetched again when there is room, and nobody speaks of kills.
func TestR9ACertificateThatFindsNoRoomIsFetchedAgain(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		full := true
		store.refuse = func(name string) bool { return full && strings.HasPrefix(name, "versions/") }
		eng := engine(e, store, issuer, target)
		for range 5 {
			r := eng.Pass(t.Context(), lifecycle.Options{})[0]
			require.Error(t, r.Err())
			require.NotContains(t, r.Err().Error(), "killed")
			time.Sleep(25 * time.Hour)
		}
		full = false
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		require.Len(t, issuer.made, 1)
	})
}

// R11: a certificate that ends before the good one in use does not take its place because of time, unless forced.
func TestR11ACertificateThatEndsEarlierIsNotTaken(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		e := new(effects)
		store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
		eng := engine(e, store, issuer, target)
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		time.Sleep(61 * day)
		issuer.lifetime = 10 * day
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.ErrorContains(t, r.Err(), "before the one in use")
		require.Equal(t, 1, r.After.Version())
		made := len(issuer.made)
		r = eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.True(t, r.IsNotNow(), "nor is it ordered again at once")
		require.Len(t, issuer.made, made)
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Err())
	})
}

// A6: what a person tries does not lengthen the daemon's ladder.
func TestA6TriesByHandDoNotLengthenTheLadder(t *testing.T) {
	t.Parallel()
	e := new(effects)
	store, issuer, target := newMemory(e), newCA(t, e, 90*day), newPlace(e, "a")
	eng := engine(e, store, issuer, target)
	eng.Certificates[0].Means = "broken"
	issuer.fail = &acme.Error{Op: "newOrder", Detail: "no", Status: 403}
	for range 5 {
		r := eng.Pass(t.Context(), lifecycle.Options{Force: true, ByHand: true})[0]
		require.Equal(t, 1, r.After.State.Record.Failures)
		require.Less(t, time.Until(r.After.Plan.Wait), 2*time.Minute)
	}
	eng.Certificates[0].Means = "mended"
	issuer.fail = nil
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{ByHand: true})[0].Err())
}

// A proxy that takes its time to say whether it is ready does not hold up MAAS.
func TestAProxysGuardIsAskedWhenMAASHasItsCertificate(t *testing.T) {
	t.Parallel()
	eng, _, maas, front := twoTargets(t)
	front.asked = func() { require.NotNil(t, maas.serves["a"], "MAAS comes first") }
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.NotNil(t, front.serves["front"])
}

// What a person does on one host does not have the deployment follow that host's wish, where it followed another one's or has no CA.
func TestAPinLeavesTheWishThatIsFollowed(t *testing.T) {
	t.Parallel()
	for name, change := range map[string]func(eng *lifecycle.Engine){
		"a host that follows another one": func(eng *lifecycle.Engine) { eng.Certificates[0].Wish.Names = []string{"maas.example"} },
		"a host without a CA": func(eng *lifecycle.Engine) {
			eng.Certificates[0].Issuer = nil
			eng.Certificates[0].Wish.Directory = ""
		},
	} {
		e := new(effects)
		eng := engine(e, newMemory(e), newCA(t, e, 90*day), newPlace(e, "a"))
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Err())
		followed, _, err := certstore.LoadRecord(t.Context(), eng.Store, "maas")
		require.NoError(t, err)

		other := *eng
		other.Node = "region2"
		other.Certificates = slices.Clone(eng.Certificates)
		change(&other)
		record, revision, err := certstore.LoadRecord(t.Context(), eng.Store, "maas")
		require.NoError(t, err)
		record.WishByHost["region2"] = other.Certificates[0].Wish.Hash()
		_, err = certstore.SaveRecord(t.Context(), eng.Store, "maas", record, revision)
		require.NoError(t, err)
		version, err := other.RollBack(t.Context(), other.Certificates[0], 0, day, lifecycle.Options{})
		require.NoError(t, err, name)
		require.Equal(t, 1, version.Number)
		record, _, err = certstore.LoadRecord(t.Context(), eng.Store, "maas")
		require.NoError(t, err)
		require.Equal(t, followed.WishHash, record.WishHash, name)
		for _, host := range []*lifecycle.Engine{eng, &other} {
			r := host.Pass(t.Context(), lifecycle.Options{})[0]
			require.False(t, r.Obtained, name)
		}
	}
}
