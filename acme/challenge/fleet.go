package challenge

import (
	"context"
	"sync"
	"time"

	"golang.org/x/time/rate"
)

// Fleet is what hosts that share a store know of each other's orders. A CA that validates a name may reach any of them, so each
// answers for all.
type Fleet interface {
	// Known is what any of the hosts may answer with now.
	Known(ctx context.Context) (Known, error)
	// Publish lets the other hosts give an answer to a type of challenge, until Withdraw.
	Publish(ctx context.Context, kind string, p Proof) error
	Withdraw(ctx context.Context, kind string, p Proof) error
}

// Known is what hosts that share a store can answer with.
type Known struct {
	Thumbprint Thumbprint         // of the account that they share, for any token of http-01; empty while there is none
	Published  map[string][]Proof // by the type of challenge, the newest first
}

// StandBy is a solver that can answer for orders which other hosts make.
type StandBy interface {
	Solver
	// StandBy answers for them until release is called. Orders of this process may use the address meanwhile.
	StandBy() (release func(), err error)
	// IsAnswered tells whether another program of this host has the address and answers for the fleet, as far as that can be seen.
	IsAnswered(ctx context.Context) bool
}

var (
	_ StandBy = (*Responder)(nil)
	_ StandBy = (*TLSResponder)(nil)
)

const (
	// However many strangers make a host ask, it asks the fleet askRate times a second at most, after the first askBurst; askTime bounds one
	// question.
	askRate  = 2
	askBurst = 20
	askTime  = time.Second
)

// latest is something that the fleet knows and that may change. Whoever wants to know gets what was so after he came; while the fleet
// cannot be asked, what was so last.
type latest[T any] struct {
	mu    sync.Mutex // held while the fleet is asked
	began time.Time  // when it was asked last
	known T
	rate  *rate.Limiter
}

func (l *latest[T]) get(ctx context.Context, ask func(context.Context) (T, error)) T {
	came := time.Now()
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate == nil {
		l.rate = rate.NewLimiter(askRate, askBurst)
	}
	if !l.began.Before(came) || l.rate.Wait(ctx) != nil {
		return l.known
	}
	// Whoever came may go away: the others want to know all the same.
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), askTime)
	defer cancel()
	l.began = time.Now() // also where that fails: nobody waits for one failure after another
	if known, err := ask(ctx); err == nil {
		l.known = known
	}
	return l.known
}
