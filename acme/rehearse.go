package acme

import (
	"context"
	"errors"
	"fmt"
	"time"

	lego "github.com/go-acme/lego/v4/acme"

	"maascert/internal/hint"
)

// Rehearse does all of Obtain but the last step: it registers the account, orders, proves every name, and leaves the
// order without finalizing it, so that the CA issues nothing. Authorizations that it proved itself are deactivated where
// the CA allows that, so that the next order proves the names again; reused ones are left alone. Rehearsals use a store
// of their own: an account whose key was made for this one is deactivated at the end.
//
// The error is ErrExternalAccount when the rehearsal would bind an account for good.
//
// What it returns has no bundle. keep leaves the authorizations as they are: an order that is under way elsewhere may
// share them.
func (c *Client) Rehearse(ctx context.Context, request Request, keep bool) (*Issued, error) {
	bounded, cancel := context.WithTimeoutCause(ctx, orderTime, fmt.Errorf("the order took more than %v", orderTime))
	defer cancel()
	s, err := c.openToOrder(bounded, request.LoseKeys)
	if err != nil {
		return &Issued{Requests: s.sent()}, err
	}
	request.Resume = nil
	o, err := c.rehearsal(bounded, s, request)
	if IsRefusal(err) && c.hasOtherKey(bounded, s) {
		// Somebody changes the account's key just now.
		o.ready.release()
		if s, err = c.openToOrder(bounded, request.LoseKeys); err != nil {
			return &Issued{Requests: s.sent()}, err
		}
		o, err = c.rehearsal(bounded, s, request)
	}
	defer o.ready.release()
	if keep {
		o.proven = nil
	}
	// What was begun is tidied up also when the rehearsal is interrupted, within the second that this leaves.
	retracted := make(chan struct{})
	go func() {
		defer close(retracted)
		o.retract(bounded)
	}()
	tidying, done := context.WithTimeout(context.WithoutCancel(ctx), tidyTime)
	defer done()
	o.ctx, o.wire.ctx = tidying, tidying
	err = errors.Join(err, ignoreRefusal(o.cleanUp(ctx)))
	<-retracted
	o.ready.release()
	return &Issued{Directory: c.config.Directory, Requests: s.sent(), Warnings: o.warnings, Reused: o.reusedNames()}, err
}

// CheckAccount asks whether the CA is there and lets the account do anything, where there is one. An account that the CA does not know is
// registered with the next order. The error is ErrDeactivated where it is of no use any more.
func (c *Client) CheckAccount(ctx context.Context) (requests int, err error) {
	bounded, cancel := context.WithTimeoutCause(ctx, checkTime, fmt.Errorf("the CA took more than %v", checkTime))
	defer cancel()
	s, err := c.open(bounded)
	if err != nil || s.account == "" {
		return s.sent(), err
	}
	found, err := call(s, "account", func() (lego.Account, error) { return s.core.Accounts.Get(s.account) })
	switch {
	case isType(err, "accountDoesNotExist"), IsRefusal(err) && c.hasOtherKey(bounded, s):
		err = nil
	case isType(err, "unauthorized"), err == nil && (found.Status == lego.StatusDeactivated || found.Status == lego.StatusRevoked):
		err = hint.Add(fmt.Errorf("%w", ErrDeactivated), "if nobody deactivated it by mistake, make another account with another key: maascert account rollover")
	}
	return s.sent(), err
}

// checkTime bounds that.
const checkTime = time.Minute

// rehearsal is an order that was brought as far as a rehearsal goes.
func (c *Client) rehearsal(ctx context.Context, s *session, request Request) (*order, error) {
	s.harmless = true
	o := &order{session: s, request: request, answers: new(answers), ready: new(ready)}
	opened, err := o.openSolvers(ctx, request.Names, s.key.Public(), false)
	if err != nil {
		return o, err
	}
	o.ready = opened
	o.ready.warn = o.warn
	return o, o.rehearse()
}

// tidyTime bounds the tidying up.
const tidyTime = 500 * time.Millisecond

// rehearse brings an order to the point where it could be finalized.
func (o *order) rehearse() error {
	if err := o.begin(); err != nil {
		return err
	}
	o.reached(Ordered, "")
	if err := o.authorize(); err != nil {
		return err
	}
	err := o.waitWhile(lego.StatusPending)
	if err == nil {
		o.reached(Proven, "")
	}
	return err
}

func (o *order) cleanUp(ctx context.Context) error {
	group := o.sideBySide()
	for _, url := range o.proven {
		group.Go(func() error {
			_, err := call(o.session, "deactivate", func() (struct{}, error) { return struct{}{}, o.core.Authorizations.Deactivate(url) })
			return err
		})
	}
	err := group.Wait()
	if o.newKey && o.account != "" {
		_, gone := call(o.session, "deactivate", func() (struct{}, error) { return struct{}{}, o.core.Accounts.Deactivate(o.account) })
		// The key is of no more use, so the next rehearsal makes another.
		err = errors.Join(err, gone, o.config.Store.Delete(ctx, "account"))
	}
	return err
}

// ignoreRefusal drops a CA's refusal to tidy up: step-ca, for one, cannot deactivate authorizations.
func ignoreRefusal(err error) error {
	var answered *Error
	if errors.As(err, &answered) || errors.Is(err, context.DeadlineExceeded) {
		return nil
	}
	return err
}
