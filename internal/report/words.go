package report

import (
	"fmt"
	"io"
	"slices"
	"time"

	"maascert/internal/lifecycle"
	"maascert/internal/printable"
)

// columns is how long a list may be: three lines of a narrow terminal.
const columns = 3 * 76

// reasonWords are a reason's, whoever wrote it.
func reasonWords(code string) string { return printable.Phrase(lifecycle.Reason(code).Words()) }

// headline says how a certificate is, and what comes next, in a sentence.
func (c Certificate) headline() string {
	serving, all := c.serving()
	switch lifecycle.CertState(c.State) {
	case lifecycle.StateOK:
		if all == 0 {
			return fmt.Sprintf("version %d is not due", c.Version)
		}
		return fmt.Sprintf("every endpoint serves version %d", c.Version)
	case lifecycle.StateDue:
		if c.isWatched {
			return "it is time to bring in another certificate: maascert deploy"
		}
		return fmt.Sprintf("the next pass renews it: %s", reasonWords(c.Reason))
	case lifecycle.StateHeld:
		return fmt.Sprintf("version %d is served, and renewal by time is held until %s", c.Version, c.heldUntil)
	case lifecycle.StateOverdue:
		if lifecycle.Reason(c.Reason) == lifecycle.Emergency {
			return fmt.Sprintf("it was not renewed, and ends %s", c.from(c.NotAfter))
		}
		if c.missedWindow {
			return "it was not renewed in the hours that window names"
		}
		return fmt.Sprintf("it should have been renewed %s, and was not", c.from(c.RenewAt))
	case lifecycle.StateDegraded:
		if serving == all {
			return "which names or regions MAAS has is in doubt"
		}
		return c.laggards(all-serving, all)
	case lifecycle.StateWaiting:
		switch {
		case !c.NextAttempt.IsZero():
			return fmt.Sprintf("it is due (%s), and is tried again %s, at %s", reasonWords(c.Reason), c.from(c.NextAttempt), c.NextAttempt)
		case serving < all:
			return c.laggards(all-serving, all) + "; that is tried again"
		case !c.RenewAt.IsZero() && c.RenewAt.After(c.now):
			return fmt.Sprintf("the last try failed, and the next is %s, at %s", c.from(c.RenewAt), c.RenewAt)
		default:
			return "something is still to be done: see below"
		}
	case lifecycle.StateFailed:
		if c.blind {
			return "what is stored cannot be read"
		}
		return "a person has to act"
	case lifecycle.StateMissing:
		if c.isLost {
			return "the version in use cannot be read; another one is ordered"
		}
		return "there is no certificate yet"
	case lifecycle.StateExpired:
		return fmt.Sprintf("IT ENDED %s", c.from(c.NotAfter))
	default:
		return reasonWords(c.Reason)
	}
}

// laggards counts the endpoints that do not serve the version in use.
func (c Certificate) laggards(some, all int) string {
	verb := "do"
	if some == 1 {
		verb = "does"
	}
	return fmt.Sprintf("%d of %d endpoints %s not serve version %d", some, all, verb, c.Version)
}

// serving counts the endpoints that serve the version in use as they should, and all of them.
func (c Certificate) serving() (serving, all int) {
	for _, target := range c.Targets {
		for _, endpoint := range target.Endpoints {
			all++
			if endpoint.isGood {
				serving++
			}
		}
	}
	return serving, all
}

// from tells how far a moment is from when the certificate was looked at.
func (c Certificate) from(t Time) string { return printable.From(c.now, t.Time) }

// dated is a moment and how far it is.
func dated(t Time, now time.Time) string {
	if t.IsZero() {
		return t.String()
	}
	return fmt.Sprintf("%s (%s)", t, printable.From(now, t.Time))
}

// mostEndpoints is how many endpoints of one kind are told of one by one.
const mostEndpoints = 10

// printEndpoints tells of what endpoints serve; those that are not as they should be come first.
func printEndpoints(w io.Writer, indent string, endpoints []Endpoint) {
	for _, isGood := range []bool{false, true} {
		told, more := 0, 0
		for _, endpoint := range endpoints {
			switch {
			case endpoint.isGood != isGood:
			case told < mostEndpoints:
				fmt.Fprintf(w, "%s%s\n", indent, endpoint)
				told++
			default:
				more++
			}
		}
		switch {
		case more > 0 && isGood:
			fmt.Fprintf(w, "%sand %d more that serve it\n", indent, more)
		case more > 0:
			fmt.Fprintf(w, "%sand %d more that do not; --json lists all\n", indent, more)
		}
	}
}

