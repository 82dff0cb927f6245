package lifecycle_test

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/robfig/cron/v3"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
	"maascert/maasconfig/maasapi"
	"maascert/maasconfig/maastest"
)

// pipes is a network of one host within the test's memory, so that time in it is the test's.
type pipes struct {
	waiting chan net.Conn
	closed  chan struct{}
}

func (p *pipes) Accept() (net.Conn, error) {
	select {
	case conn := <-p.waiting:
		return conn, nil
	case <-p.closed:
		return nil, net.ErrClosed
	}
}

func (p *pipes) Close() error {
	close(p.closed)
	return nil
}

func (p *pipes) Addr() net.Addr { return &net.TCPAddr{} }

func (p *pipes) dial(ctx context.Context, _, _ string) (net.Conn, error) {
	client, server := net.Pipe()
	select {
	case p.waiting <- server:
		return client, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// month is a deployment whose certificate follows MAAS's regions.
type month struct {
	t      *testing.T
	maas   *maastest.Database
	ca     *ca
	engine *lifecycle.Engine
	begun  time.Time
	orders []string

	mu sync.Mutex // one pass at a time, and none while something happens to the configuration
}

func (m *month) day() float64 { return time.Since(m.begun).Hours() / 24 }

// pass makes a pass, and notes the order that it made.
func (m *month) pass(ctx context.Context, options lifecycle.Options) []lifecycle.Result {
	m.mu.Lock()
	defer m.mu.Unlock()
	before := len(m.ca.issued)
	results := m.engine.Pass(ctx, options)
	if len(m.ca.issued) > before {
		names := certstore.CertificateNames(m.ca.issued[before].Leaf())
		m.orders = append(m.orders, fmt.Sprintf("day %4.1f %s: %s", m.day(), results[0].Before.Plan.Why, strings.Join(slices.Sorted(slices.Values(names)), " ")))
	}
	return results
}

func controller(n int, addresses ...string) maastest.Controller {
	c := maastest.Controller{SystemID: fmt.Sprint("id", n), Hostname: fmt.Sprint("region", n)}
	for _, address := range addresses {
		c.Addresses = append(c.Addresses, netip.MustParsePrefix(address+"/24"))
	}
	return c
}

// setKey gives maascert another key.
func (m *month) setKey(text string, dial func(context.Context, string, string) (net.Conn, error), reissue bool) {
	key, err := maasapi.ParseKey(text)
	require.NoError(m.t, err)
	client, err := maasapi.New(maasapi.Config{URL: maasapi.UsualURL, Key: func() (maasapi.Key, error) { return key, nil }, Dial: dial})
	require.NoError(m.t, err)
	m.mu.Lock()
	defer m.mu.Unlock()
	section := maasconfig.NamesSection{Regions: "both", Networks: []string{"10.0.0.0/24"}}
	section.Check(nil, nil)
	m.engine.Certificates[0].Namer = maasconfig.Names{Section: section, Regions: client}
	m.engine.Certificates[0].Wish.Rule = section.Rule()
	m.engine.Certificates[0].Reissue = reissue
}

// live lives a month: a daemon makes passes, and things happen at their moments.
func (m *month) live(days int, happen map[float64]func()) {
	schedule, err := cron.ParseStandard("@every 12h")
	require.NoError(m.t, err)
	ctx, cancel := context.WithCancel(m.t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		d := &lifecycle.Daemon{Schedule: schedule, Now: time.Now, Nap: time.Minute, Pass: func(ctx context.Context) []lifecycle.Result {
			return m.pass(ctx, lifecycle.Options{})
		}}
		d.Run(ctx)
	}()
	for hour := range days * 24 * 4 {
		at := float64(hour) / 24 / 4
		if f := happen[at]; f != nil {
			f()
		}
		time.Sleep(15 * time.Minute)
	}
	cancel()
	<-done
}

// A month of a deployment: regions come, go and commission themselves, the API is down for days, and keys are somebody's or nobody's.
// Orders are made for names where the configuration says so, and by time, and for nothing else.
func TestAMonthOfNamesFromMAAS(t *testing.T) {
	t.Parallel()
	for reissue, want := range map[bool][]string{
		true: {
			"day  0.0 missing: 10.0.0.1 10.0.0.2 maas.example region1.maas region2.maas",
			"day  2.5 names_changed: 10.0.0.1 10.0.0.2 maas.example region1.maas region2.maas region3.maas",
			"day  3.5 names_changed: 10.0.0.1 10.0.0.2 10.0.0.3 maas.example region1.maas region2.maas region3.maas",
			"day  8.6 names_changed: 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 maas.example region1.maas region2.maas region3.maas region4.maas",
			"day 21.9 lifetime: 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 maas.example region1.maas region2.maas region3.maas region4.maas",
			"day 25.0 names_changed: 10.0.0.1 10.0.0.3 10.0.0.4 maas.example region1.maas region3.maas region4.maas",
		},
		false: {
			"day  0.0 missing: 10.0.0.1 10.0.0.2 maas.example region1.maas region2.maas",
			"day 13.3 lifetime: 10.0.0.1 10.0.0.2 10.0.0.3 10.0.0.4 maas.example region1.maas region2.maas region3.maas region4.maas",
			"day 25.0 names_changed: 10.0.0.1 10.0.0.3 10.0.0.4 maas.example region1.maas region3.maas region4.maas",
		},
	} {
		t.Run(fmt.Sprintf("reissue %t", reissue), func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) { liveAMonth(t, reissue, want) })
		})
	}
}

