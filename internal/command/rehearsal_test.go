package command

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/miekg/dns"
	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/config"
	"maascert/internal/lifecycle"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/notify"
	"maascert/notify/notifytest"
)

// clock is a time that goes as fast as it is told to.
type clock struct {
	mu  sync.Mutex
	now time.Time
}

func (c *clock) Now() time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.now
}

func (c *clock) add(d time.Duration) time.Time {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = c.now.Add(d)
	return c.now
}

// fault breaks a path that the next renewal takes, and mends it.
type fault struct{ breaks, mends func() }

// gate stands before a server: the way there can be cut or led elsewhere, and it can show the certificate of somebody whom nobody
// trusts.
type gate struct {
	listener net.Listener

	mu     sync.Mutex
	to     string
	config *tls.Config // nil: what comes is passed on
	isCut  bool
	conns  map[net.Conn]bool // those that are open
}

func openGate(t *testing.T, to string) *gate {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	g := &gate{listener: listener, to: to, conns: map[net.Conn]bool{}}
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() { g.serve(conn) })
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		group.Wait()
	})
	return g
}

func (g *gate) serve(conn net.Conn) {
	defer conn.Close()
	g.mu.Lock()
	config, to, isCut := g.config, g.to, g.isCut
	g.conns[conn] = true
	g.mu.Unlock()
	defer func() {
		g.mu.Lock()
		defer g.mu.Unlock()
		delete(g.conns, conn)
	}()
	switch {
	case isCut:
		return
	case config != nil:
		_ = tls.Server(conn, config).Handshake() // which the client ends
		return
	}
	server, err := net.Dial("tcp", to)
	if err != nil {
		return
	}
	defer server.Close()
	go func() {
		_, _ = io.Copy(server, conn)
		_ = server.(*net.TCPConn).CloseWrite()
	}()
	_, _ = io.Copy(conn, server)
}

func (g *gate) show(config *tls.Config) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.config = config
}

// fileServer serves a pair from its files, as they are at each handshake, and counts these.
func fileServer(t *testing.T, key, chain string, shaken *atomic.Int64) (address string) {
	listener, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		shaken.Add(1)
		pair, err := tls.LoadX509KeyPair(chain, key)
		return &pair, err
	}})
	require.NoError(t, err)
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			group.Go(func() {
				defer conn.Close()
				_ = conn.(*tls.Conn).Handshake() // before there is a certificate it fails
			})
		}
	})
	t.Cleanup(func() {
		require.NoError(t, listener.Close())
		group.Wait()
	})
	return listener.Addr().String()
}

// rehearsed is a site whose daemon lives as fast as the test wants, and who is told.
type rehearsed struct {
	*site
	second *acmetest.CA // for dry runs; nil: there is none
	clock  *clock
	told   *notifytest.Server
	gate   *gate

	shaken atomic.Int64 // handshakes with the proxy
}

func startRehearsed(t *testing.T, elsewhere bool) *rehearsed {
	r := &rehearsed{site: startSite(t), clock: &clock{now: time.Now()}, told: notifytest.NewServer(t, notifytest.Well, "")}
	r.gate = openGate(t, r.ca.Address())
	key, chain := filepath.Join(r.dir, "front.key"), filepath.Join(r.dir, "front.pem")
	check := filepath.Join(r.dir, "check")
	require.NoError(t, os.WriteFile(check, []byte("#!/bin/sh\ntest ! -e "+filepath.Join(r.dir, "broken")+" || { echo 'line 7: no such option' >&2; exit 1; }\n"), 0o700))
	text := strings.NewReplacer(
		r.ca.Address(), r.gate.listener.Addr().String(),
		"key_type: ec256}", "key_type: ec256, targets: [maas, front]}",
		"targets:\n", fmt.Sprintf("targets:\n  front: {type: files, key: %s, fullchain: %s, check: [%s], reload: [\"true\"], endpoints: [%q]}\n", key, chain, check, fileServer(t, key, chain, &r.shaken)),
	).Replace(r.config()) + "notify:\n  - {type: webhook, name: hook, url: \"file:hook.url\", retries: 0}\n"
	if elsewhere {
		// Proofs are good for ever there.
		second, err := acmetest.Start(acmetest.Options{HTTPPort: r.ca.HTTPPort, Validity: 90 * 24 * time.Hour, AuthzReuse: 100})
		require.NoError(t, err)
		t.Cleanup(second.Stop)
		r.second = second
		require.NoError(t, os.WriteFile(filepath.Join(r.dir, "second_root.pem"), second.DirectoryRoot(), 0o644))
		text = strings.Replace(text, "  accept_terms: true", "  accept_terms: true\n  dry_run: {directory: \""+second.Directory+"\", root: second_root.pem}", 1)
	}
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "maascert.yaml"), []byte(text), 0o640))
	require.NoError(t, os.WriteFile(filepath.Join(r.dir, "hook.url"), []byte(r.told.URL), 0o600))
	code, _, errs := inSite(t, r.site, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, errs)
	return r
}

