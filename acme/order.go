package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	lego "github.com/go-acme/lego/v4/acme"
	"github.com/go-acme/lego/v4/acme/api"
	"golang.org/x/sync/errgroup"

	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// Request describes the certificate to obtain.
type Request struct {
	Names   []string // canonical (certstore.CanonicalName), at least one
	KeyType certstore.KeyType

	// Predecessor is the certificate that this one takes the place of, or nil. The CA that issued it to the same account
	// is told (RFC 9773 section 5), and counts the order less.
	Predecessor *certstore.Version
	// Resume is an order that an earlier run left behind, or nil. It is taken up when it is for the same request and
	// the CA still knows it, so that a crash costs no second order.
	Resume *certstore.Order
	// FetchOnly has nothing ordered or finalized: wanted is only what the CA may have issued to Resume already. Where it has not,
	// the error is ErrNotIssued.
	FetchOnly bool
	// LoseKeys has keys of the account count as lost that are not where they are kept, however young they are.
	LoseKeys bool
	// Save is called whenever there is something that a later run would need: the order's URL as soon as it exists, and
	// once more with the certificate's key before the order is finalized. An error stops the order.
	Save func(certstore.Order) error
	// Afresh has every name proven anew: authorizations of earlier orders that the CA would use again are deactivated first. It is
	// for rehearsals at a CA for them, which would prove nothing else.
	Afresh bool
	// Leftovers are answers that earlier runs may have left visible; they are taken away.
	Leftovers []certstore.Answer
	// Note is called before answers are made visible that outlive this process, and when they are gone: with all that may
	// be visible. nil: they are not written down. An error stops the order.
	Note func([]certstore.Answer) error
	// Progress is told how far the order has come, and the proof of each name; nil: nobody is. Several names may be told of at once.
	Progress func(Progress)
}

// Progress is how far an order has come, or the proof of a name.
type Progress struct {
	Directory string // of the CA that is asked
	Step      Step
	Name      string // whose proof it is about; empty: the order
}

// Step is how far an order has come, or the proof of a name.
type Step string

const (
	Ordered Step = "ordered" // a new order was made
	Resumed Step = "resumed" // one that an earlier run left was taken up
	Proven  Step = "proven"  // the name, or all names

	Answering Step = "answering" // the answer that proves a name is being made visible
	Judging   Step = "judging"   // the CA was asked to look at it
	Reused    Step = "reused"    // the CA goes by an earlier proof of the name
	Unproven  Step = "unproven"  // the name could not be proven
)

// Issued holds the certificate that an order brought, and what the order cost.
type Issued struct {
	Bundle    *certstore.Bundle
	Directory string
	Account   string
	Profile   string
	Requests  int      // sent to the CA
	Warnings  []string // what was not as wished and is no failure
	Reused    []string // names that were not proven, because the CA went by an earlier proof; sorted
}

const (
	// validationTime is how long an order may take from its challenges to its certificate.
	validationTime = 5 * time.Minute
	// orderTime bounds all of an order, whatever a CA does to prolong it.
	orderTime = 15 * time.Minute
	// The pauses between two looks at an order to which the CA gave no Retry-After.
	firstLook   = 12 * time.Millisecond
	longestLook = 500 * time.Millisecond
	patientLook = 3 * time.Second
	// patience is the time after which looks are patientLook apart.
	patience = 20 * time.Second
)

// ErrNotIssued says that the CA issued nothing to an order that an earlier run began.
var ErrNotIssued = errors.New("the CA issued nothing to the order that was begun")

