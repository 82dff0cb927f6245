package lifecycle_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
	"maascert/notify"
)

// situation is what a pass found, built step by step.
type situation struct {
	*world
	about  lifecycle.Tellable
	moved  time.Duration // since the story began
	daemon bool          // nobody looks on

	current *certstore.Version // in the store
}

func (w *world) situation(age, lifetime time.Duration) *situation {
	s := &situation{world: w}
	s.about = lifecycle.Tellable{
		Node: "region1", Silence: lifecycle.Silence{Timer: day, Daemon: day}, Hosts: true, Cert: lifecycle.Certificate{Name: "maas", Wish: wish, Targets: []maasconfig.Target{newPlace(new(effects))}},
		Channels: []notify.Channel{{Name: "all", Kinds: []notify.Kind{notify.All}}, {Name: "usual"}, {Name: "end", Kinds: []notify.Kind{notify.Expiring}}},
	}
	s.view().State = w.state(age, lifetime)
	return s
}

func (s *situation) view() *lifecycle.View { return &s.about.Result.After }

// well is a pass that found everything as it should be.
func (s *situation) well() {
	state := s.view().State
	if state.Current == nil { // the store could not be read before
		state.Current = s.current
	}
	s.current = state.Current
	state.Targets = []lifecycle.TargetState{{Name: "maas", Endpoints: []maasconfig.Endpoint{s.serves("a:5443", state.Current.Bundle, state.Current.Bundle)}}}
	s.about.Result = lifecycle.Result{Name: "maas", After: lifecycle.View{State: state}}
	s.about.Result.Before.State.ByHand = !s.daemon
}

func (s *situation) fails(target string, stage lifecycle.Stage, words string) {
	s.about.Result.Troubles = append(s.about.Result.Troubles, lifecycle.Trouble{Target: target, Stage: stage, Err: hint.Add(errors.New(words), "mend it")})
}

// tell is what is told after a pass, as "kind topic: channels".
func (s *situation) tell() []string {
	s.about.Now = s.now.Add(s.moved)
	view := s.view()
	view.State.Now = s.about.Now
	if !view.Blind {
		view.Plan = lifecycle.Decide(view.State)
		view.Summary = lifecycle.Summary("maas", view.State, view.Plan)
	}
	letters, told, again := lifecycle.Tell(s.about)
	require.True(s.t, again.IsZero() || again.After(s.about.Now))
	s.about.Told = told
	words := []string{}
	for _, letter := range letters {
		repeat := ""
		if letter.Event.Repeat {
			repeat = "still "
		}
		words = append(words, fmt.Sprintf("%s%s %s: %s", repeat, letter.Event.Kind, letter.Event.Topic, strings.Join(letter.To, " ")))
	}
	return words
}

// step of a story: so much time passes, a pass finds something, and something is told.
type step struct {
	after time.Duration
	found func(s *situation)
	told  []string
}

func well(*situation) {}

func orderFails(s *situation) { s.fails("", lifecycle.StageObtain, "the CA says no") }

func storeAway(s *situation) {
	current := s.view().State.Current.Bundle.Leaf()
	s.view().Blind = true
	s.view().State.Latest = certstore.Seen{Version: 1, Fingerprint: certstore.Fingerprint(current), NotBefore: current.NotBefore, NotAfter: current.NotAfter}
	s.view().State.Current, s.about.Result.Before.State.ByHand = nil, false
	s.fails("", lifecycle.StageLook, "input/output error")
}

func regionDown(s *situation) {
	s.view().State.Targets[0].Endpoints = []maasconfig.Endpoint{unknown("a:5443")}
}

func regionDrifted(s *situation) {
	s.view().State.Targets[0].Endpoints = []maasconfig.Endpoint{s.serves("a:5443", s.bundle(day, 90*day), s.view().State.Current.Bundle)}
}

func caAway(s *situation) {
	s.about.Result.Troubles = append(s.about.Result.Troubles, lifecycle.Trouble{Stage: lifecycle.StageObtain, Err: outage()})
}

func rehearsed(change func(*certstore.Rehearsal)) func(*situation) {
	return func(s *situation) {
		r := certstore.Rehearsal{At: s.now, Stage: "obtain", Error: "the port is closed"}
		change(&r)
		s.view().State.Record.Rehearsal = &r
	}
}