// kinds are the events that were told.
func (r *rehearsed) kinds(t *testing.T) []string {
	var kinds []string
	for _, request := range r.told.Requests() {
		var event notify.Event
		require.NoError(t, json.Unmarshal([]byte(request.Body), &event))
		kinds = append(kinds, string(event.Kind))
	}
	return kinds
}

// last is the event that was told last.
func (r *rehearsed) last(t *testing.T) (event notify.Event) {
	requests := r.told.Requests()
	require.NoError(t, json.Unmarshal([]byte(requests[len(requests)-1].Body), &event))
	return event
}

// run has the daemon live until the test has seen enough. tick is called again and again while it sleeps.
func (r *rehearsed) run(t *testing.T, tick func(now time.Time) (isOver bool)) {
	for _, ca := range []*acmetest.CA{r.ca, r.second} {
		if ca != nil {
			ca.SetClock(r.clock.Now)
		}
	}
	path := filepath.Join(r.dir, "maascert.yaml")
	a := testApp(world.OS{})
	a.now, a.reach, a.log, a.chat, a.listening = r.clock.Now, port80(strconv.Itoa(r.ca.HTTPPort)), slog.New(slog.DiscardHandler), []string{lookUp(t, "maascert"), "notify", chatCommand}, nil
	config, err := config.Load(path, a.types)
	require.NoError(t, err)
	d := &service{app: a, said: newRunLog(a.log), ctx: t.Context(), path: path, accept: maasconfig.Accept{}, board: newBoard(a.now)}
	d.use(a.assemble(config))
	defer d.close()
	ctx, stop := context.WithTimeout(t.Context(), runTime)
	defer stop()
	(&lifecycle.Daemon{
		Schedule: d, Now: r.clock.Now, Pass: d.pass, After: d.after, Passed: d.passed, Nap: time.Millisecond,
		Alive: func() {
			if tick(r.clock.add(time.Hour)) {
				stop()
			}
		},
	}).Run(ctx)
	require.NotErrorIs(t, ctx.Err(), context.DeadlineExceeded)
}

// deactivated is an account that somebody deactivated; another key makes another.
func deactivated(t *testing.T, r *rehearsed) fault {
	return fault{
		func() {
			store := certstore.NewOverlay(certstore.NewFileStore(world.OS{}, filepath.Join(r.dir, "state", "store")))
			account, _, err := certstore.LoadAccount(t.Context(), store)
			require.NoError(t, err)
			require.Len(t, account.Registrations, 1)
			for directory := range account.Registrations {
				client := acme.New(acme.Config{Directory: directory, Roots: acmetest.Pool(r.ca.DirectoryRoot()), Store: store})
				defer client.Close()
				changes, err := acme.Deactivate(t.Context(), store, []*acme.Client{client})
				require.NoError(t, err)
				require.NoError(t, changes[0].Err)
			}
		},
		func() {
			code, _, errs := inSite(t, r.site, world.OS{}, "account", "rollover")
			require.Zero(t, code, errs)
		},
	}
}

