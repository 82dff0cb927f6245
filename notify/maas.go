package notify

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"

	"maascert/internal/hint"
	"maascert/internal/section"
)

// MAASSection are the keys of a notifier of type maas: it has none of its own, because it asks the API that maas.api names.
type MAASSection struct {
	Keys `yaml:",inline"`
}

// Check finds what is wrong.
func (s *MAASSection) Check(at section.Place) { s.check(at) }

// Make makes the notifier.
func (s *MAASSection) Make(parts Parts) Notifier {
	return &maasPage{board: parts.Noticeboard, memory: parts.Memory}
}

// maasPage tells administrators where they look: on MAAS's own page. There is one notice for each topic of a certificate: the next
// event of the topic takes its place, also where somebody dismissed it, and what is over is taken away.
type maasPage struct {
	board  Noticeboard
	memory Memory
}

func (m *maasPage) Notify(ctx context.Context, event Event) error {
	if m.board == nil {
		return &Refusal{hint.Add(errors.New("MAAS's API is not asked"), "maas.api.key: a reference to an API key of an administrator")}
	}
	if event.Over { // a notice would stay, and is taken away by nothing
		return nil
	}
	ident := identOf(event)
	earlier := 0
	if m.memory != nil {
		earlier = m.memory.Recall(ident)
	}
	if event.Kind == Recovered {
		err := m.board.Withdraw(ctx, ident, earlier)
		if err == nil {
			m.remember(ident, 0)
		}
		return err
	}
	number, err := m.board.Post(ctx, Notice{Ident: ident, Category: category(event), Message: "maascert: " + event.Line() + dismissal(event)}, earlier)
	if err == nil {
		m.remember(ident, number)
	}
	return err
}

func (m *maasPage) remember(ident string, number int) {
	if m.memory != nil {
		m.memory.Remember(ident, number)
	}
}

// dismissal says of a notice that nothing takes away that a person may.
func dismissal(event Event) string {
	switch event.Kind {
	case Test, TrustChanged, NamesChanged, Revoked, Obtained, Deployed:
		return " (Dismiss this when you have read it.)"
	default:
		return ""
	}
}

// identOf is one that MAAS takes, whatever certificates and topics are called (MAAS fact 4.4).
func identOf(event Event) string {
	sum := sha256.Sum256([]byte(event.Cert + "\n" + event.Topic))
	return "maascert-" + hex.EncodeToString(sum[:8])
}

// category is how loud MAAS's page says it.
func category(event Event) string {
	switch event.Kind {
	case Failed, RehearsalFailed, Expiring:
		return "error"
	case Degraded, Drift, TrustChanged, Silent, RehearsalSkipped, NamesChanged:
		return "warning"
	case Obtained, Deployed:
		return "success"
	default:
		return "info"
	}
}