func TestTell(t *testing.T) {
	t.Parallel()
	const everybody = ": all usual"
	for name, story := range map[string]struct {
		age   time.Duration // of a certificate of 90 days
		steps []step
	}{
		"a CA that is away for a moment is nobody's news": {day, []step{
			{0, func(s *situation) { s.daemon = true; s.well(); caAway(s) }, nil},
			{30 * time.Second, well, nil},
			{day, caAway, nil},
			{time.Minute, caAway, []string{"failed certificate" + everybody}},
			{time.Minute, well, []string{"recovered certificate" + everybody}},
		}},
		"a region that restarts is nobody's news": {day, []step{
			{0, func(s *situation) { s.daemon = true; s.well(); regionDown(s) }, nil},
			{time.Minute, regionDown, nil},
			{3 * time.Minute, well, nil},
			{day, regionDown, nil},
			{5 * time.Minute, regionDown, []string{"degraded target/maas" + everybody}},
		}},
		"but it is as the end comes near": {80 * day, []step{
			{0, func(s *situation) { s.daemon = true; s.well(); regionDown(s) }, []string{"degraded target/maas" + everybody, "expiring expiry: all usual end"}},
		}},
		"what a person has to decide at the terminal is told to nobody else": {day, []step{
			{0, func(s *situation) {
				s.about.Result.Troubles = []lifecycle.Trouble{{Target: "maas", Stage: lifecycle.StageGuard, Err: &maasconfig.Refusal{IsFirst: true}}}
				s.view().State.Targets[0].Endpoints = []maasconfig.Endpoint{refused("a:5443")}
			}, nil},
		}},
		"a configuration that is not in force is told, and that it is": {day, []step{
			{0, func(s *situation) { s.about.Here = &lifecycle.Here{Config: errors.New("line 3: unknown key")} }, []string{"failed config/region1" + everybody}},
			{time.Minute, func(s *situation) { s.about.Here = nil }, nil},
			{time.Minute, func(s *situation) { s.about.Here = &lifecycle.Here{} }, []string{"recovered config/region1" + everybody}},
		}},
		"a notifier that cannot be told is told through the others": {day, []step{
			{0, func(s *situation) {
				s.about.Here = &lifecycle.Here{Silent: map[string]error{"ops": errors.New("it answers 403")}}
			}, []string{"failed notifier/region1/ops" + everybody}},
			{time.Minute, func(s *situation) { s.about.Here = &lifecycle.Here{} }, []string{"recovered notifier/region1/ops" + everybody}},
		}},
		"that a renewal is well again is not told once more of what it ends as well": {30 * day, []step{
			{0, rehearsed(func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true }), []string{"rehearsal_failed rehearsal" + everybody}},
			{31 * day, orderFails, []string{"failed certificate" + everybody}},
			{day, rehearsed(func(*certstore.Rehearsal) {}), []string{"recovered certificate" + everybody}},
		}},
		"where nothing is wrong nothing is told": {day, []step{{0, well, nil}, {day, well, nil}}},
		"a failure is told once, and once that it is over": {day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{time.Minute, orderFails, nil},
			{day, orderFails, nil},
			{day, well, []string{"recovered certificate" + everybody}},
			{day, well, nil},
		}},
		"a failure is told again when another stage fails": {day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{time.Minute, func(s *situation) { s.fails("", lifecycle.StageSave, "no room") }, []string{"failed certificate" + everybody}},
		}},
		"other words of the same failure are no news": {day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{time.Minute, func(s *situation) { s.fails("", lifecycle.StageObtain, "the CA says no, at 10:00:01") }, nil},
		}},
		"what lasts is told again when a sixth, a twelfth and nothing is left, and to nobody else that it ends": {61 * day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{13 * day, orderFails, nil},
			{day + time.Hour, orderFails, []string{"still failed certificate" + everybody, "expiring expiry: end"}},
			{6 * day, orderFails, nil},
			{2 * day, orderFails, []string{"still failed certificate" + everybody, "still expiring expiry: end"}},
			{6 * day, orderFails, nil},
			{day, orderFails, []string{"still failed certificate" + everybody, "still expiring expiry: end"}},
			{day, orderFails, nil},
		}},
		"that it ends is told where nothing else says so": {76 * day, []step{
			{0, well, []string{"expiring expiry: all usual end"}},
			{day, well, nil},
			{6 * day, well, []string{"still expiring expiry: all usual end"}},
			{0, func(s *situation) {
				renewed := s.state(0, 90*day)
				s.view().State.Current = renewed.Current
				s.view().State.Targets = renewed.Targets
				s.view().State.Known = renewed.Known
			}, []string{"recovered expiry" + everybody}},
		}},
		"that another run is at work is no trouble, and nothing is over by it": {day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{time.Minute, func(s *situation) {
				s.about.Result.Troubles = []lifecycle.Trouble{{Stage: lifecycle.StageLock, NotNow: true, Err: errors.New("another run")}}
			}, nil},
		}},
		"what waits for its time is as wrong as before": {day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{time.Minute, func(s *situation) {
				s.about.Result.Troubles = []lifecycle.Trouble{{Stage: lifecycle.StageObtain, NotNow: true, Err: errors.New("not before noon")}}
			}, nil},
		}},
		"while the store cannot be read nothing is over": {day, []step{
			{0, regionDown, []string{"degraded target/maas" + everybody}},
			{time.Minute, storeAway, nil},
			{5 * time.Minute, storeAway, []string{"failed certificate" + everybody}},
			{time.Minute, well, []string{"recovered certificate" + everybody, "recovered target/maas" + everybody}},
		}},
		"a database that restarts is not told of": {day, []step{
			{0, storeAway, nil},
			{4 * time.Minute, well, nil},
			{time.Hour, storeAway, nil},
		}},
		"in the last tenth a store that cannot be read is told of once more": {80 * day, []step{
			{0, storeAway, nil},
			{time.Hour, storeAway, []string{"failed certificate" + everybody}},
			{25 * time.Hour, storeAway, []string{"still failed certificate" + everybody, "expiring expiry: end"}},
			{12 * time.Hour, storeAway, nil},
			{9 * day, storeAway, []string{"still failed certificate" + everybody, "still expiring expiry: end"}},
			{time.Hour, storeAway, nil},
		}},
		"a region that does not answer is degraded, one that serves something else is drift": {day, []step{
			{0, regionDown, []string{"degraded target/maas" + everybody}},
			{time.Hour, regionDrifted, []string{"drift target/maas" + everybody}},
			{time.Hour, well, []string{"recovered target/maas" + everybody}},
		}},
		"a target that refuses is a failure": {day, []step{
			{0, func(s *situation) { s.fails("maas", lifecycle.StageGuard, "no port") }, []string{"failed target/maas" + everybody}},
		}},
		"an order that fails hides no region that is down": {day, []step{
			{0, func(s *situation) { orderFails(s); regionDown(s) }, []string{"failed certificate" + everybody, "degraded target/maas" + everybody}},
			{time.Minute, regionDown, []string{"recovered certificate" + everybody}},
		}},
		"what another host told is over when that host says so, or is silent": {day, []step{
			{0, func(s *situation) { s.about.Node = "region2"; regionDown(s) }, []string{"degraded target/maas" + everybody}},
			{time.Minute, func(s *situation) {
				s.about.Node = "region1"
				s.view().State.Nodes = []certstore.Node{{Node: "region2", LastPass: s.now}}
			}, nil},
			{2 * day, func(s *situation) {
				s.view().State.Nodes = []certstore.Node{{Node: "region2", LastPass: s.now}}
			}, []string{"recovered target/maas" + everybody}},
		}},
		"a rehearsal that failed once is not told": {day, []step{
			{0, rehearsed(func(r *certstore.Rehearsal) { r.Failed = r.At }), nil},
			{time.Hour, rehearsed(func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true }), []string{"rehearsal_failed rehearsal" + everybody}},
			{day, rehearsed(func(r *certstore.Rehearsal) { r.Failed, r.Proven, r.Skipped = r.At, true, r.At }), nil},
			{day, rehearsed(func(*certstore.Rehearsal) {}), []string{"recovered rehearsal" + everybody}},
		}},
		"a rehearsal that cannot be made is told to whoever wants to know": {day, []step{
			{0, rehearsed(func(r *certstore.Rehearsal) { r.Skipped = r.At }), []string{"rehearsal_skipped rehearsal: all"}},
			{day, rehearsed(func(r *certstore.Rehearsal) { r.Skipped, r.Failed = r.At, r.At }), nil},
			{day, rehearsed(func(*certstore.Rehearsal) {}), []string{"recovered rehearsal: all"}},
		}},
		"a silent host is told, and that it is back": {day, []step{
			{0, func(s *situation) {
				s.view().State.Nodes = []certstore.Node{{Node: "region2", LastRun: s.now.Add(-25 * time.Hour), LastPass: s.now}, {Node: "region1", LastPass: s.now}}
			}, []string{"silent host/region2" + everybody}},
			{day, func(s *situation) {
				s.view().State.NodesUnknown = true
			}, nil},
			{day, func(s *situation) {
				s.view().State.NodesUnknown = false
				s.view().State.Nodes = []certstore.Node{{Node: "region2", LastRun: s.now.Add(2 * day), LastPass: s.now.Add(2 * day)}}
			}, []string{"recovered host/region2" + everybody}},
		}},
		"this host under a former name is not silent": {day, []step{
			{0, func(s *situation) {
				s.view().State.Nodes = []certstore.Node{{Node: "old", MachineID: "m", LastRun: s.now.Add(-25 * time.Hour), LastPass: s.now}, {Node: "region1", MachineID: "m", LastPass: s.now}}
			}, nil},
		}},
		"what a pass did is told to whoever wants to know, and what it put right": {day, []step{
			{0, func(s *situation) {
				s.about.Result.Obtained, s.about.Result.Deployed, s.about.Result.Revoked = true, map[string]bool{"maas": true}, []int{2}
			}, []string{"obtained obtained: all", "deployed deployed/maas: all", "revoked revoked" + everybody}},
			{day, func(s *situation) {
				s.about.Result.Before = *s.view()
				s.about.Result.Before.State.Targets = []lifecycle.TargetState{{Name: "maas", Endpoints: []maasconfig.Endpoint{s.serves("a:5443", s.bundle(day, 90*day), s.view().State.Current.Bundle)}}}
				s.about.Result.Deployed = map[string]bool{"maas": true}
			}, []string{"deployed deployed/maas: all", "drift mended/maas" + everybody}},
			{time.Minute, well, nil},
		}},
		"who heard of it as a failure hears that it is over, whatever it became": {day, []step{
			{0, func(s *situation) {
				s.about.Channels = append(s.about.Channels, notify.Channel{Name: "ops", Kinds: []notify.Kind{notify.Failed, notify.Recovered}})
				s.fails("maas", lifecycle.StageDeploy, "it does not take it")
			}, []string{"failed target/maas: all usual ops"}},
			{time.Minute, regionDown, []string{"degraded target/maas" + everybody}},
			{time.Minute, well, []string{"recovered target/maas: all usual ops"}},
		}},
		"a guard that was not asked again still refuses": {day, []step{
			{0, func(s *situation) { s.fails("maas", lifecycle.StageGuard, "no port"); orderFails(s) }, []string{"failed certificate" + everybody, "failed target/maas" + everybody}},
			{time.Minute, func(s *situation) {
				s.about.Result.Troubles = []lifecycle.Trouble{{Stage: lifecycle.StageObtain, NotNow: true, Err: errors.New("not before noon")}}
			}, nil},
			{time.Minute, func(s *situation) {
				orderFails(s)
				s.about.Result.Deployed = map[string]bool{"maas": true}
			}, []string{"deployed deployed/maas: all", "recovered target/maas" + everybody}},
		}},
		"an order that a person forced and that was not due is the person's affair": {day, []step{
			{0, func(s *situation) {
				s.about.Result.Before = *s.view()
				s.about.Result.Before.Plan.Why = lifecycle.Forced
				orderFails(s)
			}, nil},
			{day, well, nil},
		}},
		"a host that left is not well again": {day, []step{
			{0, func(s *situation) {
				s.view().State.Nodes = []certstore.Node{{Node: "region2", LastRun: s.now.Add(-25 * time.Hour), LastPass: s.now}}
			}, []string{"silent host/region2" + everybody}},
			{day, func(s *situation) { s.view().State.Nodes = nil }, nil},
		}},
		"a certificate that cannot be read any more has not stopped to end": {84 * day, []step{
			{0, well, []string{"expiring expiry: all usual end"}},
			{day, func(s *situation) { s.view().State.Current = nil }, nil},
		}},
		"a rehearsal that fails is not told again when the renewal itself is due": {30 * day, []step{
			{0, rehearsed(func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true }), []string{"rehearsal_failed rehearsal" + everybody}},
			{46 * day, rehearsed(func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true }), []string{"expiring expiry: all usual end"}},
			{8 * day, rehearsed(func(r *certstore.Rehearsal) { r.Failed, r.Proven = r.At, true }), []string{"still expiring expiry: all usual end"}},
		}},
		"a clock that was ahead mutes nothing": {day, []step{
			{0, regionDown, []string{"degraded target/maas" + everybody}},
			{time.Minute, well, []string{"recovered target/maas" + everybody}},
			{time.Minute, regionDown, []string{"degraded target/maas" + everybody}},
			{20 * day, well, []string{"recovered target/maas" + everybody}},
			{-20 * day, regionDown, []string{"degraded target/maas" + everybody}},
		}},
		"a channel that is new hears of what lasts": {day, []step{
			{0, orderFails, []string{"failed certificate" + everybody}},
			{time.Minute, func(s *situation) {
				orderFails(s)
				s.about.Channels = append(s.about.Channels, notify.Channel{Name: "new"})
			}, []string{"failed certificate: new"}},
			{time.Minute, orderFails, nil},
			{time.Minute, well, []string{"recovered certificate: all usual new"}},
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newWorld(t).situation(story.age, 90*day)
			for i, step := range story.steps {
				s.moved += step.after
				s.well()
				step.found(s)
				want := step.told
				if want == nil {
					want = []string{}
				}
				require.Equal(t, want, s.tell(), "step %d", i+1)
			}
		})
	}
}

