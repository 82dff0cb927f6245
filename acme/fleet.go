package acme

import (
	"context"
	"errors"
	"sync"
	"time"

	"maascert/acme/challenge"
	"maascert/certstore"
)

// Fleet is what hosts that share a store know of each other's orders, as those who answer challenges want to know it. It is safe for
// concurrent use.
type Fleet struct {
	Store certstore.Store
	Node  string // what this host calls itself
	Now   func() time.Time

	publishing sync.Mutex // so that answers to one order do not overwrite each other again and again
}

var _ challenge.Fleet = (*Fleet)(nil)

// Known reads the store's account and what all hosts published.
func (f *Fleet) Known(ctx context.Context) (challenge.Known, error) {
	store := certstore.Ahead(ctx, f.Store, certstore.Wanted{Documents: []string{"account"}, Folders: []string{"answers"}})
	account, _, loading := certstore.LoadAccount(ctx, store)
	answers, listing := certstore.LoadAnswers(ctx, store, f.Now())
	if err := errors.Join(loading, listing); err != nil {
		return challenge.Known{}, err
	}
	known := challenge.Known{Published: map[string][]challenge.Proof{}}
	for _, one := range answers {
		known.Published[one.Type] = append(known.Published[one.Type], challenge.Proof{Name: one.Name, Token: one.Token, Thumbprint: one.Thumbprint})
	}
	if account.Key == "" {
		return known, nil
	}
	thumbprint, err := account.Thumbprint()
	known.Thumbprint = challenge.Thumbprint(thumbprint)
	return known, err
}

// Publish writes an answer into the store.
func (f *Fleet) Publish(ctx context.Context, kind string, p challenge.Proof) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return certstore.PublishAnswer(ctx, f.Store, f.Node, f.answer(kind, p))
}

// Withdraw removes it.
func (f *Fleet) Withdraw(ctx context.Context, kind string, p challenge.Proof) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return certstore.WithdrawAnswer(ctx, f.Store, f.Node, f.answer(kind, p), f.Now())
}

func (f *Fleet) answer(kind string, p challenge.Proof) certstore.Answer {
	return certstore.Answer{Type: kind, Name: p.Name, Token: p.Token, Thumbprint: p.Thumbprint, At: f.Now().UTC()}
}
