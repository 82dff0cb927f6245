package acme_test

import (
	"context"
	"crypto/rand"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sync/errgroup"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/loopback"
)

// host is one of a fleet: it has an address of its own, and the store that all share.
type host struct {
	address netip.Addr
	fleet   *acme.Fleet
	solver  challenge.StandBy
	client  *acme.Client
}

// fleetOf is a CA and hosts that prove names in one way.
func fleetOf(t *testing.T, n int, kind string) (*acmetest.CA, []host) {
	t.Helper()
	ca := acmetest.New(t, acmetest.Options{})
	port := map[string]int{"http-01": ca.HTTPPort, "tls-alpn-01": ca.TLSPort}[kind]
	addresses, err := loopback.Hosts(n, port)
	require.NoError(t, err)
	store := certstore.NewOverlay(nil)
	var hosts []host
	for i, address := range addresses {
		h := host{address: address, fleet: &acme.Fleet{Store: store, Node: fmt.Sprintf("region%d", i+1), Now: time.Now}}
		listen := net.JoinHostPort(address.String(), strconv.Itoa(port))
		if h.solver = challenge.StandBy(&challenge.Responder{Address: listen, Fleet: h.fleet}); kind == "tls-alpn-01" {
			h.solver = &challenge.TLSResponder{Address: listen, Fleet: h.fleet}
		}
		h.client = client(t, ca, func(c *acme.Config) { c.Store, c.Solve = store, always(h.solver) })
		hosts = append(hosts, h)
	}
	return ca, hosts
}

// Whichever host the CA comes to, it finds the answers to whichever host's order.
func TestAnyHostAnswers(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"http-01", "tls-alpn-01"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ca, hosts := fleetOf(t, 3, kind)
			for _, h := range hosts {
				release, err := h.solver.StandBy()
				require.NoError(t, err)
				t.Cleanup(release)
			}
			for i, h := range hosts {
				for j, asked := range hosts {
					ca.DNS.Point(asked.address)
					_, err := h.client.Obtain(t.Context(), request(fmt.Sprintf("a%d%d.example", i, j), fmt.Sprintf("b%d%d.example", i, j)))
					require.NoError(t, err, "%s orders, %s is asked", h.fleet.Node, asked.fleet.Node)
				}
			}
			known, err := hosts[0].fleet.Known(t.Context())
			require.NoError(t, err)
			require.Empty(t, known.Published)
		})
	}
}

// Another run on a host whose daemon stands by uses the address that the daemon has.
func TestAnotherRunHasTheDaemonAnswer(t *testing.T) {
	t.Parallel()
	for _, kind := range []string{"http-01", "tls-alpn-01"} {
		t.Run(kind, func(t *testing.T) {
			t.Parallel()
			ca, hosts := fleetOf(t, 1, kind)
			daemon := hosts[0]
			release, err := daemon.solver.StandBy()
			require.NoError(t, err)
			ca.DNS.Point(daemon.address)
			another := challenge.Solver(&challenge.Responder{Address: net.JoinHostPort(daemon.address.String(), strconv.Itoa(ca.HTTPPort)), Fleet: daemon.fleet})
			if kind == "tls-alpn-01" {
				another = &challenge.TLSResponder{Address: net.JoinHostPort(daemon.address.String(), strconv.Itoa(ca.TLSPort)), Fleet: daemon.fleet}
			}
			run := client(t, ca, func(c *acme.Config) { c.Store, c.Solve = daemon.fleet.Store, always(another) })
			var group errgroup.Group
			for n, c := range []*acme.Client{run, daemon.client, run, daemon.client} {
				group.Go(func() error {
					_, err := c.Obtain(t.Context(), request(fmt.Sprintf("run%d.example", n)))
					return err
				})
			}
			require.NoError(t, group.Wait())
			release()
			for _, port := range []int{ca.HTTPPort, ca.TLSPort} {
				listener, err := net.Listen("tcp", net.JoinHostPort(daemon.address.String(), strconv.Itoa(port)))
				require.NoError(t, err, "nobody listens any more")
				require.NoError(t, listener.Close())
			}
		})
	}
}

