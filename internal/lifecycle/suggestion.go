package lifecycle

import (
	"context"
	"errors"
	"hash/fnv"
	"math"
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
	if last != nil && acme.Counts(last.Asked, last.AskAgain, state.Now) {
		state.Suggested = last
		if state.Window = windowOf(state.Current, last.Start, last.End, last.Explanation, last.AskAgain); state.Window != nil {
			state.Window.Asked = last.Asked
		}
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
		Version: state.Current.Number, Explanation: window.Explanation, Asked: window.Asked.UTC(), AskAgain: window.AskAgain.UTC(),
	}
	if err == nil {
		state.Suggested.Start, state.Suggested.End = window.Start.UTC(), window.End.UTC()
	}
}

// asksAfter is after how long it is this host's turn to ask again: hosts that share an answer do not all ask at the same moment, and those that
// come later find that the first one did.
func (s State) asksAfter() time.Duration {
	hash := fnv.New32a()
	hash.Write([]byte(s.Node)) // which never fails
	patience := 5 * time.Minute
	if s.Window != nil && !s.Window.Asked.IsZero() {
		patience = min(patience, s.Window.AskAgain.Sub(s.Window.Asked)/10)
	}
	return time.Duration(float64(max(0, patience)) * float64(hash.Sum32()) / math.MaxUint32)
}

// lastWindow is the window that the CA named last of the version in use, or else when that was new; nil: none is known.
func (s *State) lastWindow(last *certstore.Suggestion) *acme.Window {
	again := s.Now.Add(outageAsk)
	if last != nil && !last.Start.IsZero() {
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

// rememberSuggestion writes down what the CA was asked in this pass, so that the next one, of whichever host, need not ask. Nothing depends
// on it: it takes no lock, and the CA is asked once more where it fails. What another host heard later stays.
func (p *pass) rememberSuggestion(ctx context.Context) {
	said := p.result.After.State.Suggested
	if said == nil || !acme.Counts(said.Asked, said.AskAgain, p.Now()) || !isNews(p.ledger.Record().Suggested, said) || ctx.Err() != nil {
		return
	}
	err := p.update(ctx, func(r *certstore.Record) {
		if r.Current == said.Version && isNews(r.Suggested, said) {
			r.Suggested = said
		}
	})
	if err != nil {
		p.Log.Warn("writing down the renewal information", "cert", p.cert.Name, "error", err)
	}
}

// isNews tells whether what was said is of another version than what is known, or was said later. What is known from a time to come is
// of a clock that was wrong.
func isNews(known, said *certstore.Suggestion) bool {
	return known == nil || known.Version != said.Version || known.Asked.Before(said.Asked) || known.Asked.After(said.AskAgain)
}
