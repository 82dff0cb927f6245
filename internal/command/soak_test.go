//go:build faults

package command

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"maps"
	"math"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"net/url"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/sealed"
	"maascert/internal/config"
	"maascert/internal/lifecycle"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// What this file proves: three daemons with one store in PostgreSQL keep a certificate alive for a year of one-day certificates and for a
// week of ten-minute ones, while the CA, MAAS, its regions, proxies, names, the database and the daemons themselves fail at random. Whatever is
// served is renewed before it ends, or people are told before it does; and nothing is left behind. Between two passes time is skipped, so that a
// year takes minutes; a pass itself takes the time it takes. SOAK_SEED picks other failures, SOAK_PART how
// many hundredths of that are lived.

// skippedTime is a clock that runs as usual while a daemon is at work, and skips what all of them would sleep through.
type skippedTime struct {
	skip func(now time.Time) (next time.Time) // is told of each moment that was skipped to, and says to which not to skip past; zero: to none

	mu    sync.Mutex
	ahead time.Duration
	until map[string]time.Time // by daemon that runs: when it wants to wake
	sleep map[string]bool      // those that sleep
	next  time.Time
}

func newSkippedTime() *skippedTime {
	return &skippedTime{until: map[string]time.Time{}, sleep: map[string]bool{}}
}

func (c *skippedTime) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now()
}

func (c *skippedTime) now() time.Time { return time.Now().Add(c.ahead).Round(0) }

// works says that a daemon is at work, until it says that it wants to sleep.
func (c *skippedTime) works(daemon string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sleep, daemon)
	c.until[daemon] = time.Time{}
}

// wants says until when a daemon wants to sleep.
func (c *skippedTime) wants(daemon string, until time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.until[daemon] = until
}

// sleeps says that a daemon sleeps. When all do, the time is skipped until the first wakes or something happens.
func (c *skippedTime) sleeps(daemon string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.until[daemon].IsZero() {
		return // it has ended
	}
	c.sleep[daemon] = true
	if len(c.sleep) < len(c.until) {
		return
	}
	to := c.next
	for _, until := range c.until {
		if to.IsZero() || until.Before(to) {
			to = until
		}
	}
	c.ahead += max(0, to.Sub(c.now()))
	clear(c.sleep)
	c.next = c.skip(c.now())
}

// ended says that a daemon has ended.
func (c *skippedTime) ended(daemon string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.sleep, daemon)
	delete(c.until, daemon)
}

// mishap is something that fails for a while.
type mishap struct {
	kind     string
	host     int // where it is one host's
	from, to time.Time
}

func (m mishap) String() string {
	return fmt.Sprintf("%s (%d) from %s to %s", m.kind, m.host+1, m.from.Format(time.DateTime), m.to.Format(time.DateTime))
}

// mishaps are the kinds, with what each does and how it is over.
var mishaps = map[string]struct{ begins, ends func(s *soak, host int) }{
	"the CA is away":           {caFails("away"), caIsWell},
	"the CA has an outage":     {caFails("outage"), caIsWell},
	"the CA hangs":             {caFails("hangs"), caIsWell},
	"the CA refuses":           {caFails("refuses"), caIsWell},
	"the CA limits":            {caFails("limits"), caIsWell},
	"the CA issues rubbish":    {caFails("rubbish"), caIsWell},
	"the CA forgot everything": {func(s *soak, _ int) { go s.replaceCA().Stop() }, func(*soak, int) {}},
	"a name leads nowhere": {
		func(s *soak, _ int) { s.ca.DNS.Fail("region1.example.internal.", dns.RcodeNameError) },
		func(s *soak, _ int) { s.ca.DNS.Fail("region1.example.internal.", dns.RcodeSuccess) },
	},
	"MAAS's database is away": {func(s *soak, _ int) { s.maas.Database.Reach(false) }, func(s *soak, _ int) { s.maas.Database.Reach(true) }},
	"a region is deaf": {
		func(s *soak, host int) { s.maas.Regions[host].Break(maastest.Fault{Deaf: true}) },
		restartRegion,
	},
	"a region is down": {
		func(s *soak, host int) {
			s.maas.Regions[host].Break(maastest.Fault{Deaf: true})
			s.maas.Regions[host].StopProxy()
		},
		restartRegion,
	},
	"a proxy's configuration is broken": {
		func(s *soak, host int) { s.require(os.WriteFile(s.hosts[host].broken, nil, 0o600)) },
		func(s *soak, host int) { s.require(os.Remove(s.hosts[host].broken)) },
	},
	"the store's database is away": {func(s *soak, _ int) { s.database.cut(true) }, func(s *soak, _ int) { s.database.cut(false) }},
	"a host is down":               {func(s *soak, host int) { s.hosts[host].stop() }, func(s *soak, host int) { s.hosts[host].start() }},
}

