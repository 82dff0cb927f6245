package command

import (
	"sync"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// standby has this host answer for orders that other hosts make, as long as its daemon runs.
type standby struct {
	mu       sync.Mutex
	ended    bool
	refused  bool // that an address cannot be listened on was said
	standing map[challenge.StandBy]func()
}

// standBy answers for other hosts' orders wherever it does not yet. An address that somebody has may be free later.
func (p *assembly) standBy(a *app) {
	if !p.config.Store.IsShared() {
		return
	}
	p.standby.mu.Lock()
	defer p.standby.mu.Unlock()
	for _, cert := range p.config.Certificates {
		issuer, isKnown := p.config.Issuers[cert.Issuer]
		for _, name := range cert.Names {
			if !isKnown || p.standby.ended {
				continue
			}
			solver, may := p.solvers.solver(issuer.ChallengeFor(name)).(challenge.StandBy)
			if !may || p.standby.standing[solver] != nil {
				continue
			}
			release, err := solver.StandBy()
			if err == nil {
				if p.standby.standing == nil {
					p.standby.standing = map[challenge.StandBy]func(){}
				}
				p.standby.standing[solver] = release
			} else if !p.standby.refused {
				p.standby.refused = true
				a.log.Warn("this host does not answer for orders of others", "error", printable.Error(err), "hint", printable.Text(hint.Of(err)))
			}
		}
	}
}

func (s *standby) end() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.ended = true
	for _, release := range s.standing {
		release()
	}
}
