package lifecycle

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// A wish may have a rule that leads to names which nobody wrote down: those of MAAS's regions. What it leads to changes by itself, so
// it counts only as far as it is certain: another name when it was seen in two passes, and one that is gone when a person says so. What
// could not be seen changes nothing.

// Namer finds the names that a wish's rule leads to now. maasconfig.Names is one.
type Namer interface {
	Find(ctx context.Context) maasconfig.Found
}

// secondLookAfter is how long after a name was first seen it is looked for again.
const secondLookAfter = 10 * time.Minute

// maxDiscovered bounds the names of a rule: whoever answers in MAAS's place may name any number.
const maxDiscovered = 100

// settleNames decides which names the next certificate has, and with them why there is to be one.
func (p *Plan) settleNames(s State) {
	p.Discovered, p.Unnamed = s.discover(p.Wish)
	p.nameFrom(p.Discovered)
	if p.Unnamed != nil && s.Current != nil { // what is certified stays so until the names are known
		p.Names = union(p.Names, certstore.CertificateNames(s.leaf()))
		p.Why, p.Obtain = s.reason(p.wanted())
		if p.Why == NamesChanged {
			p.Why, p.Obtain = s.reason(withNames(p.Wish, certstore.CertificateNames(s.leaf())))
		}
		return
	}
	if s.Reissue && (s.Current == nil || s.isReplaceable()) {
		p.adopt(s)
	}
	p.Why, p.Obtain = s.reason(p.wanted())
	if p.Obtain && !s.Watched { // another certificate has them without a further order
		p.adopt(s)
	}
	if s.isLate() && s.Record.Failures > 0 {
		p.fallBack(s)
		p.Why, p.Obtain = s.reason(p.wanted())
	}
}

// wanted is the wish with all names of the next certificate.
func (p Plan) wanted() certstore.Wish { return withNames(p.Wish, p.Names) }

func withNames(wish certstore.Wish, names []string) certstore.Wish {
	wish.Names = names
	return wish
}

// nameFrom sets the names of the next certificate.
func (p *Plan) nameFrom(d *certstore.Discovered) {
	p.Discovered, p.Names = d, p.Wish.Names
	if d != nil {
		p.Names = union(p.Wish.Names, d.Names)
	}
}

// union are some names, and after them those of others that are not among them.
func union(names, others []string) []string {
	all := slices.Clone(names)
	for _, name := range others {
		if !slices.Contains(all, name) {
			all = append(all, name)
		}
	}
	return all
}

// adopt takes names along that were seen in an earlier pass as well.
func (p *Plan) adopt(s State) {
	if p.Discovered == nil {
		return
	}
	d := cloneDiscovered(p.Discovered)
	for name, since := range p.Discovered.Added {
		if since.Before(s.Began) && len(d.Names) < maxDiscovered {
			d.Names = append(d.Names, name)
			delete(d.Added, name)
		}
	}
	slices.Sort(d.Names)
	p.nameFrom(d)
}

// fallBack leaves out, when what is served is about to end and orders fail, what may be the reason: names that the certificate in use has
// not, and names that MAAS does not name any more. They are named again as soon as there is a certificate.
func (p *Plan) fallBack(s State) {
	if p.Discovered == nil {
		return
	}
	d, certified := cloneDiscovered(p.Discovered), certstore.CertificateNames(s.leaf())
	d.Names = slices.DeleteFunc(d.Names, func(name string) bool {
		_, gone := d.Missing[name]
		if gone {
			delete(d.Missing, name)
		}
		return gone || !slices.Contains(certified, name)
	})
	p.nameFrom(d)
}

func cloneDiscovered(d *certstore.Discovered) *certstore.Discovered {
	c := *d
	c.Names, c.Added, c.Missing = slices.Clone(d.Names), maps.Clone(d.Added), maps.Clone(d.Missing)
	return &c
}

