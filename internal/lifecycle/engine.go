package lifecycle

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"slices"
	"sync"
	"time"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// Issuer obtains certificates. *acme.Client is one, Rehearser another.
type Issuer interface {
	// Window is when the CA suggests to renew; acme.ErrNoWindow when it does not say.
	Window(ctx context.Context, leaf *x509.Certificate) (acme.Window, error)
	Obtain(ctx context.Context, request acme.Request) (*acme.Issued, error)
	// Retract takes answers to challenges away that earlier runs left visible, and returns what stays.
	Retract(ctx context.Context, left []certstore.Answer) (stays []certstore.Answer, err error)
}

// Publisher puts a certificate, without its key, where anybody on this host may read it.
type Publisher interface {
	Publish(cert string, chain []byte) error
	IsPublished(cert string, chain []byte) bool
}

// Certificate is one certificate to keep alive.
type Certificate struct {
	Name       string
	Wish       certstore.Wish
	Keep       int             // versions, at least 1
	Trust      certstore.Trust // of those who connect to its targets
	Issuer     Issuer          // nil: nobody renews it; a person brings in another one in time
	Targets    []maasconfig.Target
	Namer      Namer   // of the wish's rule; nil where it has none
	Aligner    Aligner // of MAAS's own notice of expiry; nil: it is left alone
	Reissue    bool    // another certificate is ordered when the rule leads to more names
	RootsFile  string  // path of the public file of what clients are to trust, for people
	Rehearsals Rehearsals
	Timing     Timing
	Means      string // hash of the configuration of its CA and its challenges: when it changes, a back-off ends
}

// Engine runs passes. Its parts are given from outside; a rehearsal is the same engine made of harmless parts.
type Engine struct {
	Certificates []Certificate
	Store        certstore.Store
	Public       Publisher // nil: nothing is published
	Node         string
	Period       time.Duration // between two passes of the schedule; 0: unknown
	Started      time.Time     // when the program did; zero: unknown
	// Revoke has the CA that issued a version revoke it.
	Revoke func(ctx context.Context, version certstore.Version, reason uint) error
	// Seen is the newest version of a certificate that this host ever saw, whatever the store has; nil: it does not remember.
	Seen func(cert string) certstore.Seen
	// Broken finds who on this host refuses a certificate because of its root; nil: nobody looks.
	Broken Pinned
	// Alive is called at the end of every stage of a pass; nil: nobody watches it.
	Alive     func()
	Rehearses bool // it is made of harmless parts
	// Progress is told how a pass comes along, by several goroutines at once; nil: nobody watches.
	Progress func(Progress)
	Now      func() time.Time
	Log      *slog.Logger
}

// Options of one pass.
type Options struct {
	Certificates []string // names; none: all
	Force        bool     // order although nothing is due and despite a back-off
	ByHand       bool     // a person asked for it: a target that was told often enough is told once more
	Accept       maasconfig.Accept
	Wait         time.Duration // for a lock that another run holds

	began time.Time // when the pass did
}

// Stage names the step at which something failed.
type Stage string

const (
	StageLock   Stage = "lock"
	StageLook   Stage = "look"
	StageGuard  Stage = "guard"
	StageObtain Stage = "obtain"
	StageSave   Stage = "save"
	StageDeploy Stage = "deploy"
	StageVerify Stage = "verify"
	StageRevoke Stage = "revoke"
	StageConfig Stage = "config"
	StageNotify Stage = "notify"
)

// Result tells what a pass did with one certificate.
type Result struct {
	Name     string
	Before   View // as it was found
	After    View // as it was left; the same as Before when nothing was done
	Obtained bool
	Changed  bool
	Revoked  []int                         // versions that the CA was told to revoke
	Deployed map[string]bool               // targets that were told, and whether they serve it now
	Told     map[string]maasconfig.Telling // what became of the last call at each of them
	Requests int                           // to the CA
	Warnings []string                      // what was not as wished and is no failure
	Duration time.Duration
	Troubles []Trouble // all that went wrong, or is not as it should be, in the order in which it was seen
}

// Trouble is one thing that went wrong in a pass, or is not as it should be after it.
type Trouble struct {
	Target string // at which; empty: with the certificate itself
	Stage  Stage
	Err    error
	NotNow bool // it is a matter of time: a lock, a limit, a back-off
}

// Error is the trouble with the name of its target.
func (t Trouble) Error() string { return t.named().Error() }

// Unwrap is the error, which may have a hint.
func (t Trouble) Unwrap() error { return t.Err }

func (t Trouble) named() error {
	if t.Target == "" {
		return t.Err
	}
	return fmt.Errorf("%s: %w", t.Target, t.Err)
}

// Worst is the trouble to show where there is room for one: what is wrong with the certificate, then what a person has to
// mend at a target, then what is tried again there. nil for none.
func (r Result) Worst() *Trouble {
	var worst *Trouble
	for i, t := range r.Troubles {
		if worst == nil || t.rank() < worst.rank() {
			worst = &r.Troubles[i]
		}
	}
	return worst
}