func caFails(how string) func(*soak, int) {
	return func(s *soak, _ int) { s.habit.Store(&how) }
}

func caIsWell(s *soak, _ int) { s.habit.Store(new(string)) }

func restartRegion(s *soak, host int) {
	s.maas.Regions[host].Break(maastest.Fault{})
	s.require(s.maas.Regions[host].Restart())
}

// soak is a fleet that lives through all of that.
type soak struct {
	*site
	t         *testing.T
	time      *skippedTime
	rng       *rand.Rand
	lifetime  time.Duration
	authority *certtest.Authority
	gate      *gate // before the CA
	database  *gate // before PostgreSQL
	server    *postgrestest.Server
	name      string // of the database
	url       string // likewise
	port      int    // of challenges
	hosts     []*soakHost

	habit atomic.Pointer[string] // of the CA; empty: a good one

	issuing sync.Mutex
	chain   []byte            // that was issued last
	issued  *x509.Certificate // its leaf
	renewed int

	telling  sync.Mutex
	told     map[string]time.Time // by kind of event: when people were told last
	tellings int

	begun, end  time.Time
	passes      atomic.Int64
	pending     []mishap // that are to come, in their order
	present     []mishap
	happened    map[string]int
	skipped     int
	expired     map[string]bool // what was served where after it had ended, of which people had been told
	failure     string
	samples     int        // of leftovers that were taken in the first half
	looks       int        // of those in the last two lifetimes
	most, least *leftovers // that were there at once in the first half, and in the last two lifetimes
	memories    []uint64   // in use after a quarter, and at the end, in bytes
	quiet       time.Time  // since when nothing is wrong
	replaced    int        // CAs
	isOver      bool
}

// cut cuts the way and what is on it, or lets everybody through again.
func (g *gate) cut(on bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.isCut = on
	if on {
		g.hangUp()
	}
}

// lead leads whoever comes to another server.
func (g *gate) lead(to string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.to = to
	g.hangUp()
}

func (g *gate) hangUp() {
	for conn := range g.conns {
		_ = conn.Close()
	}
}

// soakHost is a region host with a daemon and a proxy of its own.
type soakHost struct {
	*soak
	node   string
	life   int    // how often it was started
	root   string // of its file system
	config string
	broken string // while this file is there, the proxy's configuration is broken
	chain  string // file that the proxy serves
	cancel context.CancelFunc
	done   chan struct{}
}

// require ends the soak at its next moment. It may be called where no test may be ended.
func (s *soak) require(err error) {
	if err != nil && s.failure == "" {
		s.failure = err.Error()
	}
}

// debug tells what happens to whoever asks for it in SOAK_DEBUG.
func (s *soak) debug(format string, args ...any) {
	if os.Getenv("SOAK_DEBUG") != "" {
		fmt.Fprintf(os.Stderr, format+"\n", args...)
	}
}