// Whoever stands before an endpoint can have it come and go all the time.
func TestWhatComesAndGoesIsToldSeldom(t *testing.T) {
	t.Parallel()
	s := newWorld(t).situation(day, 90*day)
	told, last := 0, ""
	tell := func() {
		for _, words := range s.tell() {
			told, last = told+1, words
		}
	}
	for minute := range 24 * 60 {
		s.moved = time.Duration(minute) * time.Minute
		s.well()
		if minute%2 == 0 {
			regionDown(s)
		}
		tell()
	}
	require.LessOrEqual(t, told, 12)
	require.GreaterOrEqual(t, told, 4)
	for range 10 {
		s.moved += time.Hour
		s.well()
		tell()
	}
	require.Equal(t, "recovered target/maas: all usual", last, "when it is over for good, that is told")
}

// heard is a channel that keeps what it was told.
type heard struct {
	mu    sync.Mutex
	kinds []string
	ids   []string
	fail  error
}

func (h *heard) Notify(_ context.Context, event notify.Event) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.fail != nil {
		return h.fail
	}
	h.kinds, h.ids = append(h.kinds, string(event.Kind)), append(h.ids, event.ID)
	return nil
}

func (h *heard) take() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	kinds := h.kinds
	h.kinds = nil
	return kinds
}