// Obtain orders a certificate with a new key and returns it when it is what was asked for: it fits the key, has exactly
// the names, is valid now, and its chain leads to a trusted root. The errors are *Error where the CA refused; with one
// the Issued holds no bundle, but how many requests it cost.
func (c *Client) Obtain(ctx context.Context, request Request) (*Issued, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, orderTime, fmt.Errorf("the order took more than %v", orderTime))
	defer cancel()
	s, err := c.openToOrder(ctx, request.LoseKeys)
	if err != nil {
		return &Issued{Requests: s.sent()}, err
	}
	visible := &answers{note: request.Note, remaining: request.Leftovers}
	o := &order{session: s, request: request, answers: visible}
	bundle, err := o.obtain()
	if IsRefusal(err) && c.hasOtherKey(ctx, s) {
		// The account's key was changed meanwhile, or by a run that was cut off.
		sent := s.sent()
		if s, err = c.openToOrder(ctx, request.LoseKeys); err != nil {
			return &Issued{Requests: sent + s.sent()}, err
		}
		s.wire.requests.Add(int64(sent))
		o = &order{session: s, request: request, answers: visible}
		bundle, err = o.obtain()
	}
	switch {
	case request.FetchOnly && IsRefusal(err):
		err = fmt.Errorf("%w: %w", ErrNotIssued, err)
	case o.resumed && IsRefusal(err) && !errors.Is(err, ErrUnfit):
		// The run that left the order may have been killed just when the CA came to look.
		request.Resume = nil
		o = &order{session: s, request: request, answers: visible}
		bundle, err = o.obtain()
	}
	return &Issued{
		Bundle: bundle, Directory: c.config.Directory, Account: s.account, Profile: c.config.Profile,
		Requests: s.sent(), Warnings: o.warnings, Reused: o.reusedNames(),
	}, err
}

// order is one order on its way through RFC 8555 section 7.1.6.
type order struct {
	*session
	request Request

	url      string
	at       lego.Order
	resumed  bool
	proven   []string // authorizations that were still open
	key      <-chan keyResult
	answers  *answers
	ready    *ready // solvers
	warnings []string
	deadline time.Time
	pauses   time.Duration // the last one

	saving sync.Mutex
	over   bool

	mu     sync.Mutex
	reused []string // names that the CA did not want to see proven again
}

// reuse notes a name that the CA does not want to see proven again.
func (o *order) reuse(authorization lego.Authorization) {
	name, isAsked := o.asked(authorization)
	if isAsked {
		o.reached(Reused, name)
	}
	o.mu.Lock()
	defer o.mu.Unlock()
	o.reused = append(o.reused, printable.Phrase(name))
}

func (o *order) reusedNames() []string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return slices.Sorted(slices.Values(o.reused))
}

type keyResult struct {
	key crypto.Signer
	err error
}

func (o *order) obtain() (*certstore.Bundle, error) {
	if o.request.FetchOnly {
		return o.fetch()
	}
	var err error
	if o.ready, err = o.openSolvers(o.ctx, o.request.Names, o.session.key.Public(), false); err != nil {
		return nil, err
	}
	o.ready.warn = o.warn
	defer o.ready.release()
	retracted := sync.OnceFunc(func() { o.retract(o.ctx) })
	defer retracted()
	if err := o.begin(); err != nil {
		return nil, err
	}
	if o.resumed {
		o.reached(Resumed, "")
	} else {
		o.reached(Ordered, "")
	}
	if o.request.Afresh {
		if err := o.forget(); err != nil {
			return nil, err
		}
	}
	stop := o.makeKey()
	defer stop()
	if err := o.authorize(); err != nil {
		return nil, err
	}
	if err := o.waitWhile(lego.StatusPending); err != nil {
		return nil, err
	}
	o.reached(Proven, "")
	// Nobody looks at the answers any more.
	go retracted()
	key, err := o.finish()
	if err != nil {
		return nil, err
	}
	return o.download(key)
}

// fetch brings what the CA has issued, or is about to issue, to an order that an earlier run left. Nothing is proven for it any more.
func (o *order) fetch() (*certstore.Bundle, error) {
	if err := o.begin(); err != nil {
		return nil, err
	}
	o.reached(Resumed, "")
	stop := o.makeKey()
	defer stop()
	key, err := o.finish()
	if err != nil {
		return nil, err
	}
	return o.download(key)
}

func (o *order) reached(step Step, name string) {
	if o.request.Progress != nil {
		o.request.Progress(Progress{o.config.Directory, step, name})
	}
}