func (t Trouble) rank() int {
	switch {
	case t.Target == "" && t.Stage != StageRevoke:
		return 0
	case t.Stage == StageGuard:
		return 1
	case t.Stage == StageDeploy:
		return 2
	default:
		return 3
	}
}

// WorstAtEach are the troubles to tell a person: the worst of the certificate itself and at each target, the worst of all
// first. What follows from one, such as from a full disk, would be told again and again.
func (r Result) WorstAtEach() []Trouble {
	var all []Trouble
	for left := r; len(left.Troubles) > 0; {
		worst := *left.Worst()
		all = append(all, worst)
		left.Troubles = slices.DeleteFunc(slices.Clone(left.Troubles), func(t Trouble) bool { return t.Target == worst.Target })
	}
	return all
}

// IsNotNow tells whether all that is wrong is a matter of time.
func (r Result) IsNotNow() bool {
	return len(r.Troubles) > 0 && !slices.ContainsFunc(r.Troubles, func(t Trouble) bool { return !t.NotNow })
}

// IsLeftToOthers tells whether all that is wrong is that another run is at work on it just now.
func (r Result) IsLeftToOthers() bool {
	return r.IsNotNow() && !slices.ContainsFunc(r.Troubles, func(t Trouble) bool { return t.Stage != StageLock })
}

// IsWell tells whether the certificate was found as it should be, whether or not something is left to another run.
func (r Result) IsWell() bool {
	return r.After.Summary.IsHealthy() && (len(r.Troubles) == 0 || r.IsLeftToOthers())
}

// Err is the worst trouble; nil for none.
func (r Result) Err() error {
	if worst := r.Worst(); worst != nil {
		return worst.named()
	}
	return nil
}

// Stage is that of the worst trouble; empty for none.
func (r Result) Stage() Stage {
	if worst := r.Worst(); worst != nil {
		return worst.Stage
	}
	return ""
}

// View is a certificate as it was looked at.
type View struct {
	State    State
	Plan     Plan
	Summary  CertState
	Warnings []string // what is as it should be and may not stay so
	Blind    bool     // the record could not be read
}

// Healthy tells whether the certificate is as it should be.
func (r Result) Healthy() bool { return len(r.Troubles) == 0 && r.After.Summary.IsHealthy() }

const (
	// lookTime bounds the questions of a look.
	lookTime = 15 * time.Second
	// windowTime bounds the question for renewal information: a CA that does not answer must not hold up the rest, and what
	// it said last is known.
	windowTime = 5 * time.Second
	// discoverTime bounds finding out which endpoints there are: they are to be asked in what is left.
	discoverTime = 9 * time.Second
	// freshTime is for how long what was read ahead of a first look is good.
	freshTime = 5 * time.Second
	// retractTime bounds taking away what earlier runs left visible.
	retractTime = time.Minute
	// saveTime bounds a save that must not be given up when the pass is.
	saveTime = 10 * time.Second
)

// Pass makes one pass over the certificates, each by itself.
func (e *Engine) Pass(ctx context.Context, options Options) []Result {
	var results []Result
	grace := new(world.Grace)
	first, read := e.ahead(ctx, options.Certificates), e.Now()
	for _, cert := range e.Certificates {
		if len(options.Certificates) > 0 && !slices.Contains(options.Certificates, cert.Name) {
			continue
		}
		begun := e.Now()
		if begun.Sub(read) > freshTime {
			first, read = e.ahead(ctx, options.Certificates), begun
		}
		options := options
		options.began = begun.Round(0)
		p := &pass{
			Engine: e, cert: cert, options: options, grace: grace, first: first, seen: map[string][]maasconfig.Endpoint{}, refused: map[string]bool{},
			result: Result{Name: cert.Name, Deployed: map[string]bool{}, Told: map[string]maasconfig.Telling{}},
		}
		p.run(ctx)
		p.result.Duration = e.Now().Sub(begun)
		results = append(results, p.result)
	}
	return results
}

// ahead is the store, read ahead for the first look at some certificates; without names at all of them.
func (e *Engine) ahead(ctx context.Context, names []string) certstore.Store {
	var certs []string
	for _, cert := range e.Certificates {
		if len(names) == 0 || slices.Contains(names, cert.Name) {
			certs = append(certs, cert.Name)
		}
	}
	wanted := certstore.LedgerReads(certs...)
	wanted.Documents, wanted.Folders = append(wanted.Documents, "account"), []string{"nodes"}
	return certstore.Ahead(ctx, e.Store, wanted)
}

// Version is the number of the version in use, 0 for none.
func (v View) Version() int {
	if v.State.Current == nil {
		return 0
	}
	return v.State.Current.Number
}

// KnowsWish tells whether what a host wishes was taken into account: it is what is followed, or was written down, or another host's is
// followed instead; or nothing is followed yet, and whoever orders first will be.
func (v View) KnowsWish(node string, wish certstore.Wish) bool {
	own := wish.Hash()
	return !v.Blind && (v.State.Record.Wish == nil || v.Plan.Differ || v.State.Record.WishHash == own || v.State.Record.WishByHost[node] == own)
}

