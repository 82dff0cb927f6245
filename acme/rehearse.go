package acme

import (
	"context"
	"errors"

	lego "github.com/go-acme/lego/v4/acme"
)

// Rehearse does all of Obtain but the last step: it registers the account, orders, proves every name, and leaves the
// order without finalizing it, so that the CA issues nothing. Authorizations that it proved itself are deactivated where
// the CA allows that, so that the next order proves the names again; reused ones are left alone. Rehearsals use a store
// of their own: an account whose key was made for this one is deactivated at the end.
//
// The error is ErrExternalAccount when the rehearsal would bind an account for good.
func (c *Client) Rehearse(ctx context.Context, request Request) (requests int, err error) {
	s, err := c.open(ctx)
	if err != nil {
		return 0, err
	}
	request.Resume = nil
	o := &order{session: s, request: request}
	err = o.prove()
	err = errors.Join(err, ignoreRefusal(o.cleanUp()))
	return s.sent(), err
}

// prove brings an order to the point where it could be finalized.
func (o *order) prove() error {
	release, err := o.config.Responder.bind(o.ctx, o.session.key.Public())
	if err != nil {
		return err
	}
	defer release()
	if err := o.begin(); err != nil {
		return err
	}
	if err := o.authorize(); err != nil {
		return err
	}
	return o.leave(lego.StatusPending)
}

func (o *order) cleanUp() error {
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
		err = errors.Join(err, gone)
	}
	return err
}

// ignoreRefusal drops a CA's refusal to tidy up: step-ca, for one, cannot deactivate authorizations.
func ignoreRefusal(err error) error {
	var answered *Error
	if errors.As(err, &answered) {
		return nil
	}
	return err
}