// begin takes up the order that an earlier run left, or makes a new one.
func (o *order) begin() error {
	o.deadline = time.Now().Add(validationTime)
	resumed, err := o.resume()
	if isIssuing := o.at.Status == lego.StatusProcessing || o.at.Status == lego.StatusValid; err == nil && o.request.FetchOnly && !(resumed && isIssuing) {
		return ErrNotIssued
	}
	if resumed || err != nil {
		return err
	}
	if err := o.register(); err != nil {
		return err
	}
	err = o.newOrder()
	if isType(err, "accountDoesNotExist") {
		if err := o.reregister(); err != nil {
			return err
		}
		err = o.newOrder()
	}
	return o.explainRefusal(err)
}

func (o *order) newOrder() error {
	if err := CheckProfile(o.config.Profile, o.core.GetDirectory().Meta.Profiles); err != nil {
		return err
	}
	if err := o.checkClock(); err != nil {
		return err
	}
	if o.wire.nonces.Load() == nil {
		ahead := o.fetchNonces(len(o.request.Names))
		defer func() { o.wire.nonces.Store(ahead) }() // the order itself does not wait for them
	}
	options := &api.OrderOptions{Profile: o.config.Profile, ReplacesCertID: o.replaces()}
	ask := func() (lego.ExtendedOrder, error) { return o.core.Orders.NewWithOptions(o.request.Names, options) }
	made, err := call(o.session, opNewOrder, ask)
	var answered *Error
	if options.ReplacesCertID != "" && errors.As(err, &answered) && !IsRateLimited(err) {
		// Whatever the CA has against the predecessor, the certificate is needed all the same.
		options.ReplacesCertID = ""
		made, err = call(o.session, opNewOrder, ask)
	}
	if err != nil {
		return err
	}
	if err := checkURL("newOrder", made.Location); err != nil {
		return err
	}
	o.url, o.at = made.Location, made.Order
	return nil
}

// forget deactivates authorizations that the CA would use again, and orders once more. Those that the CA keeps are used again.
func (o *order) forget() error {
	forgotten := make([]bool, len(o.at.Authorizations))
	group := o.sideBySide()
	for i, url := range o.at.Authorizations {
		group.Go(func() error {
			authorization, err := o.authorization(url)
			if err != nil || authorization.Status != lego.StatusValid {
				return err
			}
			_, refused := call(o.session, "deactivate", func() (struct{}, error) { return struct{}{}, o.core.Authorizations.Deactivate(url) })
			forgotten[i] = refused == nil
			return nil
		})
	}
	if err := group.Wait(); err != nil || !slices.Contains(forgotten, true) {
		return err
	}
	return o.explainRefusal(o.newOrder())
}

// replaces identifies the predecessor to the CA that issued it to this account; empty for any other.
func (o *order) replaces() string {
	p := o.request.Predecessor
	if p == nil || p.Directory != o.config.Directory || p.Account != o.account {
		return ""
	}
	id, _ := certID(p.Bundle.Leaf())
	return id
}

// resume takes up an order that an earlier run left. Only what shows that the order is lost may lead to a new one: a CA
// that cannot say now gets the same question later.
func (o *order) resume() (bool, error) {
	left := o.request.Resume
	if left == nil || left.Directory != o.config.Directory || left.Account != o.account || left.KeyType != o.request.KeyType || left.Profile != o.config.Profile ||
		!slices.Equal(slices.Sorted(slices.Values(left.Names)), slices.Sorted(slices.Values(o.request.Names))) {
		return false, nil
	}
	o.url = left.URL
	if err := o.look(); err != nil {
		if IsRefusal(err) {
			return false, nil
		}
		return false, err
	}
	if o.at.Status == lego.StatusInvalid {
		return false, nil
	}
	finalized := o.at.Status == lego.StatusProcessing || o.at.Status == lego.StatusValid
	if finalized && left.Key == "" {
		// Somebody finalized this order with a key that is not ours to use.
		return false, nil
	}
	o.resumed = true
	return true, nil
}

// makeKey saves the order and makes the certificate's key while the CA validates; what it makes waits in o.key. After
// the returned function nothing is saved any more; it does not wait for a key that nobody wants.
func (o *order) makeKey() (stop func()) {
	result := make(chan keyResult, 1)
	o.key = result
	go func() {
		key, err := o.keyAndSave()
		result <- keyResult{key, err}
	}()
	return func() {
		o.saving.Lock()
		defer o.saving.Unlock()
		o.over = true
	}
}

