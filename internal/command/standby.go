package command

import (
	"context"
	"log/slog"
	"sync"
	"time"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// standby has this host answer for orders that other hosts make, as long as its daemon runs.
type standby struct {
	mu       sync.Mutex
	ended    bool
	refused  map[challenge.StandBy]bool // that cannot listen, which was looked into
	standing map[challenge.StandBy]func()
}

// standBy answers for other hosts' orders wherever it does not yet. An address that somebody has may be free later.
func (p *assembly) standBy(a *app) {
	if !p.config.Store.IsShared() {
		return
	}
	p.standby.mu.Lock()
	defer p.standby.mu.Unlock()
	if p.standby.standing == nil {
		p.standby.standing, p.standby.refused = map[challenge.StandBy]func(){}, map[challenge.StandBy]bool{}
	}
	for _, cert := range p.config.Certificates {
		issuer, isKnown := p.config.Issuers[cert.Issuer]
		if !isKnown || p.standby.ended {
			continue
		}
		for _, way := range issuer.Ways() {
			if solver, may := p.solvers.solver(way).(challenge.StandBy); may && p.standby.standing[solver] == nil {
				p.standby.begin(a.log, solver)
			}
		}
	}
}

// begin has a solver stand by. That it cannot is said once, unless whoever has the address answers for us.
func (s *standby) begin(log *slog.Logger, solver challenge.StandBy) {
	release, err := solver.StandBy()
	switch {
	case err == nil:
		s.standing[solver] = release
		if s.refused[solver] {
			log.Info("this host answers for orders of others", "challenge", solver.Type())
		}
	case !s.refused[solver]:
		s.refused[solver] = true
		ctx, cancel := context.WithTimeout(context.Background(), answeredTime)
		defer cancel()
		if !solver.IsAnswered(ctx) {
			log.Warn("this host does not answer for orders of others", "challenge", solver.Type(), "error", printable.Error(err), "hint", printable.Text(hint.Of(err)))
		}
	}
}

// answeredTime bounds finding out whether another program answers for us.
const answeredTime = 5 * time.Second

func (s *standby) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, release := range s.standing {
		release()
	}
}