func endpointsOf(targets []Target) []Endpoint {
	var all []Endpoint
	for _, target := range targets {
		all = append(all, target.Endpoints...)
	}
	return all
}

// Words writes the document for people: what is not as it should be first, each with what to do about it.
func (c Certificate) Words(w io.Writer) {
	fmt.Fprintf(w, "%s: %s: %s\n", c.Name, c.State, c.headline())
	told := map[string]bool{}
	tell := func(words, hint string) {
		if words != "" && !told[words] {
			fmt.Fprintf(w, "  %s\n", words)
		}
		if hint != "" && !told[hint] {
			printHint(w, hint)
		}
		told[words], told[hint] = true, true
	}
	for _, target := range c.Targets {
		c.wordsOfTarget(w, target, tell)
	}
	for _, trouble := range c.open {
		switch {
		case trouble.Target != "":
		case lifecycle.Stage(trouble.Stage) == lifecycle.StageObtain && !c.missedWindow: // the headline has said it
			tell("", trouble.Hint)
		default:
			tell(trouble.Error, trouble.Hint)
		}
	}
	if lifecycle.CertState(c.State) == lifecycle.StateMissing && c.LastFailure == nil && !c.isWatched {
		tell("", "maascert renew obtains one; where MAAS does not serve TLS yet: maascert renew --enable-tls")
	}
	if last := c.LastFailure; last != nil {
		tell(fmt.Sprintf("last failure: %s, at %s", last.Error, dated(last.Time, c.now)), last.Hint)
	}
	for _, trouble := range c.Troubles[min(len(c.Troubles), 1):] { // the first is the last failure
		tell(fmt.Sprintf("%s failed too: %s", trouble.Target, trouble.Error), trouble.Hint)
	}
	if c.differs {
		tell("this host's configuration differs from the one that is followed", "")
	}
	if changes := c.Changes.String(); changes != "" {
		tell("changes: "+changes, "")
	}
	for _, warning := range c.Warnings {
		if words := printable.Text(warning); !told[words] {
			tell("warning: "+words, "")
		}
	}
	c.Rehearsal.Words(w)
	c.facts(w)
	var good []Endpoint
	for _, endpoint := range endpointsOf(c.Targets) {
		if endpoint.isGood {
			good = append(good, endpoint)
		}
	}
	printEndpoints(w, "  ", good)
}

// wordsOfTarget tells of the endpoints of a target that are not as they should be, and of what to do about them.
func (c Certificate) wordsOfTarget(w io.Writer, target Target, tell func(words, hint string)) {
	printEndpoints(w, "  ", slices.DeleteFunc(slices.Clone(target.Endpoints), func(e Endpoint) bool { return e.isGood }))
	for _, trouble := range c.open {
		if trouble.Target == target.Name && lifecycle.CertState(c.State) != lifecycle.StateMissing {
			tell(trouble.Error, trouble.Hint)
		}
	}
}

// facts tell what is in use.
func (c Certificate) facts(w io.Writer) {
	names := printable.List(c.Names, columns)
	switch {
	case c.Fingerprint != "":
		fmt.Fprintf(w, "  version %d, %s, issued by %s\n  %s\n", c.Version, c.KeyType, c.Issuer, c.Fingerprint)
		c.drawLifetime(w)
		fmt.Fprintf(w, "  valid from %s until %s\n", c.NotBefore, dated(c.NotAfter, c.now))
		fmt.Fprintf(w, "  renewal %s\n  names: %s\n", dated(c.RenewAt, c.now), names)
	default:
		fmt.Fprintf(w, "  wanted: %s\n", names)
	}
	if c.Explanation != "" {
		fmt.Fprintf(w, "  the CA explains its renewal window: %s\n", c.Explanation)
	}
}

// drawLifetime draws the lifetime where there is a terminal to draw it on.
func (c Certificate) drawLifetime(w io.Writer) {
	if c.screen.isDrawnOn() && c.lifetime.isKnown() {
		fmt.Fprintf(w, "  %s\n  %s\n", c.lifetime.line(min(c.screen.Columns-2, longestAlone), c.screen.IsASCII), c.lifetime.legend(c.screen.IsASCII))
	}
}

func printHint(w io.Writer, words string) {
	if words != "" {
		fmt.Fprintf(w, "  hint: %s\n", printable.Text(words))
	}
}