// Served is the version of ours that all endpoints of a target serve that could be seen; 0 where they serve several, or another, and nil where
// none could be seen.
func (v View) Served(target string) (version *int) {
	for _, t := range v.State.Targets {
		for _, e := range t.Endpoints {
			if t.Name != target || e.Served.State == maasconfig.Unknown {
				continue
			}
			known, is := v.State.Known[e.Fingerprint()]
			number := known.Number
			if !is && e.Fingerprint() != "" && e.Fingerprint() == v.State.Latest.Fingerprint {
				number = v.State.Latest.Version
			}
			if version != nil && *version != number {
				number = 0
			}
			version = &number
		}
	}
	return version
}

// decide decides again, after the state was changed.
func (v *View) decide(cert string) {
	v.Plan = Decide(v.State)
	v.Summary = Summary(cert, v.State, v.Plan)
}

// Look sees a certificate as it is and decides, without changing anything.
func (e *Engine) Look(ctx context.Context, cert Certificate) (View, error) {
	return e.LookFor(ctx, cert, Options{})
}

// LookFor looks as a pass with some options would, without changing anything.
func (e *Engine) LookFor(ctx context.Context, cert Certificate, options Options) (View, error) {
	view, _, err := e.look(ctx, e.ahead(ctx, []string{cert.Name}), nil, cert, options)
	return view, err
}

// look looks as for a pass with some options, at the record in hand or, without one, at one that it opens in a store and returns.
func (e *Engine) look(ctx context.Context, store certstore.Store, ledger *certstore.Ledger, cert Certificate, options Options) (View, *certstore.Ledger, error) {
	state := State{
		Now: e.Now().Round(0), Node: e.Node, Wish: cert.Wish, Means: cert.Means, Period: e.Period, Force: options.Force, ByHand: options.ByHand, TakeBack: options.Accept[maasconfig.Foreign],
		Timing: cert.Timing, Watched: cert.Issuer == nil, Reissue: cert.Reissue, LoseNames: options.Accept[maasconfig.NamesLost],
		LoseKeys: options.Accept[maasconfig.KeysLost], Began: options.began,
	}
	state.Timing.share = (spread(e.Node, cert.Name) + 1) / 2
	if state.Began.IsZero() {
		state.Began = state.Now
	}
	var err error
	if ledger == nil {
		ledger, err = certstore.OpenLedger(ctx, store, cert.Name)
	} else {
		err = ledger.Reread(ctx)
	}
	if err == nil {
		err = e.recall(ctx, ledger, cert, &state)
	}
	if err != nil {
		return e.blind(ctx, cert, state), nil, err
	}
	e.lookAtRoots(cert, &state)
	e.ask(ctx, cert, &state)
	plan := Decide(state)
	return View{State: state, Plan: plan, Summary: Summary(cert.Name, state, plan), Warnings: warnings(state, plan, cert)}, ledger, context.Cause(ctx)
}

// recall reads what is remembered.
func (e *Engine) recall(ctx context.Context, ledger *certstore.Ledger, cert Certificate, state *State) error {
	var err error
	state.Record, state.Known, state.Unindexed = ledger.Record(), ledger.Versions(), !ledger.IsIndexed()
	if state.Nodes, err = certstore.LoadNodes(ctx, ledger.Store(), state.Now); err != nil {
		state.NodesUnknown = true
		e.Log.Warn("what hosts said of their last pass", "error", err)
	}
	for _, node := range state.Nodes {
		if node.Node == e.Node {
			state.Said = node.Wishes[cert.Name]
		}
	}
	if e.Seen != nil {
		state.Latest = e.Seen(cert.Name)
	}
	state.Latest = newest(cert.Name, state.Latest, state.Nodes)
	ledger.Above(max(state.Latest.Highest, state.Latest.Version))
	state.Keys = readyKeys(ctx, ledger.Store())
	state.lookAtAccount(ctx, ledger.Store())
	if number := state.Record.Current; number != 0 {
		version, err := ledger.Version(ctx, number)
		if err == nil && state.Keys == nil {
			// One whose key cannot be had now is still what is served; one whose key is lost can be brought to no target any more.
			switch missing := state.judge(version.Bundle.CheckKey(ctx), version.Created); {
			case errors.Is(missing, certstore.ErrKeyLost):
				err = missing
			case missing != nil:
				state.Keys = missing
			}
		}
		switch {
		case err == nil:
			state.Current = &version
			state.Unpublished = e.Public != nil && !e.Public.IsPublished(cert.Name, version.Bundle.FullChainPEM())
		case errors.Is(err, context.Canceled), errors.Is(err, fs.ErrPermission), errors.Is(err, certstore.ErrAway):
			return err
		default:
			// A version that cannot be read is as good as none: another one is ordered.
			e.Log.Warn("the current version is lost", "cert", cert.Name, "error", err)
		}
	}
	return nil
}