func startSoak(t *testing.T, lifetime, lasts time.Duration, count int, seed uint64) *soak {
	t.Helper()
	s := &soak{
		site: startSite(t), t: t, time: newSkippedTime(), rng: rand.New(rand.NewPCG(seed, 0)), lifetime: lifetime, told: map[string]time.Time{}, happened: map[string]int{}, expired: map[string]bool{}, most: &leftovers{},
		least: &leftovers{math.MaxInt, math.MaxInt, math.MaxInt, math.MaxInt, math.MaxInt, 0},
	}
	caIsWell(s, 0)
	var err error
	s.authority, err = certtest.NewAuthority()
	require.NoError(t, err)
	s.gate = openGate(t, s.ca.Address())
	s.server = postgrestest.Start(t)
	s.name = "soak"
	address, err := url.Parse(s.server.Database(s.name))
	require.NoError(t, err)
	s.database = openGate(t, address.Host)
	s.url, s.port = address.String(), s.ca.HTTPPort
	address.Host = s.database.listener.Addr().String()
	s.ca.Intercept(s.answer)
	s.ca.SetClock(s.time.Now)
	hook := httptest.NewServer(http.HandlerFunc(s.hear))
	t.Cleanup(hook.Close)
	for name, text := range map[string]string{
		"issuer_root.pem": string(s.authority.RootPEM()), "store.url": address.String(), "store.seal": strings.Repeat("seal", 10), "hook.url": hook.URL,
	} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	resolver, err := acmetest.StartDNS(0)
	require.NoError(t, err)
	t.Cleanup(resolver.Stop)
	for n, region := range s.maas.Regions {
		h := &soakHost{soak: s, node: fmt.Sprintf("region%d", n+1)}
		dir := filepath.Join(s.dir, "host-"+h.node)
		require.NoError(t, os.Mkdir(dir, 0o700))
		h.config, h.broken, h.chain = filepath.Join(s.dir, h.node+".yaml"), filepath.Join(dir, "broken"), filepath.Join(dir, "front.pem")
		h.root = filepath.Join(dir, "root")
		require.NoError(t, os.MkdirAll(filepath.Join(h.root, "etc"), 0o755))
		require.NoError(t, os.WriteFile(filepath.Join(h.root, "etc", "machine-id"), fmt.Appendf(nil, "%032x\n", 0x50a7+n), 0o644))
		check := filepath.Join(dir, "check")
		require.NoError(t, os.WriteFile(check, []byte("#!/bin/sh\ntest ! -e "+h.broken+"\n"), 0o700))
		key := filepath.Join(dir, "front.key")
		text := strings.NewReplacer(
			"node: region1", "node: "+h.node, "state_dir: state", "state_dir: "+filepath.Join(dir, "state"), "stage_dir: stage", "stage_dir: "+filepath.Join(dir, "stage"),
			s.ca.DNS.Address, resolver.Address, s.ca.Address(), s.gate.listener.Addr().String(), `listen: "127.0.0.1:`, `listen: "`+region.Address.String()+`:`,
			s.maas.Regions[0].HTTPDir, region.HTTPDir, "verify_timeout: 20s", "verify_timeout: 1500ms", "key_type: ec256}", "key_type: ec256, targets: [maas, front]}",
			"targets:\n", fmt.Sprintf("targets:\n  front: {type: files, key: %s, fullchain: %s, check: [%s], reload: [\"true\"], endpoints: [%q], verify_timeout: 1500ms}\n", key, h.chain, check, fileServer(t, key, h.chain, new(atomic.Int64))),
		).Replace(s.config()) + "notify:\n  - {type: webhook, name: hook, url: \"file:hook.url\", retries: 0}\n" +
			"store: {type: postgres, url: \"file:store.url\", seal: \"file:store.seal\"}\n"
		require.NoError(t, os.WriteFile(h.config, []byte(text), 0o640))
		s.hosts = append(s.hosts, h)
	}
	s.lead()
	s.begun = s.time.Now()
	s.end = s.begun.Add(lasts)
	s.time.skip = s.happen
	s.plan(count)
	return s
}