// An order of another account than the fleet's is answered for as well: a rehearsal's before there is one, and the new key's in the middle of
// a rollover. That goes for the host that has the address, for another run on it, and for the hosts that the CA may come to instead.
func TestAnotherAccountIsAnsweredFor(t *testing.T) {
	t.Parallel()
	for name, hasAccount := range map[string]bool{"before there is one": false, "beside the fleet's": true} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ca, hosts := fleetOf(t, 2, "http-01")
			for _, h := range hosts {
				release, err := h.solver.StandBy()
				require.NoError(t, err)
				t.Cleanup(release)
			}
			if hasAccount {
				ca.DNS.Point(hosts[0].address)
				_, err := hosts[0].client.Obtain(t.Context(), request("first.example"))
				require.NoError(t, err)
			}
			run := &challenge.Responder{Address: net.JoinHostPort(hosts[0].address.String(), strconv.Itoa(ca.HTTPPort)), Fleet: hosts[0].fleet}
			for _, solver := range []challenge.Solver{hosts[0].solver, run} {
				another := client(t, ca, func(c *acme.Config) { c.Store, c.Solve = certstore.NewOverlay(nil), always(solver) })
				for _, asked := range hosts {
					ca.DNS.Point(asked.address)
					var group errgroup.Group
					for n, c := range []*acme.Client{another, hosts[0].client, another, hosts[1].client} {
						if n%2 == 1 && !hasAccount {
							continue // its order would make the fleet's account
						}
						group.Go(func() error {
							_, err := c.Obtain(t.Context(), request(strings.ToLower(rand.Text())+".example"))
							return err
						})
					}
					require.NoError(t, group.Wait(), "%s is asked", asked.fleet.Node)
				}
			}
			known, err := hosts[0].fleet.Known(t.Context())
			require.NoError(t, err)
			require.Empty(t, known.Published)
			require.Equal(t, hasAccount, known.Thumbprint != "")
		})
	}
}

// asking is a fleet that counts how often it is asked.
type asking struct {
	*acme.Fleet
	questions atomic.Int64
}

func (a *asking) Known(ctx context.Context) (challenge.Known, error) {
	a.questions.Add(1)
	return a.Fleet.Known(ctx)
}

// gone is a fleet whose store went away: it does not answer any more.
type gone struct {
	*acme.Fleet
	away atomic.Bool
}

func (h *gone) Known(ctx context.Context) (challenge.Known, error) {
	if h.away.Load() {
		<-ctx.Done()
		return challenge.Known{}, ctx.Err()
	}
	return challenge.Known{Thumbprint: challenge.Thumbprint(strings.Repeat("t", 43))}, nil
}

// While the store is away, challenges are answered with what was known last, and all of a CA's questions in time.
func TestAStoreThatIsAwayHoldsUpNoAnswer(t *testing.T) {
	t.Parallel()
	port, err := loopback.Port()
	require.NoError(t, err)
	address := net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	fleet := &gone{}
	release, err := (&challenge.Responder{Address: address, Fleet: fleet}).StandBy()
	require.NoError(t, err)
	t.Cleanup(release)
	ask := func(n int) error {
		resp, err := http.Get(fmt.Sprintf("http://%s%stoken%d", address, challenge.Path, n))
		if err != nil {
			return err
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if want := fmt.Sprintf("token%d.%s", n, strings.Repeat("t", 43)); err == nil && string(body) != want {
			return fmt.Errorf("it answers %q", body)
		}
		return err
	}
	require.NoError(t, ask(0))
	fleet.away.Store(true)
	var group errgroup.Group
	for n := range 12 {
		group.Go(func() error { return ask(n) })
	}
	require.NoError(t, group.Wait())
}

// Strangers do not choose how often the shared store is asked.
func TestStrangersDoNotAskTheStore(t *testing.T) {
	t.Parallel()
	at := func() string {
		port, err := loopback.Port()
		require.NoError(t, err)
		return net.JoinHostPort("127.0.0.1", strconv.Itoa(port))
	}
	plain, secured := at(), at()
	fleet := &asking{Fleet: &acme.Fleet{Store: certstore.NewOverlay(nil), Node: "region1", Now: time.Now}}
	for _, solver := range []challenge.StandBy{&challenge.Responder{Address: plain, Fleet: fleet}, &challenge.TLSResponder{Address: secured, Fleet: fleet}} {
		release, err := solver.StandBy()
		require.NoError(t, err)
		t.Cleanup(release)
	}
	began := time.Now()
	var group errgroup.Group
	group.SetLimit(20)
	for n := range 100 {
		group.Go(func() error {
			resp, err := http.Get("http://" + plain + challenge.Path + strconv.Itoa(n))
			if err != nil {
				return err
			}
			defer resp.Body.Close()
			if resp.StatusCode != http.StatusNotFound {
				return fmt.Errorf("it answers %s without an account", resp.Status)
			}
			conn, err := tls.Dial("tcp", secured, &tls.Config{ServerName: fmt.Sprintf("n%d.example", n), NextProtos: []string{"acme-tls/1"}, InsecureSkipVerify: true})
			if err == nil {
				conn.Close()
				return fmt.Errorf("it answers for n%d.example", n)
			}
			return nil
		})
	}
	require.NoError(t, group.Wait())
	most := 2 * (20 + 1 + 2*int64(time.Since(began).Seconds()+1))
	t.Logf("100 strangers at each: the store was asked %d times in %v", fleet.questions.Load(), time.Since(began).Round(time.Millisecond))
	require.LessOrEqual(t, fleet.questions.Load(), most)
}