// blind looks while the store cannot be read: at what endpoints serve, whosesoever it is, and with it when to look
// again at the latest.
func (e *Engine) blind(ctx context.Context, cert Certificate, state State) View {
	seen := State{Now: state.Now, Node: state.Node, Wish: state.Wish}
	if e.Seen != nil {
		seen.Latest = e.Seen(cert.Name)
	}
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	seen.Targets = e.probe(ctx, cert, nil, certstore.Record{})
	return View{Blind: true, State: seen, Plan: Plan{Next: seen.latestLook(), Wish: state.Wish, Names: state.Wish.Names}, Summary: StateFailed}
}

// judge is an error about a key that was made at a time: lost only when it is old enough for that, or somebody says so.
func (s *State) judge(err error, made time.Time) error {
	if s.LoseKeys {
		return err
	}
	return certstore.NotYetLost(err, made, s.Now)
}

// readyKeys tells whether private keys that are kept apart could be put and had now.
func readyKeys(ctx context.Context, store certstore.Store) error {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	return certstore.ReadyKeys(ctx, store)
}

// lookAtAccount finds out whether the ACME account could be used, long before it is.
func (s *State) lookAtAccount(ctx context.Context, store certstore.Store) {
	account, revision, err := certstore.LoadAccount(ctx, store)
	if err == nil && revision != "" && s.Keys == nil {
		err = s.judge(account.CheckKey(ctx, store), account.Made)
	}
	switch {
	case errors.Is(err, certstore.ErrKeyLost):
		s.Account = hint.Add(fmt.Errorf("the ACME account is lost: %w", err), "the next order registers another account; maascert renew --force orders now")
	case err != nil && !errors.Is(err, certstore.ErrKeysAway):
		s.Account = fmt.Errorf("the ACME account cannot be used: %w", err)
	}
	if err != nil {
		return
	}
	s.Rollover = account.NextKey != ""
}

// ask asks the CA and every target at the same time.
func (e *Engine) ask(ctx context.Context, cert Certificate, state *State) {
	ctx, cancel := context.WithTimeout(ctx, lookTime)
	defer cancel()
	var bundle *certstore.Bundle
	if state.Current != nil {
		bundle = state.Current.Bundle
	}
	suggested := make(chan struct{})
	go func() {
		defer close(suggested)
		e.lookUpSuggestion(ctx, cert, state)
	}()
	named := make(chan struct{})
	go func() {
		defer close(named)
		if cert.Namer != nil {
			state.Found = cert.Namer.Find(ctx)
		}
	}()
	state.Targets = e.probe(ctx, cert, bundle, state.Record)
	for _, target := range state.Targets {
		NameVersions(target.Endpoints, state.Known)
	}
	<-suggested
	<-named
}

// probe asks the endpoints of all targets at the same time.
func (e *Engine) probe(ctx context.Context, cert Certificate, bundle *certstore.Bundle, record certstore.Record) []TargetState {
	states := make([]TargetState, len(cert.Targets))
	var group sync.WaitGroup
	for i, target := range cert.Targets {
		group.Go(func() {
			finding, cancel := context.WithTimeout(ctx, discoverTime)
			target.Discover(finding, record.Deployments[e.key(target.Info())].Regions)
			cancel()
			info := target.Info()
			states[i] = TargetState{Name: info.Name, Key: e.key(info), Unsure: info.Unsure, NoList: info.NoList, Unlisted: info.Unlisted, Endpoints: maasconfig.Judged(target.Probe(ctx), bundle, cert.Trust)}
		})
	}
	group.Wait()
	return states
}

// ownLock is the lock of a certificate for the targets of this host alone.
func (e *Engine) ownLock(cert string) string { return cert + ".at." + e.Node }

// key is the name under which the record remembers a target: hosts that share a store have proxies of the same name each.
func (e *Engine) key(target maasconfig.Info) string {
	if target.Shared {
		return target.Name
	}
	return target.Name + ".at." + e.Node
}

// pass is one pass over one certificate.
type pass struct {
	*Engine
	cert      Certificate
	first     certstore.Store // for the first look
	options   Options
	result    Result
	seen      map[string][]maasconfig.Endpoint // by target that was told: what was seen after the last call; nil: nothing
	ledger    *certstore.Ledger
	refused   map[string]bool // targets whose guards said no: the others go on
	postponed bool            // the guards of this host's own targets are asked when their turn comes
	grace     *world.Grace    // to write down what has happened after the pass was interrupted
}

// stageEnded says that the pass goes on.
func (p *pass) stageEnded() {
	if p.Alive != nil {
		p.Alive()
	}
}

// fail notes what is wrong with the certificate.
func (p *pass) fail(stage Stage, err error) { p.trouble(Trouble{Stage: stage, Err: err}) }

// failAt notes what is wrong at a target.
func (p *pass) failAt(target string, stage Stage, err error) {
	p.trouble(Trouble{Target: target, Stage: stage, Err: err})
}