// plan decides what will happen: mishaps of which most last for a part of a lifetime, and some for longer than one. Before the end
// everything works for two lifetimes.
func (s *soak) plan(count int) {
	kinds := slices.Sorted(maps.Keys(mishaps))
	until := s.end.Add(-2 * s.lifetime)
	for n := range count {
		at := s.begun.Add(s.lifetime / 2).Add(time.Duration(s.rng.Float64() * float64(until.Sub(s.begun)-s.lifetime/2)))
		lasts := time.Duration(math.Exp(math.Log(0.005)+s.rng.Float64()*(math.Log(0.6)-math.Log(0.005))) * float64(s.lifetime))
		if s.rng.IntN(20) == 0 {
			lasts = s.lifetime + time.Duration(s.rng.Float64()*float64(s.lifetime)/5)
		}
		if to := at.Add(lasts); to.Before(until) {
			s.pending = append(s.pending, mishap{kinds[n%len(kinds)], s.rng.IntN(len(s.hosts)), at, to})
		}
	}
	slices.SortFunc(s.pending, func(a, b mishap) int { return a.from.Compare(b.from) })
}

// lead has all names lead to one of the hosts whose daemons run.
func (s *soak) lead() {
	var up []netip.Addr
	for n, h := range s.hosts {
		if h.cancel != nil || s.begun.IsZero() {
			up = append(up, s.maas.Regions[n].Address)
		}
	}
	if len(up) > 0 {
		s.ca.DNS.Point(up[s.rng.IntN(len(up))])
	}
}

// replaceCA puts another CA in the place of the one there is, which knows no account and no order, and returns the former.
func (s *soak) replaceCA() *acmetest.CA {
	ca, err := acmetest.Start(acmetest.Options{HTTPPort: s.port, TLSPort: s.ca.TLSPort, Validity: 90 * soakDay})
	if err != nil {
		s.require(err)
		return s.ca
	}
	ca.Intercept(s.answer)
	ca.SetClock(s.time.Now)
	before := s.ca
	s.ca = ca
	s.replaced++
	s.lead()
	s.gate.lead(ca.Address())
	return before
}

// happen is told of each moment that is skipped to, while all daemons sleep: it looks at what is served, ends what is over and begins what is to
// come.
func (s *soak) happen(now time.Time) time.Time {
	s.skipped++
	s.debug("%v passes %d issued %d present %v", now.Format(time.DateTime), s.passes.Load(), s.renewed, s.present)
	s.look(now)
	s.present = slices.DeleteFunc(s.present, func(m mishap) bool {
		if m.to.After(now) {
			return false
		}
		mishaps[m.kind].ends(s, m.host)
		s.quiet = now
		return true
	})
	for len(s.pending) > 0 && !s.pending[0].from.After(now) {
		m := s.pending[0]
		s.pending = s.pending[1:]
		if slices.ContainsFunc(s.present, func(p mishap) bool { return s.collides(p, m) }) {
			continue
		}
		mishaps[m.kind].begins(s, m.host)
		s.happened[m.kind]++
		s.present = append(s.present, m)
	}
	s.lead()
	s.sample(now)
	if now.After(s.end) && !s.isOver || s.failure != "" {
		if !s.isOver {
			s.memories = append(s.memories, s.memory())
		}
		s.isOver = true
		for _, h := range s.hosts {
			h.stop()
		}
		return time.Time{}
	}
	next := s.end
	for _, m := range s.present {
		if m.to.Before(next) {
			next = m.to
		}
	}
	if len(s.pending) > 0 && s.pending[0].from.Before(next) {
		next = s.pending[0].from
	}
	return next.Add(time.Millisecond)
}

// collides tells whether two mishaps have the same switch, or would leave no daemon running.
func (s *soak) collides(a, b mishap) bool {
	group := func(m mishap) string {
		switch {
		case strings.HasPrefix(m.kind, "the CA"):
			return "CA"
		case m.kind == "a region is deaf" || m.kind == "a region is down":
			return "region"
		}
		return m.kind
	}
	return group(a) == group(b)
}