// file is the memory of a host.
type file struct{ text []byte }

func (f *file) Load() []byte           { return f.text }
func (f *file) Save(text []byte) error { f.text = slices.Clone(text); return nil }

// tellers is an engine whose passes are told of.
type tellers struct {
	*lifecycle.Engine
	store  *memory
	issuer *ca
	now    time.Time
	failed bool // the last order
}

func newTellers(t *testing.T) *tellers {
	e := new(effects)
	store := newMemory(e)
	s := &tellers{store: store, issuer: newCA(t, e, 90*day), now: time.Now()}
	s.Engine = engine(e, store, s.issuer, newPlace(e, "a"))
	return s
}

func (s *tellers) teller(memory lifecycle.Memory, channels ...notify.Channel) *lifecycle.Teller {
	return &lifecycle.Teller{Channels: channels, Store: s.store, Memory: memory, Node: "region1", Period: (day - lifecycle.PassTime) / 2, Now: func() time.Time { return s.now }, Log: slog.New(slog.DiscardHandler)}
}

func (s *tellers) pass(t *testing.T, teller *lifecycle.Teller) ([]lifecycle.Telling, time.Time) {
	t.Helper()
	results := s.Pass(t.Context(), lifecycle.Options{Force: s.failed || s.issuer.fail != nil})
	s.failed = s.issuer.fail != nil
	return teller.Tell(t.Context(), s.Certificates, results)
}

