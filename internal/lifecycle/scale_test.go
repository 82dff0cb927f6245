package lifecycle

import (
	"crypto/x509"
	"fmt"
	"math/rand/v2"
	"os"
	"runtime"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/maasconfig"
)

// storm is what happens to one CA that many deployments use: each of them lives by itself, with Decide's own code and its own clock, and the
// CA counts the orders of each minute.
type storm struct {
	name      string
	lifetime  time.Duration
	installed time.Duration                                                                                  // within which all were, at the beginning
	ends      time.Duration                                                                                  // of the story
	window    func(w *storm, leaf *x509.Certificate, now time.Duration) (start, end time.Duration, has bool) // that the CA suggests
	outage    [2]time.Duration                                                                               // while which the CA cannot be reached
	measured  [2]time.Duration                                                                               // when the orders are looked at
	most      float64                                                                                        // peak against mean

	epoch     time.Time
	authority *certtest.Authority
	orders    []atomic.Int64 // by minute
	late      atomic.Int64   // deployments that served an expired certificate
}

const askAgain = 6 * time.Hour // a CA's usual word for how long its suggestion is good

func (w *storm) at(since time.Duration) time.Time { return w.epoch.Add(since) }

// deployment is one of many.
type deployment struct {
	*storm
	node    string
	random  *rand.Rand
	state   State
	pass    *pass
	started time.Duration
}

// live lets a deployment live to the end of the story.
func (w *storm) live(t *testing.T, number int) {
	random := rand.New(rand.NewPCG(uint64(number), 1))
	d := &deployment{storm: w, node: fmt.Sprintf("host%d", number), random: random, started: time.Duration(random.Int64N(int64(w.installed)))}
	d.state = State{Node: d.node, Wish: certstore.Wish{Names: []string{"maas.example"}, KeyType: certstore.EC256, Directory: "https://ca.example/dir"}, Period: 12 * time.Hour}
	d.pass = &pass{Engine: &Engine{Node: d.node, Now: func() time.Time { return d.state.Now }}, cert: Certificate{Name: "maas"}}
	for now := d.started; now < w.ends; {
		d.look(t, now)
		plan := Decide(d.state)
		for plan.Obtain {
			d.order(t, now)
			d.look(t, now)
			plan = Decide(d.state)
			if !plan.Obtain && len(plan.Deploy) == 0 {
				break
			}
		}
		if current := d.state.Current; current != nil && !current.Bundle.Leaf().NotAfter.After(d.state.Now) {
			w.late.Add(1)
			return
		}
		now = d.next(now, plan)
	}
}

// next is when the deployment looks again: when its plan says, or its schedule.
func (d *deployment) next(now time.Duration, plan Plan) time.Duration {
	const schedule = 12 * time.Hour
	next := now + schedule - (now-d.started)%schedule
	if at := plan.Next; !at.IsZero() {
		next = min(next, at.Sub(d.epoch))
	}
	return max(next, now+time.Second)
}

func (d *deployment) look(t *testing.T, now time.Duration) {
	s := &d.state
	s.Now = d.at(now)
	if s.Current == nil {
		return
	}
	leaf := s.Current.Bundle.Leaf()
	isAway := now >= d.outage[0] && now < d.outage[1]
	if d.window == nil || s.Window != nil && (s.Window.AskAgain.After(s.Now) || isAway) {
		return
	}
	s.Window = nil
	if start, end, has := d.window(d.storm, leaf, now); has && !isAway {
		window, err := acme.NewWindow(leaf, d.at(start), d.at(end))
		require.NoError(t, err)
		window.Asked, window.AskAgain = s.Now, s.Now.Add(askAgain)
		s.Window = &window
	}
}

// order asks the CA for another certificate.
func (d *deployment) order(t *testing.T, now time.Duration) {
	s := &d.state
	if now >= d.outage[0] && now < d.outage[1] {
		d.pass.result.Before.State = *s
		d.pass.countFailure(&s.Record, time.Time{}, false)
		return
	}
	d.orders[int(now/time.Minute)].Add(1)
	bundle, err := d.authority.Issue(certstore.EC256, time.Since(s.Now), d.lifetime, "maas.example")
	require.NoError(t, err)
	number := s.Record.Current + 1
	wish := s.Wish
	s.Current = &certstore.Version{Number: number, Origin: certstore.FromACME, Created: s.Now, Directory: wish.Directory, Bundle: bundle}
	s.Known = map[string]certstore.VersionInfo{bundle.Fingerprint(): {Number: number, NotBefore: bundle.Leaf().NotBefore, NotAfter: bundle.Leaf().NotAfter}}
	s.Record = certstore.Record{
		Current: number, Wish: &wish, WishHash: wish.Hash(), WishByHost: map[string]string{d.node: wish.Hash()},
		Deployments: map[string]certstore.Deployment{"maas": {Verified: number, Version: number, Port: 5443}},
	}
	served := maasconfig.Served{Address: "10.0.0.11:5443", State: maasconfig.Match, Certs: []*x509.Certificate{bundle.Leaf()}}
	s.Targets = []TargetState{{Name: "maas", Endpoints: []maasconfig.Endpoint{{Served: served, State: maasconfig.Match, Chain: maasconfig.Complete}}}}
	s.Window = nil
}

