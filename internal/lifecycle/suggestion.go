package lifecycle

import (
	"context"
	"errors"
	"time"

	"maascert/acme"
	"maascert/certstore"
)

// A CA that could not be asked for its renewal information is asked again after outageAsk.
const outageAsk = time.Hour

// lookUpSuggestion finds out when the CA suggests to renew the version in use (RFC 9773): by its last answer until it may be
// asked again, whichever host asked, else by asking it. An outage of this renews nothing and blocks nothing: what it said last
// counts.
func (e *Engine) lookUpSuggestion(ctx context.Context, cert Certificate, state *State) {
	if state.Current == nil || state.Current.Directory == "" || state.Current.Directory != cert.Wish.Directory || cert.Issuer == nil {
		return // this CA does not know it
	}
	last := state.Record.Suggested
	if last != nil && last.Version != state.Current.Number {
		last = nil
	}
	if last != nil && counts(*last, state.Now) {
		state.Suggested = last
		state.Window = windowOf(state.Current, last.Start, last.End, last.Explanation, last.AskAgain)
		return
	}
	ctx, cancel := context.WithTimeout(ctx, windowTime)
	defer cancel()
	window, err := cert.Issuer.Window(ctx, state.Current.Bundle.Leaf())
	switch {
	case err == nil:
		state.Window = &window
	case !errors.Is(err, acme.ErrNoWindow):
		e.Log.Warn("renewal information", "cert", cert.Name, "error", err)
		state.Window = state.lastWindow(last)
		return
	}
	state.Suggested = &certstore.Suggestion{
		Version: state.Current.Number, Explanation: window.Explanation, Asked: e.Now().UTC(), AskAgain: window.AskAgain.UTC(),
	}
	if err == nil {
		state.Suggested.Start, state.Suggested.End = window.Start.UTC(), window.End.UTC()
	}
}

// counts tells whether the CA need not be asked again yet. A clock that was set back since, or to which it is longer than any CA
// may ask for, makes it asked again.
func counts(s certstore.Suggestion, now time.Time) bool {
	return !now.Before(s.Asked) && now.Before(s.AskAgain) && s.AskAgain.Sub(now) <= acme.LatestAsk
}

// lastWindow is the window that the CA named last of the version in use, or else when that was new; nil: none is known.
func (s *State) lastWindow(last *certstore.Suggestion) *acme.Window {
	again := s.Now.Add(outageAsk)
	if last != nil {
		return windowOf(s.Current, last.Start, last.End, last.Explanation, again)
	}
	if first := s.Record.Window; first != nil && first.Version == s.Current.Number {
		return windowOf(s.Current, first.Start, first.End, first.Explanation, again)
	}
	return nil
}

// windowOf is a window of the record as the CA named it; nil where it named none.
func windowOf(version *certstore.Version, start, end time.Time, explanation string, again time.Time) *acme.Window {
	window, err := acme.NewWindow(version.Bundle.Leaf(), start, end)
	if err != nil {
		return nil
	}
	window.Explanation, window.AskAgain = explanation, again
	return &window
}

// rememberWindow writes down what the CA said about the version that was just brought in, by which it is seen later whether
// the CA wants it back.
func (p *pass) rememberWindow(ctx context.Context) {
	state := p.result.After.State
	if !p.result.Obtained || state.Window == nil || ctx.Err() != nil {
		return
	}
	w := state.Window
	p.fail(StageSave, p.update(ctx, func(r *certstore.Record) {
		r.Window = &certstore.Window{Version: r.Current, Start: w.Start.UTC(), End: w.End.UTC(), Explanation: w.Explanation}
		r.Suggested = state.Suggested
	}))
}

// rememberSuggestion writes down what the CA was asked in this pass, so that the next one need not ask. Nothing depends on it: it
// takes no lock, and the CA is asked once more where it fails.
func (p *pass) rememberSuggestion(ctx context.Context) {
	said := p.result.After.State.Suggested
	known := p.ledger.Record().Suggested
	if said == nil || !counts(*said, p.Now()) || known != nil && known.Version == said.Version && known.AskAgain.Equal(said.AskAgain) || ctx.Err() != nil {
		return
	}
	err := p.update(ctx, func(r *certstore.Record) {
		if r.Current == said.Version {
			r.Suggested = said
		}
	})
	if err != nil {
		p.Log.Warn("writing down the renewal information", "cert", p.cert.Name, "error", err)
	}
}