func TestOneChannelsFailureStopsNoOther(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	good, bad := &heard{}, &heard{fail: &notify.Refusal{Err: errors.New("it answers 403")}}
	teller := s.teller(&file{}, notify.Channel{Name: "good", Notifier: good}, notify.Channel{Name: "bad", Notifier: bad})
	s.issuer.fail = errors.New("the CA says no")
	tellings, again := s.pass(t, teller)
	require.Equal(t, []string{"failed"}, good.take())
	require.Len(t, tellings, 2)
	require.NoError(t, tellings[0].Err)
	require.ErrorContains(t, tellings[1].Err, "403")
	require.Equal(t, time.Minute, again.Sub(s.now), "what was not taken is told again soon")

	bad.fail = nil
	s.now = again
	_, again = s.pass(t, teller)
	require.Empty(t, good.take(), "who was told is not told twice")
	require.Equal(t, []string{"failed"}, bad.take())
	require.True(t, again.IsZero())

	s.issuer.fail = nil
	s.pass(t, teller)
	require.Equal(t, []string{"recovered"}, good.take())
	require.Equal(t, []string{"recovered"}, bad.take())
}

// A host that dies while it tells an event leaves it to the next run, or to another host, under the same ID.
func TestHostsSpeakWithOneVoice(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	first, second := &heard{fail: errors.New("killed")}, &heard{}
	one, two := s.teller(&file{}, notify.Channel{Name: "ops", Notifier: first}), s.teller(&file{}, notify.Channel{Name: "ops", Notifier: second})
	two.Node = "region2"
	s.pass(t, one)
	s.pass(t, two)
	s.issuer.fail = errors.New("the CA says no")
	results := s.Pass(t.Context(), lifecycle.Options{ByHand: true, Force: true})
	results[0].Before.Plan.Why = lifecycle.Missing
	one.Tell(t.Context(), s.Certificates, results)
	first.fail = nil
	two.Tell(t.Context(), s.Certificates, results)
	require.Empty(t, second.take(), "it was told by the other host, which tries again")
	s.now = s.now.Add(time.Minute)
	two.Tell(t.Context(), s.Certificates, results)
	one.Tell(t.Context(), s.Certificates, results)
	require.Equal(t, []string{"failed"}, second.take(), "whoever comes first tells it")
	require.Empty(t, first.take())
}