func (o *order) save(saved certstore.Order) error {
	o.saving.Lock()
	defer o.saving.Unlock()
	if o.over {
		return errors.New("the order is over")
	}
	return o.request.Save(saved)
}

func (o *order) keyAndSave() (crypto.Signer, error) {
	if o.resumed && o.request.Resume.Key != "" {
		return certstore.ParseKey([]byte(o.request.Resume.Key))
	}
	saved := certstore.Order{
		Directory: o.config.Directory, Account: o.account, URL: o.url, Created: o.config.Now().UTC(),
		Names: o.request.Names, KeyType: o.request.KeyType, Profile: o.config.Profile,
	}
	if err := o.save(saved); err != nil {
		return nil, err
	}
	key, err := o.config.NewKey(o.request.KeyType)
	if err != nil {
		return nil, fmt.Errorf("making the key: %w", err)
	}
	text, err := certstore.MarshalKey(key)
	if err != nil {
		return nil, err
	}
	saved.Key = string(text)
	return key, o.save(saved)
}

// task is an authorization that is still open, and how it is proven.
type task struct {
	answer
	url           string // of the authorization
	authorization lego.Authorization
	challenge     lego.Challenge
}

// authorize fetches all authorizations and proves those that are still open, side by side.
func (o *order) authorize() error {
	if o.at.Status != lego.StatusPending {
		if !o.resumed {
			o.reused = o.request.Names
			for _, name := range o.reused {
				o.reached(Reused, name)
			}
		}
		return nil
	}
	if n := len(o.at.Authorizations); n > 2*len(o.request.Names)+10 {
		return fmt.Errorf("the CA wants %d authorizations for %d names", n, len(o.request.Names))
	}
	tasks := make([]*task, len(o.at.Authorizations))
	group := o.sideBySide()
	for i, url := range o.at.Authorizations {
		group.Go(func() error {
			authorization, err := o.authorization(url)
			if err != nil {
				return err
			}
			if authorization.Status == lego.StatusValid {
				o.reuse(authorization)
				return nil
			}
			tasks[i], err = o.task(url, authorization)
			if err != nil || tasks[i].solver.Lasts() {
				return err
			}
			if err := o.answers.add(tasks[i].answer); err != nil {
				return err
			}
			return o.prove(o.ctx, tasks[i])
		})
	}
	err := group.Wait()
	var later []*task
	for i, url := range o.at.Authorizations {
		if tasks[i] == nil {
			continue
		}
		o.proven = append(o.proven, url)
		if tasks[i].solver.Lasts() {
			later = append(later, tasks[i])
		}
	}
	if err == nil {
		err = o.proveLasting(later)
	}
	o.deadline = time.Now().Add(validationTime)
	return err
}

// proveLasting makes answers visible that outlive this process, after they are written down and what an earlier run left
// is taken away. Where several stand at one place, each is judged before the next one takes its place.
func (o *order) proveLasting(tasks []*task) error {
	some := make([]answer, len(tasks))
	for i, t := range tasks {
		some[i] = t.answer
	}
	if err := findPlaces(o.ctx, some, o.request.Names); err != nil {
		return err
	}
	by := map[challenge.Proof]*task{}
	for i, t := range tasks {
		t.answer = some[i]
		by[t.Proof] = t
	}
	o.retractLeft(o.ctx, some)
	if len(tasks) == 0 {
		return nil
	}
	if err := o.answers.add(some...); err != nil {
		return err
	}
	// All at once: most of the time they wait until the answers are where the CA looks. Solvers bound what they ask for.
	group, ctx := errgroup.WithContext(o.ctx)
	for _, together := range byPlace(some) {
		group.Go(func() error {
			for i, one := range together {
				if err := o.prove(ctx, by[one.Proof]); err != nil {
					return err
				}
				if i == len(together)-1 {
					return nil
				}
				if err := o.judged(ctx, by[one.Proof]); err != nil {
					if ctx.Err() == nil { // else it was given up because of another name
						o.reached(Unproven, one.asked)
					}
					return err
				}
				o.reached(Proven, one.asked)
				// One that stays does no harm: a name may have several records, and this one has done its work.
				one.pending = false
				o.warnAll(o.answers.retract(ctx, []answer{one}))
			}
			return nil
		})
	}
	return group.Wait()
}

