package lifecycle

import (
	"context"
	"errors"
	"maps"
	"slices"
	"strings"
	"time"

	"maascert/acme"
	"maascert/certstore"
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
const maxDiscovered = maasconfig.MostNames

// settleNames decides which names the next certificate has, and with them why there is to be one.
func (p *Plan) settleNames(s State) {
	p.Discovered, p.Unnamed = s.discover(p.Wish)
	p.nameFrom(p.Discovered)
	if len(p.Names) == 0 && p.Unnamed == nil {
		p.Unnamed = errNoName
	}
	if p.Unnamed != nil && s.Current != nil { // what is certified stays so until the names are known
		certified := certstore.CertificateNames(s.leaf())
		p.Names = union(p.Names, certified)
		if p.Why, p.Obtain = s.reason(p.wanted()); p.Why == NamesChanged {
			p.Why, p.Obtain = s.reason(withNames(p.Wish, certified))
		}
		p.fallBack(s, p.Names)
		return
	}
	if s.Reissue && !s.isPinned() && (s.Current == nil || s.isReplaceable()) || s.isCutOff() {
		p.adopt(s)
	}
	p.Why, p.Obtain = s.reason(p.wanted())
	if p.Obtain && !s.Watched { // another certificate has them without a further order
		p.adopt(s)
	}
	if p.Discovered != nil {
		p.fallBack(s, p.Discovered.Names)
	}
}

// isCutOff tells whether a run was killed while it ordered.
func (s State) isCutOff() bool { return s.Record.Attempt != nil && s.Record.Order != nil }

// errNoName says that a rule leads to nothing, and that the wish names nothing either.
var errNoName = errors.New("MAAS leads to no name that can be certified")

// wanted is the wish with all names of the next certificate.
func (p Plan) wanted() certstore.Wish { return withNames(p.Wish, p.Names) }

func withNames(wish certstore.Wish, names []string) certstore.Wish {
	wish.Names = names
	return wish
}

// nameFrom sets the names of the next certificate, and what is to be remembered of them once there is one.
func (p *Plan) nameFrom(d *certstore.Discovered) {
	p.adopted, p.Names = d, p.Wish.Names
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

// adopt takes names along that were seen in an earlier pass as well, that a person who wants a certificate now sees, or that an order has
// which was cut off. What another host looks for, it alone has seen.
func (p *Plan) adopt(s State) {
	if p.adopted == nil || p.Wish.Rule != s.Wish.Rule {
		return
	}
	d := cloneDiscovered(p.adopted)
	for _, name := range slices.Sorted(maps.Keys(p.adopted.Added)) {
		isSure := p.adopted.Added[name].Before(s.Began) || s.Force && s.ByHand || s.isCutOff() && slices.Contains(s.Record.Order.Names, name)
		if isSure && len(d.Names) < maxDiscovered {
			d.Names = append(d.Names, name)
			delete(d.Added, name)
		}
	}
	slices.Sort(d.Names)
	p.nameFrom(d)
}

// fallBack leaves out of an order that has to be made in any case, when the CA refuses orders, what may be the reason: names of MAAS's that
// the certificate in use has not, and, when that one is about to end, those that could not be proven or are gone. They stay remembered,
// and are tried again. known are the names beside the wish's that are certified, or were to be.
func (p *Plan) fallBack(s State, known []string) {
	if s.Record.Failures == 0 || !s.Record.Refused {
		return
	}
	without, certified, isLate := *p, known, true // where there is no certificate yet, what could be proven is better than none
	if s.Current != nil {
		certified, isLate = certstore.CertificateNames(s.leaf()), s.isLate()
	}
	without.Names, without.adopted = slices.Clone(p.Wish.Names), p.Discovered
	for _, name := range known {
		if slices.Contains(certified, name) && !(isLate && p.isSpoiling(s, name)) {
			without.Names = union(without.Names, []string{name})
		}
	}
	for _, name := range p.Names { // rather new ones than none
		if len(without.Names) == 0 && !p.isSpoiling(s, name) {
			without.Names = []string{name}
		}
	}
	if len(without.Names) == 0 {
		return
	}
	if without.Why, without.Obtain = s.reason(without.wanted()); without.Obtain {
		*p = without
	}
}

// isSpoiling tells whether a name may be why orders fail: the CA could not prove it lately, or MAAS was seen not to have it in an earlier
// pass as well.
func (p *Plan) isSpoiling(s State, name string) bool {
	if slices.Contains(p.Wish.Names, name) {
		return false // which a person wants
	}
	var since time.Time
	if p.Discovered != nil {
		since = p.Discovered.Missing[name]
	}
	return !since.IsZero() && since.Before(s.Began) || s.isUnproven(name)
}

// isUnproven tells whether an order failed on a name in the last tenth of the version in use, or while there is none.
func (s State) isUnproven(name string) bool {
	return slices.ContainsFunc(s.Record.Attempts, func(a certstore.Attempt) bool {
		isRecent := s.Current == nil || a.At.After(emergency(s.leaf()))
		return isRecent && slices.ContainsFunc(strings.Split(a.Error, acme.BetweenFailures), func(failure string) bool {
			return strings.HasPrefix(failure, acme.FailedValidation+name+":") || strings.HasPrefix(failure, "dns-01: "+name+":")
		})
	})
}

func cloneDiscovered(d *certstore.Discovered) *certstore.Discovered {
	c := *d
	c.Names, c.Added, c.Missing, c.ByHost = slices.Clone(d.Names), maps.Clone(d.Added), maps.Clone(d.Missing), maps.Clone(d.ByHost)
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
		return before, s.unless(before, errors.New("another host looks for them"))
	case len(s.Found.Names) > maxDiscovered:
		return before, s.unless(before, s.Found.Doubt())
	case before == nil || before.Rule != wish.Rule:
		if doubt := s.Found.Doubt(); doubt != nil {
			return before, s.unless(before, doubt)
		}
		d := &certstore.Discovered{Rule: wish.Rule} // somebody wrote the rule down now
		if before != nil && maasconfig.RuleHasURL(wish.Rule) {
			d.ByHost = before.ByHost
		}
		d.ByHost = s.byHost(d.ByHost)
		d.Names = s.found(d)
		return d, nil
	}
	d := cloneDiscovered(before)
	d.ByHost = s.byHost(before.ByHost)
	found := s.found(d)
	s.settleKnown(wish, d, found)
	d.Added = s.since(before.Added, found, func(name string) bool {
		return !slices.Contains(d.Names, name) && (slices.Contains(found, name) || s.Found.DoubtOf(name) != nil)
	})
	d.Missing = s.since(before.Missing, d.Names, func(name string) bool {
		_, was := before.Missing[name]
		return !slices.Contains(found, name) && !slices.Contains(wish.Names, name) && (was || s.Found.DoubtOf(name) == nil)
	})
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
	if len(d.Names) == 0 && len(wish.Names) == 0 { // a certificate has at least one: those that there are now, or those that there were
		d.Names, d.Added = found, nil
		if len(found) == 0 {
			d.Names, d.Missing = before.Names, before.Missing
		}
	}
	return d, nil
}

// settleKnown has names count at once that MAAS has and that are certified already, or written down as well.
func (s State) settleKnown(wish certstore.Wish, d *certstore.Discovered, found []string) {
	known := wish.Names
	if s.Current != nil {
		known = union(known, certstore.CertificateNames(s.leaf()))
	}
	for _, name := range found {
		if slices.Contains(known, name) && !slices.Contains(d.Names, name) && len(d.Names) < maxDiscovered {
			d.Names = append(d.Names, name)
		}
	}
	slices.Sort(d.Names)
}

// found are the names that the rule leads to now, on this host or another one; sorted.
func (s State) found(d *certstore.Discovered) []string {
	return slices.Sorted(slices.Values(union(s.Found.Names, slices.Collect(maps.Values(d.ByHost)))))
}

// byHost are the names that MAAS's own URL has on each host: its regions need not agree on it. What this host cannot read stays as it
// was, and a host that is forgotten has none any more.
func (s State) byHost(before map[string]string) map[string]string {
	now := map[string]string{}
	for host, name := range before {
		isAlive := slices.ContainsFunc(s.Nodes, func(node certstore.Node) bool { return node.Node == host })
		if isAlive || host == s.Node || s.NodesUnknown {
			now[host] = name
		}
	}
	if s.Found.URL != "" {
		now[s.Node] = s.Found.URL
	} else if s.Found.Doubt() == nil {
		delete(now, s.Node)
	}
	if len(now) == 0 {
		return nil
	}
	return now
}

// since is when each name was first seen so that is so now: of those that were remembered, and of others. A moment that is yet to come
// was written down by a clock that was ahead.
func (s State) since(remembered map[string]time.Time, others []string, isSo func(string) bool) map[string]time.Time {
	now := map[string]time.Time{}
	for name, at := range remembered {
		if isSo(name) && at.After(s.Now) {
			at = s.Began.UTC()
		}
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
	return a.Rule == b.Rule && slices.Equal(a.Names, b.Names) && sameMoments(a.Added, b.Added) && sameMoments(a.Missing, b.Missing) && maps.Equal(a.ByHost, b.ByHost)
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