// What is over overtakes what was not told of it: who did not hear of a trouble while it lasted does not hear of it afterwards.
func TestNobodyHearsOfATroubleThatIsOver(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops := &heard{fail: errors.New("it is not there")}
	teller := s.teller(&file{}, notify.Channel{Name: "ops", Notifier: ops})
	s.issuer.fail = errors.New("the CA says no")
	again := s.now
	for range 3 {
		s.now = again
		_, again = s.pass(t, teller)
	}
	ops.fail, s.issuer.fail = nil, nil
	s.now = s.now.Add(time.Minute)
	s.pass(t, teller)
	require.Equal(t, []string{"recovered"}, ops.take())
	for range 3 {
		s.now = s.now.Add(day)
		s.pass(t, teller)
	}
	require.Empty(t, ops.take())
}

// hangs is a channel that never answers, and counts how often it is asked.
type hangs struct{ asked atomic.Int32 }

func (h *hangs) Notify(ctx context.Context, _ notify.Event) error {
	h.asked.Add(1)
	<-ctx.Done()
	return ctx.Err()
}

// A channel that hangs is waited for once, whatever there is to tell, and the others are told everything meanwhile.
func TestAChannelThatHangsHoldsUpNoOther(t *testing.T) {
	t.Parallel()
	s, found := newTellers(t), newWorld(t).situation(day, 90*day)
	good, bad := &heard{}, &hangs{}
	teller := s.teller(&file{}, notify.Channel{Name: "bad", Notifier: bad, Timeout: 50 * time.Millisecond}, notify.Channel{Name: "good", Notifier: good})
	var certs []lifecycle.Certificate
	var results []lifecycle.Result
	for _, name := range []string{"a", "b", "c", "d"} {
		cert := s.Certificates[0]
		cert.Name = name
		certs = append(certs, cert)
		found.well()
		orderFails(found)
		found.about.Result.Name = name
		results = append(results, found.about.Result)
	}
	tellings, _ := teller.Tell(t.Context(), certs, results)
	require.Equal(t, []string{"failed", "failed", "failed", "failed"}, good.take())
	require.Equal(t, int32(1), bad.asked.Load())
	require.Len(t, tellings, 2)
	require.NoError(t, tellings[1].Err)
}