// retractLeft takes away what earlier runs left, but for some answers.
func (o *order) retractLeft(ctx context.Context, except []answer) {
	ready := func(s challenge.Solver) error { return o.ready.open(ctx, s, o.session.key.Public()) }
	old, told := o.answers.takeOver(ready, o.config.Solve, o.config.Now(), except)
	o.warnAll(told)
	o.warnAll(o.answers.retract(ctx, old))
}

// judged waits until an authorization is pending no more.
func (o *order) judged(ctx context.Context, t *task) error {
	deadline := time.Now().Add(validationTime)
	for pause := firstLook; ; pause = min(pause*8/5, patientLook) {
		wait, _ := o.wire.wait(t.url)
		if err := o.config.Sleep(ctx, min(max(wait, pause), validationTime)); err != nil {
			return err
		}
		authorization, err := o.authorization(t.url)
		if err != nil || authorization.Status == lego.StatusValid {
			return err
		}
		if err := failedAuthorization(authorization, t.solver); err != nil {
			return err
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("%s%s: still %s after %v", FailedValidation, t.asked, printable.Phrase(authorization.Status), validationTime)
		}
	}
}

// retract takes away all answers that are visible. It goes on for a moment when the order is interrupted.
func (o *order) retract(ctx context.Context) {
	ctx, cancel := o.grace.Context(ctx, retractTime)
	defer cancel()
	o.retractLeft(ctx, nil)
	o.warnAll(o.answers.retract(ctx, o.answers.all()))
}

// retractTime bounds the taking away of answers.
const retractTime = time.Minute

func (o *order) warnAll(errs []error) {
	for _, err := range errs {
		o.warn("%v", err)
	}
}

func (o *order) warn(format string, args ...any) {
	o.saving.Lock()
	defer o.saving.Unlock()
	o.warnings = append(o.warnings, fmt.Sprintf(format, args...))
}

func (o *order) sideBySide() *errgroup.Group {
	var group errgroup.Group
	group.SetLimit(sideBySide)
	return &group
}

func (o *order) authorization(url string) (lego.Authorization, error) {
	return call(o.session, "authorization", func() (lego.Authorization, error) { return o.core.Authorizations.Get(url) })
}

// A validator that could not connect may leave the challenge pending with an error for ever (step-ca and Caddy do), so
// such a challenge is sent again a few times before its error counts.
const (
	challengeTries = 3
	challengePause = time.Second
)

// offered are the challenges of an authorization, for people.
func offered(authorization lego.Authorization) string {
	var types []string
	for _, challenge := range authorization.Challenges {
		types = append(types, challenge.Type)
	}
	return strings.Join(printable.Lines(types, 100, 10), ", ")
}

// asked is the name of the order's that an authorization is for, with the asterisk that the CA leaves out.
func (o *order) asked(authorization lego.Authorization) (string, bool) {
	name, err := certstore.CanonicalName(authorization.Identifier.Value)
	if authorization.Wildcard {
		name = "*." + name
	}
	return name, err == nil && slices.Contains(o.request.Names, name)
}

// task finds out how an authorization is to be proven.
func (o *order) task(url string, authorization lego.Authorization) (*task, error) {
	asked, ok := o.asked(authorization)
	if !ok {
		return nil, fmt.Errorf("the CA wants a proof for %s, which was not asked for", printable.Phrase(authorization.Identifier.Value))
	}
	solver := o.config.Solve(asked)
	if authorization.Status != lego.StatusPending {
		return nil, failedAuthorization(authorization, solver)
	}
	at := slices.IndexFunc(authorization.Challenges, func(c lego.Challenge) bool { return c.Type == solver.Type() })
	if at < 0 {
		return nil, hint.Add(fmt.Errorf("%s: the CA offers no %s challenge", asked, solver.Type()), "it offers: %s", offered(authorization))
	}
	chosen := authorization.Challenges[at]
	if !challenge.IsToken(chosen.Token) {
		return nil, fmt.Errorf("%s: the CA's token is none: %s", asked, printable.Phrase(chosen.Token))
	}
	return &task{
		answer: answer{
			Proof: challenge.Proof{Name: strings.TrimPrefix(asked, "*."), Token: chosen.Token, Thumbprint: o.thumbprint},
			asked: asked, solver: solver, at: o.config.Now(), pending: true,
		},
		url: url, authorization: authorization, challenge: chosen,
	}, nil
}