// trouble notes one, if there is an error; the same twice is one.
func (p *pass) trouble(one Trouble) {
	isKnown := func(t Trouble) bool {
		return t.Target == one.Target && t.Stage == one.Stage && t.Err.Error() == one.Err.Error()
	}
	if one.Err != nil && !slices.ContainsFunc(p.result.Troubles, isKnown) {
		p.result.Troubles = append(p.result.Troubles, one)
	}
}

func (p *pass) run(ctx context.Context) {
	defer p.align(ctx)
	for _, target := range p.cert.Targets {
		if err := target.Tidy(ctx); err != nil {
			p.Log.Warn("wiping what a killed run left", "target", target.Info().Name, "error", err)
		}
	}
	view, ledger, err := p.look(ctx, p.first, nil, p.cert, p.options)
	if p.result.Before, p.result.After, p.ledger = view, view, ledger; ledger != nil {
		ledger.In(p.Store)
	}
	p.stageEnded()
	if err != nil {
		p.fail(StageLook, err)
		return
	}
	if view.Plan.Needs {
		p.fail(StageObtain, hint.Add(fmt.Errorf("another certificate is needed (%s), and the configuration has no CA", view.Plan.Why.Words()),
			"maascert deploy --cert FILE --key FILE, or name a CA in the section acme:"))
	}
	if view.Plan.Unnamed != nil && view.State.Current == nil {
		p.fail(StageObtain, unnamed(view.Plan.Unnamed))
	}
	defer p.rememberSuggestion(ctx)
	if !view.Plan.IsWork() {
		p.conclude()
		return
	}
	if !p.ready(ctx, view) {
		return
	}
	if view.Plan.Obtain || view.Plan.Housekeeping || len(p.toTell(view, true)) > 0 {
		p.locked(ctx, p.cert.Name, nil, p.options, p.actForAll)
	}
	p.tendOwn(ctx)
	p.conclude()
}

// tendOwn deploys to what belongs to this host alone, which waits for no other host. With that, versions that a person wants
// revoked may be served no more.
func (p *pass) tendOwn(ctx context.Context) {
	options := p.options
	options.Force = false // nothing is ordered here
	now := p.result.After
	now.State.Force, now.State.ByHand = options.Force, options.ByHand
	now.decide(p.cert.Name)
	own := p.lagging(now)
	if p.postponed && ctx.Err() == nil {
		p.askGuards(ctx, now, own)
		own = p.lagging(now)
		// What they refused is remembered, and part of how the certificate is.
		p.result.After.State.Record = p.ledger.Record()
		p.result.After.decide(p.cert.Name)
	}
	if ctx.Err() != nil || now.State.Current == nil || len(own) == 0 {
		return
	}
	p.locked(ctx, p.ownLock(p.cert.Name), own, options, func(ctx context.Context, view View) {
		p.deployTo(ctx, p.lagging(view), view)
		p.lookBack(ctx)
	})
	if ctx.Err() == nil && len(p.result.After.State.toRevoke()) > 0 {
		p.locked(ctx, p.cert.Name, nil, options, func(ctx context.Context, _ View) {
			if p.revokeReplaced(ctx) {
				p.lookBack(ctx)
			}
		})
	}
}

// locked looks and decides again under a lock, because somebody else may have done the work meanwhile, and has the work done
// that is left. A lock that is taken is the trouble of the targets that it is for; without any, of the certificate.
func (p *pass) locked(ctx context.Context, lock string, targets []maasconfig.Target, options Options, work func(context.Context, View)) {
	held, err := certstore.LockWithin(ctx, p.Store, lock, p.options.Wait)
	if err != nil {
		taken := errors.Is(err, certstore.ErrLocked)
		if taken {
			err = hint.Add(err, "wait for the other run, or: maascert renew --wait 5m")
		}
		for _, target := range targets {
			p.trouble(Trouble{Target: target.Info().Name, Stage: StageLock, Err: err, NotNow: taken})
		}
		if len(targets) == 0 {
			p.trouble(Trouble{Stage: StageLock, Err: err, NotNow: taken})
		}
		return
	}
	defer held.Unlock()
	p.ledger.In(held)
	defer p.ledger.In(p.Store)
	ctx = held.Context()
	view, _, err := p.look(ctx, nil, p.ledger, p.cert, options)
	p.stageEnded()
	if err != nil {
		p.fail(StageLook, err)
		return
	}
	if view.State.Record.Current != p.result.Before.State.Record.Current {
		view.State.Force = false // what was asked for has been done
		view.decide(p.cert.Name)
	}
	p.result.After = view
	if view.Plan.IsWork() {
		work(ctx, view)
	}
}

// actForAll does what the whole deployment shares: the order, and targets such as MAAS.
func (p *pass) actForAll(ctx context.Context, view View) {
	p.act(ctx, view)
	if p.lookBack(ctx) {
		p.rememberWindow(ctx)
		if p.revokeReplaced(ctx) {
			p.lookBack(ctx)
		}
	}
}