// served are the certificates that regions and proxies serve, by where.
func (s *soak) served() map[string]*x509.Certificate {
	all := map[string]*x509.Certificate{}
	for n, h := range s.hosts {
		all["the region of "+h.node] = s.maas.Regions[n].Serves(5443)
		if text, err := os.ReadFile(h.chain); err == nil {
			if certs, err := certstore.ParseCertificates(text); err == nil {
				all["the proxy of "+h.node] = certs[0]
			}
		}
	}
	return all
}

// look finds what is served although it has ended. People have to have been told since it was new.
func (s *soak) look(now time.Time) {
	s.telling.Lock()
	defer s.telling.Unlock()
	for where, leaf := range s.served() {
		if leaf == nil || leaf.NotAfter.After(now) {
			continue
		}
		s.expired[where+" "+leaf.SerialNumber.String()] = true
		isTold := false
		for _, kind := range []string{"failed", "expiring", "degraded", "silent", "drift"} {
			isTold = isTold || s.told[kind].After(leaf.NotBefore)
		}
		if !isTold && s.failure == "" {
			s.failure = fmt.Sprintf("at %v %s serves what ended at %v, and nobody was told; at present: %v; lately told: %v", now, where, leaf.NotAfter, s.present, s.told)
		}
	}
}

// hear takes an event that people are told.
func (s *soak) hear(w http.ResponseWriter, r *http.Request) {
	var event struct{ Event, Certificate, Target, Stage, Error, Hint string }
	if json.NewDecoder(r.Body).Decode(&event) == nil {
		now := s.time.Now()
		s.telling.Lock()
		s.told[event.Event] = now
		s.tellings++
		s.debug("told %+v", event)
		s.telling.Unlock()
	}
	w.WriteHeader(http.StatusNoContent)
}

// answer is the CA: Pebble's orders, the authority's certificates at this clock's time, and what is wrong with it now.
func (s *soak) answer(w http.ResponseWriter, r *http.Request, next http.Handler) {
	now := s.time.Now()
	is := func(path string) bool { return strings.Contains(r.URL.Path, path) }
	switch habit := *s.habit.Load(); {
	case habit == "away":
		panic(http.ErrAbortHandler)
	case habit == "outage":
		http.Error(w, "upstream is away", http.StatusBadGateway)
		return
	case habit == "hangs" && (is(acmetest.NewOrder) || is(acmetest.Finalize) || is(acmetest.RenewalInfo)):
		select {
		case <-r.Context().Done():
		case <-time.After(100 * time.Millisecond):
		}
		panic(http.ErrAbortHandler)
	case habit == "refuses" && is(acmetest.NewOrder):
		problem(w, http.StatusForbidden, "unauthorized", "not today")
		return
	case habit == "limits" && is(acmetest.NewOrder):
		w.Header().Set("Retry-After", strconv.Itoa(int(max(s.lifetime/50, time.Minute)/time.Second)))
		problem(w, http.StatusTooManyRequests, "rateLimited", "too many of them")
		return
	}
	switch {
	case is(acmetest.RenewalInfo):
		s.suggest(w)
	case is(acmetest.Finalize):
		body, err := io.ReadAll(r.Body)
		if err != nil {
			return
		}
		copied := r.Clone(r.Context())
		copied.Body = io.NopCloser(bytes.NewReader(body))
		der, err := base64.RawURLEncoding.DecodeString(fmt.Sprint(payload(copied)["csr"]))
		if err != nil {
			return
		}
		s.issue(der, now)
		r.Body = io.NopCloser(bytes.NewReader(body))
		next.ServeHTTP(w, r)
	case is(acmetest.Certificate):
		s.issuing.Lock()
		defer s.issuing.Unlock()
		w.Header().Set("Content-Type", "application/pem-certificate-chain")
		// A client that hung up does not read the answer.
		_, _ = w.Write(s.chain)
	default:
		next.ServeHTTP(w, r)
	}
}