// prove makes an answer visible and has the CA look.
func (o *order) prove(ctx context.Context, t *task) error {
	o.reached(Answering, t.asked)
	err := o.answerChallenge(ctx, t)
	switch {
	case err == nil:
		o.reached(Judging, t.asked)
	case ctx.Err() == nil: // else it was given up because of another name
		o.reached(Unproven, t.asked)
	}
	return err
}

func (o *order) answerChallenge(ctx context.Context, t *task) error {
	o.answers.show(t.Proof)
	if err := t.solver.Present(ctx, t.Proof); err != nil {
		return err
	}
	if isAnswered(t.authorization, t.solver.Type()) {
		return nil // by an earlier run; the CA may still come to look
	}
	for try := 1; ; try++ {
		challenge, err := call(o.session, "challenge", func() (lego.ExtendedChallenge, error) {
			return o.core.Challenges.New(t.challenge.URL)
		})
		if IsRefusal(err) {
			// A challenge that was answered before, by a run that was killed or by a request whose answer got lost,
			// cannot be answered again.
			if now, lookErr := o.authorization(t.url); lookErr == nil && isAnswered(now, t.solver.Type()) {
				return failedAuthorization(now, t.solver)
			}
		}
		if err != nil {
			return err
		}
		if challenge.Error == nil || challenge.Status == lego.StatusValid {
			return nil
		}
		if challenge.Status == lego.StatusInvalid || try == challengeTries {
			return validationHint(failedValidation(t.asked, challenge.Error), t.solver)
		}
		if err := o.config.Sleep(ctx, challengePause); err != nil {
			return err
		}
	}
}

// isAnswered tells whether an authorization's challenge was answered and is being judged, or was.
func isAnswered(authorization lego.Authorization, challengeType string) bool {
	judged := []string{lego.StatusProcessing, lego.StatusValid, lego.StatusInvalid}
	return slices.ContainsFunc(authorization.Challenges, func(c lego.Challenge) bool {
		return c.Type == challengeType && slices.Contains(judged, c.Status)
	})
}

// finish brings an order whose names are proven to its certificate: it finalizes it with the key, and waits until the
// certificate is there.
func (o *order) finish() (crypto.Signer, error) {
	var made keyResult
	select {
	case made = <-o.key:
	case <-o.ctx.Done():
		return nil, context.Cause(o.ctx)
	}
	if made.err != nil {
		return nil, made.err
	}
	for o.at.Status == lego.StatusReady {
		err := o.finalize(made.key)
		switch {
		case isType(err, "orderNotReady"):
			// CAs with several servers say that of an order that another of them called ready.
			o.at.Status = lego.StatusPending
			err = o.waitWhile(lego.StatusPending)
		case err == nil:
			err = o.waitWhile(lego.StatusProcessing, lego.StatusReady)
		}
		if err != nil {
			return nil, err
		}
	}
	return made.key, o.waitWhile(lego.StatusProcessing)
}

// waitWhile looks at the order until its status is another than those named. An invalid order is an error at once.
func (o *order) waitWhile(statuses ...string) error {
	for slices.Contains(statuses, o.at.Status) {
		if time.Now().After(o.deadline) {
			return errors.Join(fmt.Errorf("order: still %s after %v", printable.Phrase(o.at.Status), validationTime), o.failedAuthorizations())
		}
		if err := o.pause(); err != nil {
			return err
		}
		if err := o.look(); err != nil {
			return err
		}
	}
	if o.at.Status == lego.StatusInvalid {
		return o.whyInvalid()
	}
	return nil
}