// Each path that a renewal takes is broken the day after one. A person hears of it within eight days, once, with what to do and how long is
// left, and once that it is over; nothing else is told.
func TestABrokenPathIsToldWithinEightDays(t *testing.T) {
	t.Parallel()
	const day = 24 * time.Hour
	for name, row := range map[string]struct {
		fault        func(t *testing.T, r *rehearsed) fault
		stage, error string
		elsewhere    bool // rehearsals issue at a CA for dry runs
	}{
		"the port is somebody else's": {func(t *testing.T, r *rehearsed) fault {
			var listener net.Listener
			return fault{
				func() {
					var err error
					listener, err = net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(r.ca.HTTPPort)))
					require.NoError(t, err)
				},
				func() { require.NoError(t, listener.Close()) },
			}
		}, "obtain", "address already in use", false},
		"a name leads nowhere": {func(t *testing.T, r *rehearsed) fault {
			return fault{
				func() { r.ca.DNS.Fail("region1.example.internal.", dns.RcodeNameError) },
				func() { r.ca.DNS.Fail("region1.example.internal.", dns.RcodeSuccess) },
			}
		}, "obtain", "region1.example.internal", false},
		"a name leads nowhere that the CA for dry runs had proven before": {func(t *testing.T, r *rehearsed) fault {
			return fault{
				func() { r.second.DNS.Fail("region1.example.internal.", dns.RcodeNameError) },
				func() { r.second.DNS.Fail("region1.example.internal.", dns.RcodeSuccess) },
			}
		}, "obtain", "region1.example.internal", true},
		"the account was deactivated":                                {deactivated, "obtain", "deactivated", false},
		"the account was deactivated and another CA cannot say that": {deactivated, "obtain", "deactivated", true},
		"the CA's own root changed": {func(t *testing.T, r *rehearsed) fault {
			authority, err := certtest.NewAuthority()
			require.NoError(t, err)
			bundle, err := authority.Issue(certstore.EC256, 0, day, "127.0.0.1")
			require.NoError(t, err)
			pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
			require.NoError(t, err)
			return fault{func() { r.gate.show(&tls.Config{Certificates: []tls.Certificate{pair}}) }, func() { r.gate.show(nil) }}
		}, "obtain", "certificate signed by unknown authority", false},
		"keys cannot be staged any more": {func(t *testing.T, r *rehearsed) fault {
			stage := filepath.Join(r.dir, "stage")
			return fault{func() { require.NoError(t, os.Chmod(stage, 0o777)) }, func() { require.NoError(t, os.Chmod(stage, 0o700)) }}
		}, "guard", "the stage is not safe", false},
		"the proxy's configuration fails its test": {func(t *testing.T, r *rehearsed) fault {
			broken := filepath.Join(r.dir, "broken")
			return fault{func() { require.NoError(t, os.WriteFile(broken, nil, 0o600)) }, func() { require.NoError(t, os.Remove(broken)) }}
		}, "guard", "no such option", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			r := startRehearsed(t, row.elsewhere)
			fault := row.fault(t, r)
			broken, told, healed := time.Time{}, time.Time{}, time.Time{}
			began := r.clock.Now()
			r.run(t, func(now time.Time) bool {
				kinds := r.kinds(t)
				switch {
				case broken.IsZero() && now.Sub(began) >= day:
					broken = now
					fault.breaks()
				case told.IsZero() && slices.Contains(kinds, "rehearsal_failed"):
					told = now
					event := r.last(t)
					require.Equal(t, row.stage, event.Stage)
					require.Contains(t, event.Error, row.error)
					require.NotEmpty(t, event.Hint)
					require.Greater(t, event.LeftSeconds, int64(70*day/time.Second))
					fault.mends()
				case healed.IsZero() && !told.IsZero() && slices.Contains(kinds, "recovered"):
					healed = now
				}
				return !healed.IsZero() && now.Sub(healed) > 3*day || now.Sub(began) > 30*day
			})
			require.Equal(t, []string{"rehearsal_failed", "recovered"}, r.kinds(t), "%v", r.told.Requests())
			require.LessOrEqual(t, told.Sub(broken), 8*day)
			require.LessOrEqual(t, healed.Sub(told), day)
			require.Len(t, r.ca.Issued(), 1, "nothing was issued for it")
			require.Len(t, r.maas.Calls(), 1, "MAAS was told nothing")
		})
	}
}