// A pass that is cut off still writes down what it did; the next run tells it.
func TestWhatAPassDidIsToldByTheNextRun(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops := &heard{}
	channel := notify.Channel{Name: "ops", Notifier: ops, Kinds: []notify.Kind{notify.All}}
	results := s.Pass(t.Context(), lifecycle.Options{})
	over, cancel := context.WithCancel(t.Context())
	cancel()
	s.teller(&file{}, channel).Tell(over, s.Certificates, results)
	require.Empty(t, ops.take())
	s.pass(t, s.teller(&file{}, channel))
	require.Equal(t, []string{"obtained", "deployed"}, ops.take())
}

// Two programs of one host tell an event once.
func TestTwoProgramsOfAHostTellOnce(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops, slow := &heard{}, &hangs{}
	channels := []notify.Channel{{Name: "ops", Notifier: ops}, {Name: "slow", Notifier: slow, Timeout: time.Minute}}
	s.issuer.fail = errors.New("the CA says no")
	results := s.Pass(t.Context(), lifecycle.Options{})
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.teller(&file{}, channels...).Tell(ctx, s.Certificates, results)
	}()
	require.Eventually(t, func() bool { return slow.asked.Load() == 1 }, 10*time.Second, time.Millisecond)
	s.teller(&file{}, channels...).Tell(t.Context(), s.Certificates, results)
	require.Equal(t, int32(1), slow.asked.Load(), "the first tells it just now")
	cancel()
	<-done
	require.Equal(t, []string{"failed"}, ops.take())
}

// What was told while the store was away is not told again from what the store kept.
func TestTheStoreComesBackWithOldEvents(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops, disk := &heard{fail: errors.New("it is not there")}, &file{}
	channel := notify.Channel{Name: "ops", Notifier: ops}
	s.issuer.fail = errors.New("the CA says no")
	_, again := s.pass(t, s.teller(disk, channel))
	s.store.broken = func(string) bool { return true }
	ops.fail, s.now = nil, again
	s.pass(t, s.teller(disk, channel))
	require.Equal(t, []string{"failed"}, ops.take(), "that the store is away")
	s.store.broken = nil
	s.now = s.now.Add(time.Hour)
	s.pass(t, s.teller(disk, channel))
	require.Equal(t, []string{"failed"}, ops.take(), "that the order fails")
	require.Len(t, slices.Compact(slices.Sorted(slices.Values(ops.ids))), 2, "and not what was to be told before")
}

// A channel that was away for longer than events are kept hears of what still lasts.
func TestAChannelThatWasAwayHearsOfWhatLasts(t *testing.T) {
	t.Parallel()
	s, found := newTellers(t), newWorld(t).situation(day, 90*day)
	ops := &heard{fail: errors.New("it is not there")}
	teller := s.teller(&file{}, notify.Channel{Name: "ops", Notifier: ops})
	for range 9 {
		s.now = s.now.Add(day)
		found.well()
		orderFails(found)
		teller.Tell(t.Context(), s.Certificates, []lifecycle.Result{found.about.Result})
	}
	ops.fail = nil
	for range 2 {
		s.now = s.now.Add(day)
		teller.Tell(t.Context(), s.Certificates, []lifecycle.Result{found.about.Result})
	}
	require.Equal(t, []string{"failed"}, ops.take())
}