// pause waits until the order may be looked at again: as long as the CA's Retry-After says, else a little longer than
// the last time.
func (o *order) pause() error {
	o.pauses = min(max(o.pauses*8/5, firstLook), longestLook)
	if time.Until(o.deadline) < validationTime-patience {
		o.pauses = patientLook
	}
	if wait, ok := o.wire.wait(o.url); ok {
		// No time, or one that is past by our clock, is no leave to ask without a pause.
		return o.config.Sleep(o.ctx, min(max(wait, o.pauses), validationTime))
	}
	// While the last answer came here and the next question goes there the CA has its time as well.
	return o.config.Sleep(o.ctx, max(0, o.pauses-o.wire.trip()))
}

func (o *order) look() error {
	at, err := call(o.session, "order", func() (lego.ExtendedOrder, error) { return o.core.Orders.Get(o.url) })
	if err == nil {
		o.at = at.Order
	}
	return err
}

// finalize sends the CSR; the answer is the order as it is then, and its Retry-After is the order's.
func (o *order) finalize(key crypto.Signer) error {
	csr, err := newCSR(o.request.Names, key)
	if err != nil {
		return err
	}
	url := o.at.Finalize
	at, err := call(o.session, "finalize", func() (lego.ExtendedOrder, error) { return o.core.Orders.UpdateForCSR(url, csr) })
	if err != nil {
		return err
	}
	o.at, o.pauses = at.Order, 0
	if wait, ok := o.wire.wait(url); ok {
		o.wire.retryAfter.Store(o.url, o.config.Now().Add(wait))
	}
	return nil
}

// newCSR asks for exactly the names, without a common name: it could only repeat one of them, and CAs refuse an address
// there.
func newCSR(names []string, key crypto.Signer) ([]byte, error) {
	var request x509.CertificateRequest
	request.DNSNames, request.IPAddresses = certstore.SplitNames(names)
	return x509.CreateCertificateRequest(rand.Reader, &request, key)
}

// whyInvalid collects what the CA says about an order that it gave up.
func (o *order) whyInvalid() error {
	if err := o.failedAuthorizations(); err != nil {
		return err
	}
	if o.at.Error != nil {
		return validationHint(problemError("order", o.at.Error), nil)
	}
	return errors.New("order: the CA made it invalid without saying why")
}

