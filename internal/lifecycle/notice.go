package lifecycle

import (
	"context"
	"time"

	"maascert/internal/hint"
	"maascert/maasconfig"
)

// Aligner has MAAS's own notice of expiry follow what is served.
type Aligner interface {
	// Align has MAAS tell of the certificate's end so many days before, or not at all for 0.
	Align(ctx context.Context, days int) error
}

const (
	// shortestNoticed is the lifetime from which on MAAS's notice makes sense: it calls a certificate expired that has a day left.
	shortestNoticed = 7 * day
	// alignTime bounds the calls for that.
	alignTime = 15 * time.Second
	// longestNotice is how many days before the end MAAS tells of it at the most.
	longestNotice = 90
)

// noticeDays is how many days before a certificate's end MAAS should tell of it: when half of the time has gone in which it should have
// been renewed, so that it does not cry wolf. 0: it should not. A CA's word counts only where it is a late one: it changes, and what MAAS
// was told should not.
func noticeDays(s State) int {
	leaf := s.leaf()
	if lifetime(leaf) < shortestNoticed {
		return 0
	}
	notice := leaf.NotAfter.Sub(s.dueByLifetime()) / 2
	if left := leaf.NotAfter.Sub(s.renewAt()); left < notice {
		notice = left / 2
	}
	days := int((notice + time.Hour) / day) // a lifetime of 90 days lacks a second
	if left := leaf.NotAfter.Sub(s.renewAt()); left <= day {
		return 0 // MAAS calls it expired before it is renewed in time
	}
	return max(1, min(longestNotice, days))
}

// NoticeIsEarly tells whether a notice of MAAS's own, so many days before the end of the version in use, would come before that is renewed in
// its time. MAAS counts whole days, and calls a certificate expired that has less than one left (MAAS fact 3.1).
func (v View) NoticeIsEarly(days int) bool {
	leaf := v.State.leaf()
	return noticeDays(v.State) == 0 || leaf.NotAfter.Add(-time.Duration(days+1)*day).Before(v.State.renewAt())
}

// align has MAAS's own notice follow the version in use, once every region serves it. That it cannot is a warning.
func (p *pass) align(ctx context.Context) {
	state := p.result.After.State
	if p.cert.Aligner == nil || state.Current == nil || ctx.Err() != nil {
		return
	}
	for i, t := range state.Targets {
		if !p.cert.Targets[i].Info().Shared || !maasconfig.Serving(t.Endpoints) {
			continue
		}
		ctx, cancel := context.WithTimeout(ctx, alignTime)
		defer cancel()
		if err := p.cert.Aligner.Align(ctx, noticeDays(state)); err != nil {
			p.warn("MAAS's own notice of expiry is not aligned: %v (%s)", err, hint.Of(err))
		}
		return
	}
}