// A clock that was ahead when a channel was away delays it no longer than that.
func TestAClockThatWasAheadDelaysNoEvent(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops := &heard{fail: errors.New("it is not there")}
	teller := s.teller(&file{}, notify.Channel{Name: "ops", Notifier: ops})
	s.issuer.fail = errors.New("the CA says no")
	s.now = s.now.Add(11 * time.Hour)
	s.pass(t, teller)
	ops.fail, s.now = nil, s.now.Add(-11*time.Hour)
	s.pass(t, teller)
	require.Equal(t, []string{"failed"}, ops.take())
}

// While the store cannot be reached, what was told is remembered on the host; when it can be again, nothing is told twice.
func TestToldWithoutTheStore(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops, disk := &heard{}, &file{}
	channel := notify.Channel{Name: "ops", Notifier: ops}
	s.pass(t, s.teller(disk, channel))
	require.Empty(t, ops.take())
	s.store.broken = func(string) bool { return true }
	for range 3 {
		s.pass(t, s.teller(disk, channel)) // each time a program that was started anew
		s.now = s.now.Add(degradedPatience)
	}
	require.Equal(t, []string{"failed"}, ops.take())
	s.store.broken = nil
	for range 3 {
		s.pass(t, s.teller(disk, channel))
	}
	require.Equal(t, []string{"recovered"}, ops.take())
	record, _, err := certstore.LoadRecord(t.Context(), s.store, "maas")
	require.NoError(t, err)
	require.Len(t, record.Told, 1)
	require.True(t, record.Told[0].Over)
	require.Empty(t, record.Outbox)
}

// A notifier that takes nothing while the store cannot be reached holds up no pass: this once waited for itself for ever.
func TestNobodyIsToldWhileTheStoreIsAway(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	deaf := &heard{fail: errors.New("connection refused")}
	teller := s.teller(&file{}, notify.Channel{Name: "ops", Notifier: deaf})
	s.pass(t, teller)
	s.store.broken = func(string) bool { return true }
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for range 3 {
			s.pass(t, teller)
			s.now = s.now.Add(degradedPatience)
		}
	}()
	select {
	case <-ended:
	case <-time.After(time.Minute):
		t.Fatal("it waits for itself")
	}
	s.store.broken, deaf.fail = nil, nil
	s.now = s.now.Add(time.Hour)
	s.pass(t, teller)
	require.Equal(t, []string{"recovered"}, deaf.take(), "it tells again")
}

// Where nothing can be written down, nothing is told again and again by a daemon.
func TestToldWithoutAnyMemory(t *testing.T) {
	t.Parallel()
	s := newTellers(t)
	ops := &heard{}
	teller := s.teller(nil, notify.Channel{Name: "ops", Notifier: ops})
	s.store.broken = func(string) bool { return true }
	for range 3 {
		s.pass(t, teller)
		s.now = s.now.Add(degradedPatience)
	}
	require.Equal(t, []string{"failed"}, ops.take())
}

// degradedPatience is for how long the store may be away before people are told.
const degradedPatience = 5 * time.Minute

// What nobody takes is forgotten one day, and does not fill the record.
func TestTheOutboxIsBounded(t *testing.T) {
	t.Parallel()
	s, found := newTellers(t), newWorld(t).situation(day, 90*day)
	dead := &heard{fail: errors.New("it is not there")}
	teller := s.teller(nil, notify.Channel{Name: "ops", Notifier: dead, Kinds: []notify.Kind{notify.All}})
	pass := func(after time.Duration, words string) certstore.Record {
		s.now = s.now.Add(after)
		found.well()
		if words != "" {
			found.fails("", lifecycle.StageObtain, words)
		}
		found.about.Result.Obtained = true
		teller.Tell(t.Context(), s.Certificates, []lifecycle.Result{found.about.Result})
		record, _, err := certstore.LoadRecord(t.Context(), s.store, "maas")
		require.NoError(t, err)
		return record
	}
	for range 60 {
		pass(time.Hour, strings.Repeat("no ", 3000))
		require.NotEmpty(t, pass(time.Hour, "").Outbox)
	}
	record, _, err := certstore.LoadRecord(t.Context(), s.store, "maas")
	require.NoError(t, err)
	text, err := json.Marshal(record)
	require.NoError(t, err)
	require.Less(t, len(text), 100<<10)
	require.Len(t, pass(9*day, "").Outbox, 2, "what is a week old is nobody's news")
}