func (o *order) failedAuthorizations() error {
	why := make([]error, len(o.at.Authorizations))
	group := o.sideBySide()
	for i, url := range o.at.Authorizations {
		group.Go(func() error {
			if authorization, err := o.authorization(url); err == nil {
				var solver challenge.Solver
				name, isAsked := o.asked(authorization)
				if isAsked {
					solver = o.config.Solve(name)
				}
				why[i] = failedAuthorization(authorization, solver)
				switch {
				case isAsked && why[i] != nil:
					o.reached(Unproven, name)
				case isAsked && authorization.Status == lego.StatusValid:
					o.reached(Proven, name)
				}
			}
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	failed := slices.DeleteFunc(why, func(err error) bool { return err == nil })
	if len(failed) <= 1 {
		return errors.Join(failed...)
	}
	words := make([]string, len(failed))
	for i, err := range failed {
		words[i] = err.Error()
	}
	return validationHint(&Error{Detail: printable.Line(strings.Join(words, BetweenFailures), printable.Sentence)}, nil)
}

// failedAuthorization explains why an authorization can no longer be proven; nil while it can.
func failedAuthorization(authorization lego.Authorization, solver challenge.Solver) error {
	if authorization.Status == lego.StatusPending || authorization.Status == lego.StatusValid {
		return nil
	}
	name := printable.Phrase(authorization.Identifier.Value)
	for _, challenge := range authorization.Challenges {
		if challenge.Error != nil {
			return validationHint(failedValidation(name, challenge.Error), solver)
		}
	}
	return fmt.Errorf("%s%s: the authorization is %s", FailedValidation, name, printable.Phrase(authorization.Status))
}

// downloadTries bounds the requests for a certificate that the CA says it issued: some need a moment to find it.
const downloadTries = 5

func (o *order) download(key crypto.Signer) (*certstore.Bundle, error) {
	var chain []byte
	for try := 1; ; try++ {
		got, err := call(o.session, "certificate", func() ([]byte, error) {
			chain, _, err := o.core.Certificates.Get(o.at.Certificate, true)
			return chain, err
		})
		if err == nil {
			chain = got
			break
		}
		var answered *Error
		if try == downloadTries || !errors.As(err, &answered) || answered.Status != 404 {
			return nil, err
		}
		if err := o.config.Sleep(o.ctx, time.Duration(try)*longestLook); err != nil {
			return nil, err
		}
	}
	bundle, err := o.accept(key, o.prefer(chain))
	return bundle, hint.Add(err, "the CA does not issue what it is asked for: look at its policy or template; the old certificate stays in use")
}

// prefer chooses among the chains that the CA offers (RFC 8555 section 7.4.2). The default one is kept when none leads
// where it should, which is worth a warning.
func (o *order) prefer(chain []byte) []byte {
	want := o.config.PreferredChain
	if want == "" || o.leadsTo(chain, want) {
		return chain
	}
	all, err := call(o.session, "certificate", func() (map[string]*lego.RawCertificate, error) {
		return o.core.Certificates.GetAll(o.at.Certificate, true)
	})
	if err != nil {
		o.warn("the other chains cannot be had (%v); the CA's default is used", err)
		return chain
	}
	for _, url := range slices.Sorted(maps.Keys(all)) {
		if o.leadsTo(all[url].Cert, want) {
			return all[url].Cert
		}
	}
	o.warn("the CA offers no chain to %q; its default is used", want)
	return chain
}

// leadsTo tells whether a chain holds a certificate, or ends below one, that has a common name or fingerprint.
func (o *order) leadsTo(chain []byte, want string) bool {
	certs, err := certstore.ParseCertificates(trimPEM(chain))
	if err != nil {
		return false
	}
	if certs[len(certs)-1].Issuer.CommonName == want {
		return true
	}
	if o.config.IssuerRoots != nil {
		if chains, err := certstore.Verify(certs[0], certs[1:], o.config.IssuerRoots, o.config.Now()); err == nil {
			certs = append(certs, chains[0][len(chains[0])-1])
		}
	}
	return slices.ContainsFunc(certs[1:], func(c *x509.Certificate) bool {
		return c.Subject.CommonName == want || certstore.Fingerprint(c) == want
	})
}

// accept checks that what came back is what was asked for. The error is ErrUnfit where that will not change: by then the
// order is of no more use. A clock or a root may be set right.
func (o *order) accept(key crypto.Signer, chain []byte) (*certstore.Bundle, error) {
	certs, err := certstore.ParseCertificates(trimPEM(chain))
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrUnfit, printable.Phrase(err.Error()))
	}
	bundle, err := certstore.NewBundle(key, certs)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", ErrUnfit, printable.Phrase(err.Error()))
	}
	leaf, now := bundle.Leaf(), o.config.Now()
	want := slices.Sorted(slices.Values(o.request.Names))
	if got := certstore.CertificateNames(leaf); !slices.Equal(got, want) {
		return nil, fmt.Errorf("%w: its names are %s instead of %s", ErrUnfit, printable.Phrase(strings.Join(got, ", ")), strings.Join(want, ", "))
	}
	if leaf.NotBefore.After(now.Add(certstore.MaxSkew)) {
		return nil, hint.Add(fmt.Errorf("the CA's certificate is not valid before %s", printable.Time(leaf.NotBefore)), "check this host's clock")
	}
	if !leaf.NotAfter.After(now) {
		return nil, hint.Add(fmt.Errorf("%w: it expired at %s", ErrUnfit, printable.Time(leaf.NotAfter)), "check this host's clock")
	}
	if o.config.IssuerRoots == nil {
		return bundle, nil
	}
	if _, err := certstore.Verify(bundle.Leaf(), bundle.Chain(), o.config.IssuerRoots, now); err != nil {
		return nil, hint.Add(fmt.Errorf("%w", tame("the CA's certificate is refused", err)), "set acme.issuer_root to the root that this CA issues from")
	}
	return bundle, nil
}

// trimPEM leaves only the certificate blocks, so that a CA that adds others does no harm.
func trimPEM(text []byte) []byte {
	var out []byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			out = append(out, pem.EncodeToMemory(&pem.Block{Type: block.Type, Bytes: block.Bytes})...)
		}
	}
	return out
}
