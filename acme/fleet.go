package acme

import (
	"context"
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

// Thumbprint is that of the account in the store.
func (f *Fleet) Thumbprint(ctx context.Context) (challenge.Thumbprint, error) {
	account, _, err := certstore.LoadAccount(ctx, f.Store)
	if err != nil || account.Key == "" {
		return "", err
	}
	key, err := account.Signer()
	if err != nil {
		return "", err
	}
	thumbprint, err := challenge.ThumbprintOf(key.Public())
	return challenge.Thumbprint(thumbprint), err
}

// Publish writes an answer into the store.
func (f *Fleet) Publish(ctx context.Context, p challenge.Proof) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return certstore.PublishAnswer(ctx, f.Store, f.Node, f.answer(p))
}

// Withdraw removes it.
func (f *Fleet) Withdraw(ctx context.Context, p challenge.Proof) error {
	f.publishing.Lock()
	defer f.publishing.Unlock()
	return certstore.WithdrawAnswer(ctx, f.Store, f.Node, f.answer(p), f.Now())
}

const tlsALPN = "tls-alpn-01"

func (f *Fleet) answer(p challenge.Proof) certstore.Answer {
	return certstore.Answer{Type: tlsALPN, Name: p.Name, Token: p.Token, Thumbprint: p.Thumbprint, At: f.Now().UTC()}
}

// Published reads what all hosts published.
func (f *Fleet) Published(ctx context.Context) ([]challenge.Proof, error) {
	answers, err := certstore.LoadAnswers(ctx, f.Store, f.Now())
	var all []challenge.Proof
	for _, one := range answers {
		if one.Type == tlsALPN {
			all = append(all, challenge.Proof{Name: one.Name, Token: one.Token, Thumbprint: one.Thumbprint})
		}
	}
	return all, err
}
