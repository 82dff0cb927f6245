package lifecycle

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// What a rule leads to changes by itself, so people are told: which names the certificate lacks, which it has that are gone, and for how
// long that could not be found out.

// Drift are the names that the wish's rule leads to and the next certificate lacks, and those that it has and the rule does not lead to
// any more.
func (v View) Drift() (added, missing []string) {
	if v.Plan.adopted == nil {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(v.Plan.adopted.Added)), slices.Sorted(maps.Keys(v.Plan.adopted.Missing))
}

// drift tells what a person may want to do about a rule's names.
func drift(s State, p Plan) []string {
	if p.Wish.Rule == "" || p.Wish.Rule != s.Wish.Rule {
		return nil
	}
	var found []string
	added, missing := View{Plan: p}.Drift()
	if len(added) > 0 {
		words := "its next renewal takes them along; maascert renew --force takes them now, and on_change: reissue by itself"
		switch {
		case s.Watched:
			words = "maascert deploy brings in one that has them"
		case s.Reissue:
			words = "a certificate with them is ordered when they are seen again, and the one in use is old enough"
		}
		found = append(found, "MAAS has names that the certificate lacks: "+listed(added)+": "+words)
	}
	switch {
	case len(missing) == 0:
	case len(p.Wish.Names) == 0 && len(missing) == len(p.Discovered.Names) && len(added) == 0:
		found = append(found, "MAAS does not have these names any more: "+listed(missing)+": they stay, because a certificate needs a name: set names, or what names_from_maas takes")
	default:
		found = append(found, "MAAS does not have these names any more: "+listed(missing)+": maascert renew --accept names-lost takes them out of the certificate")
	}
	if doubt := s.Found.Doubt(); doubt != nil {
		found = append(found, "which names MAAS has cannot be told, so none is added or missed: "+withHint(doubt))
	}
	for _, left := range printable.Lines(s.Found.LeftOut, printable.Word, 10) {
		found = append(found, "of what MAAS has is left out: "+left)
	}
	return found
}

// withHint is an error with what to do about it.
func withHint(err error) string {
	words := printable.Error(err)
	if advice := hint.Of(err); advice != "" {
		words += " (" + printable.Text(advice) + ")"
	}
	return words
}

func listed(names []string) string {
	const most = 10
	words := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		words += fmt.Sprintf(" and %d more", more)
	}
	return words
}

// doubtTime is how long MAAS may leave in doubt which names or regions it has before a person has to look.
const doubtTime = day

// doubt is why names or regions of MAAS's may be there that nobody knows of; nil: there are none.
func (s State) doubt() error {
	if s.Wish.Rule != "" && s.Found.Doubt() != nil {
		return s.Found.Doubt()
	}
	for _, t := range s.Targets {
		if t.Unsure != nil {
			return t.Unsure
		}
	}
	return nil
}

// doubts are since when each host is in doubt. A moment that is yet to come was written down by a clock that was ahead.
func (s State) doubts() map[string]time.Time {
	now := map[string]time.Time{}
	for host, since := range s.Record.Doubts {
		isAlive := slices.ContainsFunc(s.Nodes, func(node certstore.Node) bool { return node.Node == host })
		if host != s.Node && (isAlive || s.NodesUnknown) {
			now[host] = since
		}
	}
	if since, was := s.Record.Doubts[s.Node]; s.doubt() != nil && was && !since.After(s.Now) {
		now[s.Node] = since
	} else if s.doubt() != nil {
		now[s.Node] = s.Now.UTC()
	}
	if len(now) == 0 {
		return nil
	}
	return now
}

// lastingDoubt is a doubt that has lasted for so long that it does not heal by itself, or nil.
func (s State) lastingDoubt() error {
	if since, is := s.doubts()[s.Node]; is && s.Now.Sub(since) > doubtTime {
		return hint.Add(fmt.Errorf("since %s MAAS leaves in doubt which names or regions it has: %w", printable.Time(since), s.doubt()), "maascert check asks it")
	}
	return nil
}

// LastingDoubt is why a person has to look: for how long MAAS has left in doubt which names or regions it has; nil: it has not.
func (v View) LastingDoubt() error { return v.State.lastingDoubt() }

// suspects are names of MAAS's that may be why an order failed; empty for none.
func suspects(s State, p Plan) string {
	if p.adopted == nil {
		return ""
	}
	var certified []string
	if s.Current != nil {
		certified = certstore.CertificateNames(s.leaf())
	}
	var recent []string
	for _, name := range p.adopted.Names {
		if !slices.Contains(certified, name) {
			recent = append(recent, name)
		}
	}
	var words []string
	if len(recent) > 0 {
		words = append(words, "new: "+listed(recent))
	}
	if _, missing := (View{Plan: p}).Drift(); len(missing) > 0 {
		words = append(words, "MAAS does not have any more: "+listed(missing)+" (maascert renew --accept names-lost takes them out)")
	}
	return strings.Join(words, "; ")
}

// unnamed is the trouble of a certificate whose names are not known.
func unnamed(why error) error {
	return hint.Add(fmt.Errorf("nothing is ordered before MAAS's names are known: %w", why), "mend that, or take names_from_maas out of the configuration")
}