func (s *soak) issue(request []byte, now time.Time) {
	chain, err := s.authority.Sign(request, func(template *x509.Certificate) {
		template.NotBefore = now.Add(-time.Second).Truncate(time.Second)
		template.NotAfter = template.NotBefore.Add(s.lifetime)
		if *s.habit.Load() == "rubbish" {
			otherNames(template)
		}
	})
	if err != nil {
		return // Pebble says what is wrong with the request
	}
	s.issuing.Lock()
	defer s.issuing.Unlock()
	certs, err := certstore.ParseCertificates(chain)
	if err == nil {
		s.chain, s.issued = chain, certs[0]
		s.renewed++
	}
}

// suggest is the CA's renewal information: none, or a window around the middle of the lifetime.
func (s *soak) suggest(w http.ResponseWriter) {
	s.issuing.Lock()
	defer s.issuing.Unlock()
	if s.issued == nil || s.issued.SerialNumber.Bit(0) == 0 {
		problem(w, http.StatusNotFound, "malformed", "nothing is known of it")
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.Header().Set("Retry-After", strconv.Itoa(int(s.lifetime/10/time.Second)))
	start := s.issued.NotBefore.Add(s.lifetime * 45 / 100)
	fmt.Fprintf(w, `{"suggestedWindow":{"start":%q,"end":%q}}`, start.UTC().Format(time.RFC3339), start.Add(s.lifetime/10).UTC().Format(time.RFC3339))
}

// start starts the daemon, when the one before it is over. The caller holds the time.
func (h *soakHost) start() {
	ctx, cancel := context.WithCancel(h.t.Context())
	before, done := h.done, make(chan struct{})
	h.life++
	h.cancel, h.done = cancel, done
	name := fmt.Sprintf("%s, life %d", h.node, h.life)
	h.time.until[name] = time.Time{}
	go func() {
		defer close(done)
		defer h.time.ended(name)
		if before != nil {
			<-before
		}
		h.run(ctx, name)
	}()
}

// stop ends the daemon, if it runs; it need not be over yet. The caller holds the time.
func (h *soakHost) stop() {
	if h.cancel == nil {
		return
	}
	h.cancel()
	h.cancel = nil
	name := fmt.Sprintf("%s, life %d", h.node, h.life)
	delete(h.time.sleep, name)
	delete(h.time.until, name)
}

// longestSleep is how long a daemon that is at work sleeps between two requests to the CA about the same.
const longestSleep = 10 * time.Millisecond

func (h *soakHost) run(ctx context.Context, name string) {
	a := testApp(worldtest.Elsewhere{FS: world.OS{}, Root: h.root, Kept: []string{os.TempDir()}})
	a.sleep = func(ctx context.Context, d time.Duration) error { return world.Sleep(ctx, min(d, longestSleep)) }
	a.now, a.reach, a.log, a.chat, a.listening = h.time.Now, port80(strconv.Itoa(h.port)), slog.New(slog.DiscardHandler), nil, nil
	read, err := config.Load(h.config, a.types)
	if err != nil {
		h.require(err)
		return
	}
	wake := make(chan struct{}, 1)
	d := &service{app: a, said: newRunLog(a.log), ctx: ctx, path: h.config, accept: maasconfig.Accept{"first-enable": true}, board: newBoard(a.now), wake: wake}
	d.use(a.assemble(read))
	defer d.close()
	(&lifecycle.Daemon{
		Schedule: d, Now: a.now, After: d.after, Nap: time.Millisecond, Wake: wake,
		Pass: func(ctx context.Context) []lifecycle.Result {
			h.time.works(name)
			h.passes.Add(1)
			return d.pass(ctx)
		},
		Passed: func(results []lifecycle.Result, next time.Time) {
			d.passed(results, next)
			h.time.wants(name, next)
		},
		Alive: func() { h.time.sleeps(name) },
	}).Run(ctx)
}

// leftovers are what may become ever more.
type leftovers struct{ goroutines, files, connections, documents, bytes, staged int }

func (l leftovers) String() string {
	return fmt.Sprintf("%d goroutines, %d open files, %d connections to the database, %d documents of %d bytes, %d staged files",
		l.goroutines, l.files, l.connections, l.documents, l.bytes, l.staged)
}

// both are, of each kind, one of two numbers.
func (l leftovers) both(of leftovers, one func(a, b int) int) *leftovers {
	return &leftovers{
		one(l.goroutines, of.goroutines), one(l.files, of.files), one(l.connections, of.connections), one(l.documents, of.documents), one(l.bytes, of.bytes),
		l.staged + of.staged,
	}
}

// sample looks how much is there, when nothing has been wrong for a tenth of a lifetime: fifty times in the first half at the most, and in
// the last two lifetimes, in which nothing goes wrong.
func (s *soak) sample(now time.Time) {
	if len(s.present) > 0 || now.Sub(s.quiet) < s.lifetime/10 || s.isOver {
		return
	}
	whole := s.end.Sub(s.begun)
	if len(s.memories) == 0 && now.After(s.begun.Add(whole/4)) {
		s.memories = append(s.memories, s.memory())
	}
	switch {
	case now.After(s.end.Add(-2 * s.lifetime)):
		s.looks++
		s.least = s.leftovers().both(*s.least, func(a, b int) int { return min(a, b) })
	case now.Before(s.begun.Add(whole/2)) && !now.Before(s.begun.Add(time.Duration(s.samples+1)*whole/100)):
		s.samples++
		s.most = s.leftovers().both(*s.most, func(a, b int) int { return max(a, b) })
	}
}

// leftovers counts them while all sleep.
func (s *soak) leftovers() *leftovers {
	l := &leftovers{
		goroutines: runtime.NumGoroutine() - s.replaced, connections: s.server.CountIn(s.name, "select count(*) from pg_stat_activity where usename = 'maascert'"),
		documents: s.server.CountIn(s.name, "select count(*) from maascert.document"), bytes: s.server.CountIn(s.name, "select coalesce(sum(length(data)), 0) from maascert.document"),
	}
	files, err := os.ReadDir("/proc/self/fd")
	s.require(err)
	l.files = len(files)
	for _, h := range s.hosts {
		staged, err := os.ReadDir(filepath.Join(s.dir, "host-"+h.node, "stage"))
		if err != nil && !errors.Is(err, os.ErrNotExist) {
			s.require(err)
		}
		l.staged += len(staged)
	}
	return l
}

// memory is that in use, in bytes. Pebble keeps what it was ever asked for, so another takes its place before.
func (s *soak) memory() uint64 {
	s.replaceCA().Stop()
	var memory runtime.MemStats
	runtime.GC()
	runtime.GC()
	runtime.ReadMemStats(&memory)
	return memory.HeapAlloc
}

// keptByPebble is how many bytes a Pebble that was stopped keeps at the most: its validator is a goroutine that never ends, and has all that the CA
// was ever asked for.
const keptByPebble = 2 << 20

// live lives through it all, and tells what came of it.
func (s *soak) live() {
	t, began := s.t, time.Now()
	before := runtime.NumGoroutine()
	s.time.mu.Lock()
	for _, h := range s.hosts {
		h.start()
	}
	s.time.next = s.time.skip(s.time.now())
	s.time.mu.Unlock()
	for _, h := range s.hosts {
		for isOver := false; !isOver; {
			s.time.mu.Lock()
			done := h.done
			s.time.mu.Unlock()
			<-done
			s.time.mu.Lock()
			isOver = h.cancel == nil && done == h.done && s.isOver
			s.time.mu.Unlock()
			if !isOver {
				time.Sleep(10 * time.Millisecond) // it is started again
			}
		}
	}
	t.Logf("%v of certificates of %v in %v: %d certificates issued, %d passes, %d moments; what happened: %v; served after its end, and told: %d; events told: %d",
		s.end.Sub(s.begun), s.lifetime, time.Since(began).Round(time.Second), s.renewed, s.passes.Load(), s.skipped, s.happened, len(s.expired), s.tellings)
	t.Logf("at most in the first half, in %d looks: %v", s.samples, s.most)
	t.Logf("at least at the end, in %d looks: %v", s.looks, s.least)
	for _, bytes := range s.memories {
		t.Logf("memory in use: %.1f MiB", float64(bytes)/(1<<20))
	}
	require.Empty(t, s.failure)
	require.Greater(t, s.renewed, int(s.end.Sub(s.begun)/s.lifetime), "at least once in each lifetime")
	require.GreaterOrEqual(t, s.samples, 10)
	require.GreaterOrEqual(t, s.looks, 3)

	// Everything worked in the last two lifetimes.
	served := map[string]bool{}
	for where, leaf := range s.served() {
		require.NotNil(t, leaf, where)
		served[certstore.Fingerprint(leaf)] = true
		require.True(t, leaf.NotAfter.After(s.end), where)
	}
	require.Len(t, served, 1)
	require.LessOrEqual(t, s.least.goroutines, s.most.goroutines+2)
	require.LessOrEqual(t, s.least.files, s.most.files+2)
	require.LessOrEqual(t, s.least.connections, s.most.connections)
	require.LessOrEqual(t, s.least.documents, mostDocuments)
	require.LessOrEqual(t, s.least.bytes, s.most.bytes*3/2+20_000)
	require.Zero(t, s.most.staged+s.least.staged, "a key in the stage while all sleep")
	require.Len(t, s.memories, 2)
	require.LessOrEqual(t, s.memories[1], s.memories[0]+4<<20+uint64(s.replaced)*keptByPebble)
	require.Eventually(t, func() bool { return runtime.NumGoroutine()-s.replaced <= before+10 }, time.Minute, 100*time.Millisecond, "goroutines after all have ended")
	require.Eventually(t, func() bool {
		return s.server.CountIn(s.name, "select count(*) from pg_stat_activity where usename = 'maascert'") == 0
	}, 10*time.Second, 100*time.Millisecond, "connections after all have ended")
	plain, err := openDatabase(postgres.Config{URL: s.url, Node: "looking"})
	require.NoError(t, err)
	defer closeStore(plain)
	store, err := sealed.New(plain, strings.Repeat("seal", 10))
	require.NoError(t, err)
	record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.Nil(t, record.Order, "no order is left")
	require.Nil(t, record.Attempt)
	require.Empty(t, record.Answers)
}

// numberOf is the number that a variable of the environment says, or the usual one.
func numberOf(t *testing.T, variable string, usual int) int {
	t.Helper()
	text := os.Getenv(variable)
	if text == "" {
		return usual
	}
	n, err := strconv.Atoi(text)
	require.NoError(t, err, variable)
	return n
}

const soakDay = 24 * time.Hour

// mostDocuments are the account, a record, five versions, and of each of three hosts what it says of itself and its answers.
const mostDocuments = 1 + 1 + 5 + 3*2

// A fleet lives for a year with one-day certificates, and for a week with ten-minute ones; or for a part of that in SOAK_PART, in hundredths.
func TestSoak(t *testing.T) {
	part := numberOf(t, "SOAK_PART", 2)
	for _, row := range []struct{ lifetime, lasts time.Duration }{{soakDay, 365 * soakDay}, {10 * time.Minute, 7 * soakDay}} {
		t.Run(row.lifetime.String(), func(t *testing.T) {
			startSoak(t, row.lifetime, row.lasts/100*time.Duration(part), max(20, 3*part), uint64(numberOf(t, "SOAK_SEED", 1))).live()
		})
	}
}
