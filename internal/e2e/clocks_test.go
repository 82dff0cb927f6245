//go:build e2e

package e2e

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/acme/acmetest"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/internal/lifecycle"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// clockwork are the engines of three hosts in this process, whose clocks are five minutes apart, on one database.
type clockwork struct {
	*testing.T
	server  *postgrestest.Server
	ca      *acmetest.CA
	maas    *maastest.Deployment
	engines []*lifecycle.Engine
}

func newClockwork(t *testing.T) *clockwork {
	t.Helper()
	c := &clockwork{T: t, server: postgrestest.Start(t), ca: acmetest.New(t, acmetest.Options{Validity: 24 * time.Hour}), maas: maastest.New(t, maastest.Options{})}
	responder := &challenge.Responder{Address: net.JoinHostPort("127.0.0.1", strconv.Itoa(c.ca.HTTPPort))}
	wish := certstore.Wish{Names: []string{"maas.example.test", "other.example.test"}, KeyType: certstore.EC256, Directory: c.ca.Directory}
	for i, offset := range []time.Duration{0, 5 * time.Minute, -5 * time.Minute} {
		node := fmt.Sprintf("region%d", i+1)
		now := func() time.Time { return time.Now().Add(offset) }
		store, err := postgres.Open(postgres.Config{URL: c.server.URL(), Node: node})
		require.NoError(t, err)
		t.Cleanup(store.Close)
		client := acme.New(acme.Config{
			Directory: c.ca.Directory, Roots: acmetest.Pool(c.ca.DirectoryRoot()), IssuerRoots: acmetest.Pool(c.ca.Root(0)), AcceptTerms: true,
			Store: store, Resolvers: []string{c.ca.DNS.Address}, Now: now, Solve: func(string) challenge.Solver { return responder },
		})
		t.Cleanup(client.Close)
		trust := certstore.Trust{Roots: acmetest.Pool(c.ca.Root(0)), Now: now}
		installation := maasconfig.Installation{
			Kind: "snap", Version: maasconfig.Version{Major: 3, Minor: 7, Patch: 3}, Command: c.maas.Command, HTTPDir: c.maas.Regions[i].HTTPDir, StageDir: filepath.Join(t.TempDir(), "stage"),
		}
		target := maasconfig.New(maasconfig.Config{
			Name: "maas", Endpoints: c.maas.Endpoints(), ServerName: "maas.example.test", Trust: trust, Detect: func(context.Context) (maasconfig.Installation, error) { return installation, nil },
			Timeout: 20 * time.Second, VerifyTimeout: 10 * time.Second, Stages: []string{installation.StageDir}, FS: world.OS{}, Runner: world.Exec{}, Dial: new(net.Dialer).DialContext, UID: os.Geteuid(),
		})
		c.engines = append(c.engines, &lifecycle.Engine{
			Store: store, Node: node, Period: 12 * time.Hour, Started: now(), Now: now, Log: slog.New(slog.DiscardHandler),
			Revoke:       func(context.Context, certstore.Version, uint) error { return nil },
			Certificates: []lifecycle.Certificate{{Name: "maas", Wish: wish, Keep: 10, Trust: trust, Issuer: client, Targets: []maasconfig.Target{target}}},
		})
	}
	return c
}

// settle has the hosts make passes until each finds all as it should be, and returns how many rounds of them that took.
func (c *clockwork) settle() int {
	c.Helper()
	var last error
	for n := 1; n <= 30; n++ {
		well := true
		for _, engine := range c.engines {
			r := engine.Pass(c.Context(), lifecycle.Options{})[0]
			well = well && r.Healthy() && !r.Changed
			if err := r.Err(); err != nil {
				last = fmt.Errorf("%s: %w", engine.Node, err)
			}
		}
		if well {
			return n
		}
		time.Sleep(100 * time.Millisecond)
	}
	require.Fail(c, "the hosts do not agree", "%v", last)
	return 0
}

// Hosts whose clocks are five minutes apart either way work on one store, are cut off in the middle, lose their sessions: they come to one
// certificate, each renewal costs one order, and no key is lost.
func TestHostsWhoseClocksDiffer(t *testing.T) {
	c := newClockwork(t)
	enabling := c.engines[1].Pass(t.Context(), lifecycle.Options{Accept: maasconfig.Accept{maasconfig.FirstEnable: true}})[0]
	require.NoError(t, enabling.Err())
	c.settle()
	const rounds = 40
	random := rand.New(rand.NewPCG(uint64(number("MAASCERT_SOAK_SEED", 1)), 0))
	known := map[int]bool{}
	slowest := 0
	for round := range rounds {
		renewing := random.IntN(len(c.engines))
		after, cutOff, sessions := time.Duration(random.Int64N(int64(800*time.Millisecond))), random.IntN(2) == 0, random.IntN(4) == 0
		ctx, cut := context.WithCancel(t.Context())
		var group sync.WaitGroup
		for i, engine := range c.engines {
			group.Go(func() {
				if i == renewing {
					engine.Pass(ctx, lifecycle.Options{Force: true})
				} else {
					engine.Pass(t.Context(), lifecycle.Options{})
				}
			})
		}
		time.Sleep(after)
		if cutOff {
			cut()
		}
		if sessions {
			c.server.SQL("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'maascert'")
		}
		group.Wait()
		cut()
		slowest = max(slowest, c.settle())
		record, _, err := certstore.LoadRecord(t.Context(), c.engines[0].Store, "maas")
		require.NoError(t, err)
		require.Nil(t, record.Order)
		require.Nil(t, record.Attempt)
		for _, version := range record.Versions {
			known[version.Number] = true
		}
		require.Len(t, known, len(c.ca.Issued()), "round %d: the key of what was issued is lost; renewed by %s, cut off after %v: %t, sessions ended: %t\n%+v", round, c.engines[renewing].Node, after, cutOff, sessions, record.Attempts)
		for _, region := range c.maas.Regions {
			require.Equal(t, record.Current, record.Versions[certstore.Fingerprint(region.Serves(5443))].Number)
		}
	}
	t.Logf("%d rounds: %d orders, %d certificates issued, %d versions, %d calls of config-tls; at most %d rounds of passes until all agreed",
		rounds, c.ca.Orders(), len(c.ca.Issued()), len(known), len(c.maas.Calls()), slowest)
	require.LessOrEqual(t, c.ca.Orders(), rounds+1)
}