// lagging are this host's own targets that a plan tells of the version in use.
func (p *pass) lagging(view View) []maasconfig.Target {
	return slices.DeleteFunc(p.toTell(view, false), func(t maasconfig.Target) bool {
		return !slices.Contains(view.Plan.Deploy, t.Info().Name)
	})
}

// toTell are the targets that a plan tells, or that a new certificate goes to: those that the deployment shares, or those of
// this host; without those that refused.
func (p *pass) toTell(view View, shared bool) []maasconfig.Target {
	var all []maasconfig.Target
	for _, target := range p.cert.Targets {
		info := target.Info()
		if info.Shared == shared && !p.refused[info.Name] && (view.Plan.Obtain || slices.Contains(view.Plan.Deploy, info.Name)) {
			all = append(all, target)
		}
	}
	return all
}

// ready asks whether the work could be written down, and the guards of the targets that would be told. A target that refuses
// leaves the plan, and the others go on. It tells whether anything is left to be done: nothing is ordered for nobody. Where a
// target of the deployment is ready, those of this host are asked when their turn comes: what a proxy takes its time for does not
// hold up MAAS.
func (p *pass) ready(ctx context.Context, view View) bool {
	if err := errors.Join(p.Store.Writable(ctx), readyKeys(ctx, p.Store)); err != nil {
		p.fail(StageGuard, err)
		p.recordFailure(ctx, StageGuard, err)
		return false
	}
	shared, own := p.toTell(view, true), p.toTell(view, false)
	isLeft := p.askGuards(ctx, view, shared)
	if p.postponed = isLeft; !isLeft {
		isLeft = p.askGuards(ctx, view, own)
	}
	return len(shared)+len(own) == 0 || isLeft || view.Plan.Housekeeping || p.Rehearses
}

// askGuards asks the guards of some targets side by side, and tells whether any of these is ready.
func (p *pass) askGuards(ctx context.Context, view View, targets []maasconfig.Target) (isLeft bool) {
	refusals := make([]error, len(targets))
	var group sync.WaitGroup
	for i, target := range targets {
		group.Go(func() { refusals[i] = maasconfig.Ready(ctx, target, p.Want(view, target, p.options.Accept)) })
	}
	group.Wait()
	p.stageEnded()
	for i, err := range refusals {
		if err == nil {
			isLeft = true
			continue
		}
		info := targets[i].Info()
		p.refused[info.Name] = true
		if ctx.Err() != nil {
			p.failAt(info.Name, StageGuard, context.Cause(ctx)) // which nobody has to mend
			continue
		}
		p.failAt(info.Name, StageGuard, err)
		p.recordFailureAt(ctx, info, StageGuard, err)
	}
	return isLeft
}

// Want describes what a target is asked to get ready for.
func (e *Engine) Want(view View, target maasconfig.Target, accept maasconfig.Accept) maasconfig.Want {
	d := view.State.Record.Deployments[e.key(target.Info())]
	return maasconfig.Want{
		Names: view.Plan.Names, Earlier: earlierNames(view.State), KeyType: view.Plan.Wish.KeyType,
		Accept: accept, Ours: d.Verified != 0, Port: d.Port,
	}
}

// earlierNames are all names that certificates of ours had: losing one of those is what somebody wished.
func earlierNames(state State) []string {
	var names []string
	if state.Record.Wish != nil {
		names = append(names, state.Record.Wish.Names...)
	}
	if state.Record.Discovered != nil {
		names = append(names, state.Record.Discovered.Names...)
	}
	for _, version := range state.Known {
		if version.Origin.IsOurs() {
			names = append(names, version.Names...)
		}
	}
	return names
}

// act carries a plan out, under the lock.
func (p *pass) act(ctx context.Context, view View) {
	if view.Plan.Obtain {
		// An order may have got due after the guards were asked; there is none for nobody.
		if n := len(p.cert.Targets); n > 0 && len(p.refused) == n && !p.Rehearses || !p.obtain(ctx, view) {
			return
		}
	} else if err := p.housekeep(ctx, view); err != nil {
		p.fail(StageSave, err)
		return
	}
	current := p.result.After.State.Current
	if current == nil {
		return
	}
	p.deployTo(ctx, p.toTell(view, true), view)
	p.fail(StageSave, p.prune(ctx, current.Number))
}

// deployTo brings the version in use to targets, one after another.
func (p *pass) deployTo(ctx context.Context, targets []maasconfig.Target, view View) {
	if p.result.After.State.Current == nil {
		return
	}
	version := *p.result.After.State.Current
	for _, target := range targets {
		if ctx.Err() != nil {
			p.fail(StageDeploy, context.Cause(ctx))
			return
		}
		i := slices.Index(p.cert.Targets, target)
		p.deploy(ctx, target, version, view.State.Targets[i].Endpoints)
	}
}