// discover compares what a wish's rule leads to now with what is remembered, and returns what is to be remembered. The error says that
// nothing is known of a rule's names yet.
func (s State) discover(wish certstore.Wish) (*certstore.Discovered, error) {
	before := s.Record.Discovered
	switch {
	case wish.Rule == "":
		return nil, nil
	case wish.Rule != s.Wish.Rule:
		return before, nil // another host's, which looks itself
	case len(s.Found.Names) > maxDiscovered:
		return before, s.unless(before, fmt.Errorf("MAAS leads to %d names; more than %d are not believed", len(s.Found.Names), maxDiscovered))
	case before == nil || before.Rule != wish.Rule:
		if doubt := s.Found.Doubt(); doubt != nil {
			return before, s.unless(before, doubt)
		}
		return &certstore.Discovered{Rule: wish.Rule, Names: slices.Sorted(slices.Values(s.Found.Names))}, nil // somebody wrote the rule down now
	}
	d := cloneDiscovered(before)
	d.Added = s.since(before.Added, func(name string) bool {
		return !slices.Contains(d.Names, name) && (slices.Contains(s.Found.Names, name) || s.Found.DoubtOf(name) != nil)
	}, s.Found.Names)
	d.Missing = s.since(before.Missing, func(name string) bool { return s.isMissing(name, before) }, d.Names)
	if s.LoseNames {
		d.Names = slices.DeleteFunc(d.Names, func(name string) bool {
			since, gone := d.Missing[name]
			lost := gone && s.Found.DoubtOf(name) == nil && (s.ByHand || since.Before(s.Began))
			if lost {
				delete(d.Missing, name)
			}
			return lost
		})
	}
	return d, nil
}

// isMissing tells whether the rule does not lead to one of its names any more. What cannot be told is as it was.
func (s State) isMissing(name string, before *certstore.Discovered) bool {
	if slices.Contains(s.Found.Names, name) {
		return false
	}
	_, was := before.Missing[name]
	return was || s.Found.DoubtOf(name) == nil
}

// since is when each name was first seen so that is so now: of those that were remembered, and of others.
func (s State) since(remembered map[string]time.Time, isSo func(string) bool, others []string) map[string]time.Time {
	now := map[string]time.Time{}
	for name, at := range remembered {
		if isSo(name) {
			now[name] = at
		}
	}
	for _, name := range others {
		if _, known := now[name]; !known && isSo(name) && len(now) < maxDiscovered {
			now[name] = s.Began.UTC()
		}
	}
	if len(now) == 0 {
		return nil
	}
	return now
}

// unless is an error where nothing is remembered.
func (s State) unless(before *certstore.Discovered, err error) error {
	if before != nil {
		return nil
	}
	return err
}

func sameDiscovered(a, b *certstore.Discovered) bool {
	if a == nil || b == nil {
		return a == b
	}
	return a.Rule == b.Rule && slices.Equal(a.Names, b.Names) && sameMoments(a.Added, b.Added) && sameMoments(a.Missing, b.Missing)
}

func sameMoments(a, b map[string]time.Time) bool {
	return maps.EqualFunc(a, b, func(a, b time.Time) bool { return a.Equal(b) })
}

// secondLook is when names are looked for again that this pass, or look, saw first; zero for none.
func (s State) secondLook(d *certstore.Discovered) time.Time {
	if d == nil || !slices.ContainsFunc(slices.Collect(maps.Values(d.Added)), s.Began.Equal) {
		return time.Time{}
	}
	return s.Now.Add(secondLookAfter)
}

// Drift are the names that the wish's rule leads to and the next certificate lacks, and those that it has and the rule does not lead to
// any more.
func (v View) Drift() (added, missing []string) {
	if v.Plan.Discovered == nil {
		return nil, nil
	}
	return slices.Sorted(maps.Keys(v.Plan.Discovered.Added)), slices.Sorted(maps.Keys(v.Plan.Discovered.Missing))
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
		if s.Reissue {
			words = "a certificate with them is ordered when they are seen again, and the one in use is old enough"
		}
		found = append(found, "MAAS has names that the certificate lacks: "+listed(added)+": "+words)
	}
	if len(missing) > 0 {
		found = append(found, "MAAS does not have these names any more: "+listed(missing)+": maascert renew --accept names-lost takes them out of the certificate")
	}
	if doubt := s.Found.Doubt(); doubt != nil {
		found = append(found, "which names MAAS has cannot be told, so none is added or missed: "+printable.Error(doubt))
	}
	for _, left := range printable.Lines(s.Found.LeftOut, printable.Word, 10) {
		found = append(found, "a name of MAAS's is left out: "+left)
	}
	return found
}

func listed(names []string) string {
	const most = 10
	words := strings.Join(names[:min(len(names), most)], ", ")
	if more := len(names) - most; more > 0 {
		words += fmt.Sprintf(" and %d more", more)
	}
	return words
}

// unnamed is the trouble of a certificate whose names are not known.
func unnamed(why error) error {
	return hint.Add(fmt.Errorf("nothing is ordered before MAAS's names are known: %w", why), "mend that, or take names_from_maas out of the configuration")
}