// peakAndMean are of the orders a minute, in spans of so many minutes that there is more in each than chance.
func (w *storm) peakAndMean() (peak, mean float64, span int) {
	from, to := int(w.measured[0]/time.Minute), int(w.measured[1]/time.Minute)
	total := 0.0
	for minute := from; minute < to; minute++ {
		total += float64(w.orders[minute].Load())
	}
	mean = total / float64(to-from)
	for span = 1; float64(span)*mean < leastInSpan; span++ {
	}
	for begin := from; begin+span <= to; begin++ {
		n := 0.0
		for minute := begin; minute < begin+span; minute++ {
			n += float64(w.orders[minute].Load())
		}
		peak = max(peak, n/float64(span))
	}
	return peak, mean, span
}

// leastInSpan is how many orders are expected in a span: of fewer, some spans have twice as many by chance.
const leastInSpan = 50

// Many deployments on one CA come at no moment all together: not when the CA's windows come, not after an outage, and not when the CA wants
// all certificates replaced. SCALE_DEPLOYMENTS says how many they are.
func TestScale(t *testing.T) {
	deployments := 500
	if n, err := strconv.Atoi(os.Getenv("SCALE_DEPLOYMENTS")); err == nil {
		deployments = n
	}
	const day, hour = 24 * time.Hour, time.Hour
	// A window of two days, where a third of the lifetime is left.
	usual := func(w *storm, leaf *x509.Certificate, _ time.Duration) (start, end time.Duration, has bool) {
		due := leaf.NotBefore.Add(w.lifetime * 2 / 3).Sub(w.epoch)
		return due - day, due + day, true
	}
	storms := []*storm{
		{
			name: "90 days, all installed within an hour: the windows of two days", lifetime: 90 * day, installed: hour, ends: 63 * day, window: usual,
			measured: [2]time.Duration{59 * day, 61 * day}, most: 2,
		},
		{
			name: "24 hours, no windows: an ordinary day", lifetime: day, installed: 12 * hour, ends: 3 * day, measured: [2]time.Duration{day, 3 * day}, most: 2,
		},
		{
			name: "24 hours, no windows: after an outage of six hours", lifetime: day, installed: 12 * hour, ends: 2 * day,
			outage: [2]time.Duration{30 * hour, 36 * hour}, measured: [2]time.Duration{36 * hour, 36*hour + 72*time.Minute}, most: 3,
		},
		{
			name: "90 days: all revoked at one moment", lifetime: 90 * day, installed: 10 * day, ends: 21 * day,
			window: func(w *storm, leaf *x509.Certificate, now time.Duration) (start, end time.Duration, has bool) {
				if now >= 20*day && leaf.NotBefore.Before(w.at(20*day)) {
					return 19 * day, 20 * day, true
				}
				return usual(w, leaf, now)
			},
			measured: [2]time.Duration{20 * day, 20*day + askAgain}, most: 2,
		},
	}
	t.Logf("%d deployments; orders a minute at their one CA", deployments)
	for _, w := range storms {
		authority, err := certtest.NewAuthority()
		require.NoError(t, err)
		w.authority, w.epoch, w.orders = authority, time.Now().Truncate(time.Second), make([]atomic.Int64, w.ends/time.Minute+1)
		var group sync.WaitGroup
		next := atomic.Int64{}
		for range runtime.GOMAXPROCS(0) {
			group.Go(func() {
				for number := next.Add(1); number <= int64(deployments); number = next.Add(1) {
					w.live(t, int(number))
				}
			})
		}
		group.Wait()
		peak, mean, span := w.peakAndMean()
		t.Logf("%-66s mean %7.1f  peak %7.1f in %3d minutes: %.2f times the mean (at most %.0f); expired: %d", w.name, mean, peak, span, peak/mean, w.most, w.late.Load())
		require.Zero(t, w.late.Load())
		require.LessOrEqual(t, peak/mean, w.most, w.name)
	}
}