// prune forgets old versions, but none that may be served.
func (p *pass) prune(ctx context.Context, current int) error {
	record, inUse := p.ledger.Record(), []int{current}
	for _, d := range record.Deployments {
		inUse = append(inUse, d.Verified)
	}
	for _, r := range record.Revocations {
		if r.Done.IsZero() {
			inUse = append(inUse, r.Version)
		}
	}
	defer p.sweepKeys(ctx)
	if err := p.ledger.Prune(ctx, inUse, p.cert.Keep); err != nil || p.ledger.IsIndexed() {
		return err
	}
	return p.update(ctx, func(*certstore.Record) {}) // which lists them no more
}

// sweepKeys removes private keys that are kept apart and that no document names any more.
func (p *pass) sweepKeys(ctx context.Context) {
	if p.Rehearses {
		return
	}
	for _, folder := range []string{"state/" + p.cert.Name, "versions/" + p.cert.Name, "account"} {
		if err := certstore.SweepKeys(ctx, p.ledger.Store(), folder, true); err != nil {
			p.Log.Warn("sweeping private keys away that are of no more use", "cert", p.cert.Name, "error", err)
			return // the next renewal does
		}
	}
}

// lookBack sees what the pass came to, and with it when to look again. Where that cannot be seen any more, what is known
// is what was seen after the last change.
func (p *pass) lookBack(ctx context.Context) bool {
	if ctx.Err() != nil {
		p.unsee()
		return false
	}
	view, _, err := p.look(ctx, nil, p.ledger, p.cert, Options{began: p.options.began})
	if err != nil {
		p.unsee()
		p.fail(StageLook, err)
		return false
	}
	p.result.After = view
	clear(p.seen) // all of it was seen again
	for _, t := range view.State.Targets {
		if _, told := p.result.Deployed[t.Name]; told {
			p.result.Deployed[t.Name] = maasconfig.Serving(t.Endpoints)
		}
	}
	return true
}

// errUnseen stands for what an endpoint serves that was not looked at after the last change.
var errUnseen = errors.New("not looked at after the last change")

// unsee compares what was seen with the version that is in use now, and forgets what may have changed since: where a
// target was told, only an endpoint that was seen to serve the version after that is known to.
func (p *pass) unsee() {
	state := &p.result.After.State
	if state.Current == nil {
		return
	}
	for i := range state.Targets {
		t := &state.Targets[i]
		seen, told := p.seen[t.Name]
		endpoints := make([]maasconfig.Endpoint, len(t.Endpoints))
		for j, e := range t.Endpoints {
			endpoints[j] = maasconfig.Judge(e.Served, state.Current.Bundle, p.cert.Trust)
			if !told {
				continue
			}
			endpoints[j] = maasconfig.Endpoint{Served: maasconfig.Served{Address: e.Address, State: maasconfig.Unknown, Err: errUnseen}, State: maasconfig.Unknown}
			for _, now := range seen {
				if now.Address == e.Address && now.IsServing() {
					endpoints[j] = now
				}
			}
		}
		t.Endpoints = endpoints
	}
	p.result.After.decide(p.cert.Name)
}

// update changes the record, also for a moment after the pass was interrupted.
func (p *pass) update(ctx context.Context, change func(*certstore.Record)) error {
	ctx, cancel := p.grace.Context(ctx, saveTime)
	defer cancel()
	return p.ledger.Update(ctx, change)
}

// recordFailure writes an attempt that failed into the record; the same failure twice in a row is one.
func (p *pass) recordFailure(ctx context.Context, stage Stage, failure error) {
	err := p.update(ctx, func(r *certstore.Record) {
		r.Remember(p.attempt(stage, failure))
	})
	if err != nil {
		p.Log.Warn("writing down a failure", "cert", p.cert.Name, "error", err)
	}
}

// recordFailureAt writes down what failed at a target.
func (p *pass) recordFailureAt(ctx context.Context, target maasconfig.Info, stage Stage, failure error) {
	err := p.update(ctx, func(r *certstore.Record) {
		r.Fail(p.key(target), p.attemptAt(target.Name, stage, failure))
	})
	if err != nil {
		p.Log.Warn("writing down a failure", "cert", p.cert.Name, "target", target.Name, "error", err)
	}
}

// attemptAt is an attempt that failed at a target.
func (p *pass) attemptAt(target string, stage Stage, failure error) certstore.Attempt {
	a := p.attempt(stage, Trouble{Target: target, Stage: stage, Err: failure})
	a.Target = target
	return a
}

func (p *pass) attempt(stage Stage, failure error) certstore.Attempt {
	a := certstore.Attempt{At: p.Now().UTC(), Node: p.Node, Why: string(p.result.Before.Plan.Why)}
	if failure != nil {
		a.Stage, a.Error, a.Hint = string(stage), failure.Error(), hint.Of(failure)
	}
	return a
}