func liveAMonth(t *testing.T, reissue bool, want []string) {
	network := &pipes{waiting: make(chan net.Conn), closed: make(chan struct{})}
	m := newMonth(t)
	server := &http.Server{Handler: m.maas.API()}
	served := make(chan struct{})
	go func() {
		defer close(served)
		_ = server.Serve(network) // which ends with the test
	}()
	key := func(text string) func() { return func() { m.setKey(text, network.dial, reissue) } }
	regions := func(all ...maastest.Controller) func() { return func() { m.maas.SetControllers(all...) } }
	one, two := controller(1, "10.0.0.1", "192.168.0.1"), controller(2, "10.0.0.2")
	three, four, five := controller(3, "10.0.0.3"), controller(4, "10.0.0.4"), controller(5, "10.0.0.5")
	key(m.maas.APIKey("admin", true))()
	regions(one, two)()
	m.live(30, map[float64]func(){
		2.25: regions(one, two, controller(3)), // it commissions itself
		3.25: regions(one, two, three),
		5:    m.outage(502),
		6:    m.outage(0),
		6.25: regions(one, two, three, four),
		7:    m.outage(500),
		8.25: func() { m.maas.InterceptAPI(nil) },
		10:   regions(one, three, four), // the second is gone
		11:   regions(),                 // somebody broke it
		12:   regions(one, three, four),
		12.5: key(m.maas.APIKey("somebody", false)),
		14:   m.maas.RevokeKeys,
		16:   func() { key(m.maas.APIKey("admin", true))() },
		17:   regions(one, three, controller(4)), // it commissions itself anew
		18:   regions(one, three, four),
		19.25: func() { // a guest of some minutes is there when a person looks, and when nobody does any more
			regions(one, three, four, five)()
			m.pass(t.Context(), lifecycle.Options{ByHand: true})
			regions(one, three, four)()
		},
		25: func() { // a person takes the second one out
			results := m.pass(t.Context(), lifecycle.Options{ByHand: true, Accept: maasconfig.Accept{maasconfig.NamesLost: true}})
			require.NoError(t, results[0].Err())
		},
	})
	require.NoError(t, server.Close())
	<-served
	for _, order := range m.orders {
		t.Log(order)
	}
	require.Equal(t, want, m.orders)
}

// newMonth is a deployment without regions or a key for its API.
func newMonth(t *testing.T) *month {
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	e := &effects{}
	m := &month{t: t, maas: maastest.NewDatabase(maasconfig.Version{Major: 3, Minor: 7, Patch: 3}), ca: newCA(t, e, 20*day), begun: time.Now()}
	m.ca.root = authority
	own := wish
	own.Names = []string{"maas.example"}
	m.engine = &lifecycle.Engine{
		Store: newMemory(e), Node: "region1", Now: time.Now, Log: slog.New(slog.DiscardHandler), Period: 12 * time.Hour,
		Certificates: []lifecycle.Certificate{{
			Name: "maas", Wish: own, Keep: 3, Trust: certstore.Trust{Roots: authority.Pool()}, Issuer: m.ca, Targets: []maasconfig.Target{newPlace(e, "region1:5443")}, Means: "m",
		}},
	}
	return m
}

// outage has the API answer with a status, or hang for 0.
func (m *month) outage(status int) func() {
	return func() {
		m.maas.InterceptAPI(func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			if status == 0 {
				<-r.Context().Done()
				return
			}
			w.WriteHeader(status)
		})
	}
}