// housekeep writes down what was seen and what a killed run left to say.
func (p *pass) housekeep(ctx context.Context, view View) error {
	if !view.Plan.Housekeeping {
		return nil
	}
	if view.State.isUnpublished() {
		if err := p.publish(view.State.Current.Bundle); err != nil {
			p.warn("the public copy of the certificate cannot be written: %v", err)
		}
	}
	stays, err := p.retract(ctx, view.State.Record.Answers)
	if err != nil {
		p.warn("%v", err)
	}
	return p.update(ctx, func(r *certstore.Record) {
		r.Answers, r.Discovered, r.Roots = stays, view.Plan.Discovered, view.Plan.Roots
		r.Doubts = view.State.doubts()
		if view.Plan.publishes {
			p.publishWish(r, view.Plan)
		}
		if view.Plan.Wait.IsZero() { // else what was begun is taken up again
			r.Order, r.Attempt, r.CutOff = nil, nil, 0
		}
		for _, t := range view.State.Targets {
			if !t.NoList && !t.remembersRegions(r.Deployments[t.key()], view.State.Began) {
				p.setDeployment(r, t.key(), t.rememberRegions(r.Deployments[t.key()], view.State.Began))
			}
			if maasconfig.Serving(t.Endpoints) {
				p.verified(r, t.key(), r.Current, t.Endpoints)
			}
		}
	})
}

// retract takes away what earlier runs left visible.
func (p *pass) retract(ctx context.Context, left []certstore.Answer) ([]certstore.Answer, error) {
	if len(left) == 0 {
		return nil, nil
	}
	if p.cert.Issuer == nil {
		return left, errors.New("the configuration has no CA any more")
	}
	ctx, cancel := context.WithTimeout(ctx, retractTime)
	defer cancel()
	stays, err := p.cert.Issuer.Retract(ctx, left)
	if ctx.Err() != nil {
		return left, context.Cause(ctx)
	}
	return stays, err
}

// takeAnswersAway takes away what earlier runs left visible, and writes down what stays.
func (p *pass) takeAnswersAway(ctx context.Context) {
	left := p.ledger.Record().Answers
	if len(left) == 0 {
		return
	}
	stays, err := p.retract(ctx, left)
	if err = errors.Join(err, p.update(ctx, func(r *certstore.Record) { r.Answers = stays })); err != nil {
		p.warn("%v", err)
	}
}

// warn notes what is not as wished and is no failure.
func (p *pass) warn(format string, args ...any) {
	warning := fmt.Sprintf(format, args...)
	p.Log.Warn("pass", "cert", p.cert.Name, "warning", warning)
	p.result.Warnings = append(p.result.Warnings, warning)
}

// publish puts the certificate where anybody on this host may read it.
func (p *pass) publish(bundle *certstore.Bundle) error {
	if p.Public == nil {
		return nil
	}
	return p.Public.Publish(p.cert.Name, bundle.FullChainPEM())
}

// verified remembers that every endpoint of a target serves a version.
func (p *pass) verified(r *certstore.Record, key string, version int, endpoints []maasconfig.Endpoint) {
	d := r.Deployments[key]
	d.Verified, d.Version, d.Tries, d.Laggards, d.RolledBack, d.Since, d.Failure = version, version, 0, nil, 0, time.Time{}, nil
	d.VerifiedAt, d.Port = p.Now().UTC(), commonPort(endpoints)
	p.setDeployment(r, key, d)
}

func (p *pass) setDeployment(r *certstore.Record, key string, d certstore.Deployment) {
	if r.Deployments == nil {
		r.Deployments = map[string]certstore.Deployment{}
	}
	r.Deployments[key] = d
}

// conclude turns a state that is not as it should be into troubles, where nothing else failed with the certificate, or at
// the target.
func (p *pass) conclude() {
	troubled := map[string]bool{}
	for _, t := range p.result.Troubles {
		troubled[t.Target] = true
	}
	if troubled[""] {
		return
	}
	for _, t := range p.result.After.Troubles(p.cert) {
		if !troubled[t.Target] || t.Target == "" {
			p.trouble(t)
		}
	}
}

// Changes are the names that the next certificate has and what is served has not, and the other way round. While nothing
// is served, the version in use counts; what nobody trusts is somebody's prank.
func (v View) Changes() (added, removed []string) {
	served := map[string]bool{}
	add := func(names []string) {
		for _, name := range names[:min(len(names), maxNames)] {
			served[printable.Line(name, printable.Word)] = true
		}
	}
	for _, t := range v.State.Targets {
		for _, e := range t.Endpoints {
			_, ours := v.State.Known[e.Fingerprint()]
			if len(e.Certs) > 0 && (ours || e.Distrust == nil) {
				add(certstore.CertificateNames(e.Certs[0]))
			}
		}
	}
	if len(served) == 0 && v.State.Current != nil {
		add(certstore.CertificateNames(v.State.leaf()))
	}
	if len(served) == 0 {
		return nil, nil
	}
	for _, name := range v.Plan.Names {
		if !served[name] {
			added = append(added, name)
		}
		delete(served, name)
	}
	slices.Sort(added)
	return added, slices.Sorted(maps.Keys(served))
}

// maxNames bounds the names of a certificate from outside that are looked at.
const maxNames = 200
