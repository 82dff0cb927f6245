package lifecycle

import (
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/maasconfig"
)

// settled is a deployment whose certificate has the names a, b and 10.0.0.1, of which the last two came from MAAS.
func settled(t *testing.T, age time.Duration) State {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	const life = 90 * 24 * time.Hour
	bundle, err := authority.Issue(certstore.EC256, age, life, "a", "b", "10.0.0.1")
	require.NoError(t, err)
	now := time.Now().Round(0)
	s := State{
		Now: now, Began: now, Node: "n", Wish: certstore.Wish{Names: []string{"a"}, KeyType: certstore.EC256, Rule: "r"},
		Current: &certstore.Version{Number: 1, Created: now.Add(-age), Bundle: bundle},
		Found:   maasconfig.Found{Names: []string{"10.0.0.1", "b"}},
	}
	wish := s.Wish
	s.Record = certstore.Record{Current: 1, Wish: &wish, WishHash: wish.Hash(), WishByHost: map[string]string{"n": wish.Hash()},
		Discovered: &certstore.Discovered{Rule: "r", Names: []string{"10.0.0.1", "b"}}}
	return s
}

func TestNamesThatARuleLeadsTo(t *testing.T) {
	t.Parallel()
	const old = 30 * 24 * time.Hour
	down := errors.New("down")
	for name, row := range map[string]struct {
		age    time.Duration
		change func(s *State)
		why    Reason
		names  string
		added  string
		gone   string
		wait   bool // nothing is ordered because nothing is known
	}{
		"nothing new":                {old, func(*State) {}, Fresh, "a 10.0.0.1 b", "", "", false},
		"a name is seen once":        {old, func(s *State) { s.Found.Names = append(s.Found.Names, "c"); s.Reissue = true }, Fresh, "a 10.0.0.1 b", "c", "", false},
		"it is seen in another pass": {old, func(s *State) { seenBefore(s, "c"); s.Reissue = true }, NamesChanged, "a 10.0.0.1 b c", "", "", false},
		"only told":                  {old, func(s *State) { seenBefore(s, "c") }, Fresh, "a 10.0.0.1 b", "c", "", false},
		"seen twice in one pass":     {old, func(s *State) { seenBefore(s, "c"); s.Began = s.Record.Discovered.Added["c"]; s.Reissue = true }, Fresh, "a 10.0.0.1 b", "c", "", false},
		"it is gone again":           {old, func(s *State) { seenBefore(s, "c"); s.Found.Names = []string{"10.0.0.1", "b"}; s.Reissue = true }, Fresh, "a 10.0.0.1 b", "", "", false},
		"it cannot be told":          {old, func(s *State) { seenBefore(s, "c"); s.Found = maasconfig.Found{NamesDoubt: down, AddressDoubt: down} }, Fresh, "a 10.0.0.1 b", "c", "", false},
		"a young certificate waits":  {time.Hour, func(s *State) { seenBefore(s, "c"); s.Reissue = true }, Fresh, "a 10.0.0.1 b", "c", "", false},
		"a renewal takes it along":   {old * 2, func(s *State) { seenBefore(s, "c"); s.Found.Names = append(s.Found.Names, "d") }, Lifetime, "a 10.0.0.1 b c", "d", "", false},
		"so does a forced one":       {old, func(s *State) { seenBefore(s, "c"); s.Force = true }, Forced, "a 10.0.0.1 b c", "", "", false},
		"a name is gone":             {old, func(s *State) { s.Found.Names = []string{"10.0.0.1"}; s.Reissue = true }, Fresh, "a 10.0.0.1 b", "", "b", false},
		"and somebody accepts that":  {old, func(s *State) { s.Found.Names = []string{"10.0.0.1"}; s.ByHand, s.LoseNames = true, true }, NamesChanged, "a 10.0.0.1", "", "", false},
		"a daemon looks twice":       {old, func(s *State) { s.Found.Names = []string{"10.0.0.1"}; s.LoseNames = true }, Fresh, "a 10.0.0.1 b", "", "b", false},
		"it did":                     {old, func(s *State) { gone(s, "b"); s.LoseNames = true }, NamesChanged, "a 10.0.0.1", "", "", false},
		"a renewal keeps it":         {old * 2, func(s *State) { gone(s, "b") }, Lifetime, "a 10.0.0.1 b", "", "b", false},
		"it is back":                 {old, func(s *State) { gone(s, "b"); s.Found.Names = []string{"10.0.0.1", "b"} }, Fresh, "a 10.0.0.1 b", "", "", false},
		"nobody knows the names": {old, func(s *State) {
			s.Found = maasconfig.Found{Names: []string{"10.0.0.1"}, NamesDoubt: down}
			s.LoseNames, s.ByHand = true, true
		}, Fresh, "a 10.0.0.1 b", "", "", false},
		"nobody knows the addresses": {old, func(s *State) { s.Found = maasconfig.Found{AddressDoubt: down} }, Fresh, "a 10.0.0.1 b", "", "b", false},
		"it went before the outage":  {old, func(s *State) { gone(s, "b"); s.Found = maasconfig.Found{NamesDoubt: down, AddressDoubt: down} }, Fresh, "a 10.0.0.1 b", "", "b", false},
		"nor is it lost in one": {old, func(s *State) {
			gone(s, "b")
			s.Found = maasconfig.Found{NamesDoubt: down, AddressDoubt: down}
			s.LoseNames, s.ByHand = true, true
		}, Fresh, "a 10.0.0.1 b", "", "b", false},
		"another rule":                {old, func(s *State) { s.Wish.Rule = "r2"; s.Found.Names = []string{"c"} }, NamesChanged, "a c", "", "", false},
		"another rule, and an outage": {old, func(s *State) { s.Wish.Rule = "r2"; s.Found = maasconfig.Found{NamesDoubt: down} }, Fresh, "a 10.0.0.1 b", "", "", false},
		"no rule any more":            {old, func(s *State) { s.Wish.Rule = "" }, NamesChanged, "a", "", "", false},
		"the first rule":              {old, func(s *State) { s.Record.Discovered = nil; s.Found.Names = []string{"c"} }, NamesChanged, "a c", "", "", false},
		"the first rule, and an outage": {old, func(s *State) {
			s.Record.Discovered = nil
			s.Wish.Names = []string{"z"}
			s.Found = maasconfig.Found{NamesDoubt: down}
		},
			Fresh, "z 10.0.0.1 a b", "", "", false},
		"nothing is certified, and an outage": {old, func(s *State) {
			s.Current, s.Record.Current, s.Record.Discovered = nil, 0, nil
			s.Found = maasconfig.Found{NamesDoubt: down}
		},
			Missing, "a", "", "", true},
		"another host's rule":      {old, func(s *State) { s.Wish.Rule = "mine"; s.Record.WishByHost["n"] = s.Wish.Hash(); s.Found.Names = nil }, Fresh, "a 10.0.0.1 b", "", "", false},
		"a flood":                  {old, func(s *State) { s.Found.Names = flood(); s.Reissue = true }, Fresh, "a 10.0.0.1 b", "", "", false},
		"due, and orders fail":     {old * 2, func(s *State) { seenBefore(s, "c"); s.Reissue, s.Record.Failures, s.Record.Refused = true, 1, true }, Lifetime, "a 10.0.0.1 b", "c", "", false},
		"due, and the CA is down":  {old * 2, func(s *State) { seenBefore(s, "c"); s.Record.Failures = 1 }, Lifetime, "a 10.0.0.1 b c", "", "", false},
		"not due, and orders fail": {old, func(s *State) { seenBefore(s, "c"); s.Reissue, s.Record.Failures, s.Record.Refused = true, 1, true }, NamesChanged, "a 10.0.0.1 b c", "", "", false},
		"a person sees it":         {old, func(s *State) { s.Found.Names = append(s.Found.Names, "c"); s.Force, s.ByHand = true, true }, Forced, "a 10.0.0.1 b c", "", "", false},
		"MAAS is mended": {old, func(s *State) {
			s.Wish.Names, s.Record.Discovered.Names, s.Current, s.Record.Current = nil, nil, nil, 0
		}, Missing, "10.0.0.1 b", "", "", false},
		"all names are others": {old, func(s *State) {
			s.Wish.Names, s.Found.Names, s.ByHand, s.LoseNames = nil, []string{"new"}, true, true
		}, NamesChanged, "new", "", "", false},
		"no name is left":            {old, func(s *State) { s.Wish.Names, s.Found.Names, s.ByHand, s.LoseNames = nil, nil, true, true }, NamesChanged, "10.0.0.1 b", "", "", false},
		"what is certified is known": {old, func(s *State) { s.Record.Discovered.Names = []string{"b"} }, Fresh, "a 10.0.0.1 b", "", "", false},
		"what is written down as well": {old, func(s *State) {
			s.Wish.Names = []string{"a", "c"}
			s.Found.Names = append(s.Found.Names, "c")
			s.Record.Wish.Names = s.Wish.Names
		},
			NamesChanged, "a c 10.0.0.1 b", "", "", false},
		"a forced order was cut off": {old, func(s *State) {
			s.Found.Names = append(s.Found.Names, "c")
			s.Record.Discovered.Added = map[string]time.Time{"c": s.Began}
			s.Record.Attempt = &certstore.Attempt{Why: "forced"}
			s.Record.Order = &certstore.Order{Names: []string{"a", "10.0.0.1", "b", "c"}, KeyType: certstore.EC256}
		}, NamesChanged, "a 10.0.0.1 b c", "", "", false},
		"about to end, and no name is proven": {old*3 - time.Hour, func(s *State) {
			s.Wish.Names = nil
			s.Record.Failures, s.Record.Refused = 3, true
			for _, name := range []string{"10.0.0.1", "b"} {
				s.Record.Attempts = append(s.Record.Attempts, certstore.Attempt{At: s.Now.Add(-time.Hour), Stage: "obtain", Error: "validation: " + name + ": refused"})
			}
		}, NamesChanged, "10.0.0.1 b", "", "", false},
		"an outage from the start, and a dead name": {old*3 - time.Hour, func(s *State) {
			s.Record.Discovered, s.Found = nil, maasconfig.Found{NamesDoubt: down, AddressDoubt: down}
			s.Record.Failures, s.Record.Refused = 3, true
			s.Record.Attempts = []certstore.Attempt{{At: s.Now.Add(-time.Hour), Stage: "obtain", Error: "validation: b: refused"}}
		}, NamesChanged, "a 10.0.0.1", "", "", false},
		"about to end, and two names failed at once": {old*3 - time.Hour, func(s *State) {
			s.Found.Names, s.Record.Discovered.Names = []string{"10.0.0.1", "b", "d"}, []string{"10.0.0.1", "b", "d"}
			s.Record.Failures, s.Record.Refused = 3, true
			s.Record.Attempts = []certstore.Attempt{{At: s.Now.Add(-time.Hour), Stage: "obtain", Error: "validation: 10.0.0.1: refused; validation: b: refused"}}
		}, NamesChanged, "a", "", "", false},
		"nothing is certified, and a name is not proven": {old, func(s *State) {
			s.Current, s.Record.Current = nil, 0
			s.Record.Failures, s.Record.Refused = 3, true
			s.Record.Attempts = []certstore.Attempt{{At: s.Now.Add(-48 * time.Hour), Stage: "obtain", Error: "validation: b: refused"}}
		}, Missing, "a 10.0.0.1", "", "", false},
		"nothing is certified, and the CA is down": {old, func(s *State) {
			s.Current, s.Record.Current, s.Record.Failures = nil, 0, 3
		}, Missing, "a 10.0.0.1 b", "", "", false},
		"no name at all": {old, func(s *State) {
			s.Wish.Names, s.Found.Names, s.Record.Discovered, s.Current, s.Record.Current = nil, nil, nil, nil, 0
		}, Missing, "", "", "", true},
		"about to end, and well": {old*3 - time.Hour, func(s *State) { seenBefore(s, "c") }, Emergency, "a 10.0.0.1 b c", "", "", false},
		"about to end, and orders fail": {old*3 - time.Hour, func(s *State) {
			seenBefore(s, "c")
			s.Record.Discovered.Names = []string{"10.0.0.1", "b", "d"}
			gone(s, "b")
			s.Record.Failures, s.Record.Refused = 3, true
		}, NamesChanged, "a 10.0.0.1", "c", "b d", false},
		"about to end, and a name is hidden now": {old*3 - time.Hour, func(s *State) {
			s.Found.Names = []string{"10.0.0.1"}
			s.Record.Failures, s.Record.Refused = 3, true
		}, Emergency, "a 10.0.0.1 b", "", "b", false},
		"about to end, and a name is not proven": {old*3 - time.Hour, func(s *State) {
			s.Record.Failures, s.Record.Refused = 3, true
			s.Record.Attempts = []certstore.Attempt{{At: s.Now.Add(-time.Hour), Stage: "obtain", Error: "validation: b: connection: refused"}}
		}, NamesChanged, "a 10.0.0.1", "", "", false},
	} {
		s := settled(t, row.age)
		row.change(&s)
		p := Decide(s)
		require.Equal(t, row.why, p.Why, name)
		require.Equal(t, row.names, strings.Join(p.Names, " "), name)
		added, missing := View{Plan: p}.Drift()
		require.Equal(t, row.added, strings.Join(added, " "), name)
		require.Equal(t, row.gone, strings.Join(missing, " "), name)
		require.Equal(t, row.wait, p.Unnamed != nil && !p.Obtain && s.Current == nil, name)
		if !p.Obtain && s.Current != nil {
			require.Equal(t, !sameDiscovered(p.Discovered, s.Record.Discovered) || s.doubt() != nil || p.publishes, p.Housekeeping, "%s: what was seen is written down, and nothing else", name)
		}
		if len(added) > 0 && p.Discovered.Added[added[0]].Equal(s.Began) {
			require.False(t, p.Next.After(s.Now.Add(secondLookAfter)), "%s: it is looked for again soon", name)
		}
	}
}

// seenBefore has MAAS name something that an earlier pass saw as well.
func seenBefore(s *State, name string) {
	s.Found.Names = append(s.Found.Names, name)
	s.Record.Discovered.Added = map[string]time.Time{name: s.Began.Add(-time.Hour)}
}

// gone has MAAS not name something that it did not name in an earlier pass either.
func gone(s *State, name string) {
	names := []string{}
	for _, one := range s.Found.Names {
		if one != name {
			names = append(names, one)
		}
	}
	s.Found.Names = names
	s.Record.Discovered.Missing = map[string]time.Time{name: s.Began.Add(-time.Hour)}
}

func flood() []string {
	var names []string
	for n := range maxDiscovered + 1 {
		names = append(names, fmt.Sprint("n", n))
	}
	return names
}

// What MAAS leaves in doubt for more than a day needs a person.
func TestADoubtThatLasts(t *testing.T) {
	t.Parallel()
	s := settled(t, time.Hour)
	s.Targets = nil
	p := Decide(s)
	require.Empty(t, s.doubts())
	require.Equal(t, StateOK, Summary("maas", s, p))
	s.Found = maasconfig.Found{NamesDoubt: errors.New("refused"), AddressDoubt: errors.New("refused")}
	p = Decide(s)
	require.True(t, p.Housekeeping, "since when is written down")
	require.Equal(t, StateOK, Summary("maas", s, p))
	s.Record.Doubts = map[string]time.Time{"n": s.Now.Add(-23 * time.Hour)}
	require.False(t, Decide(s).Housekeeping)
	require.NoError(t, s.lastingDoubt())
	s.Record.Doubts = map[string]time.Time{"n": s.Now.Add(-25 * time.Hour)}
	require.Equal(t, StateDegraded, Summary("maas", s, Decide(s)))
	require.ErrorContains(t, s.lastingDoubt(), "MAAS leaves in doubt which names or regions it has: refused")
	s.Found = maasconfig.Found{Names: []string{"10.0.0.1", "b"}}
	require.True(t, Decide(s).Housekeeping)
	s.Record.Doubts = map[string]time.Time{"n": s.Now.Add(time.Hour), "m": s.Now.Add(-time.Hour), "gone": s.Now}
	s.Nodes = []certstore.Node{{Node: "m"}}
	require.Len(t, s.doubts(), 1, "it is over here, and another host's is its own")
	s.Targets = []TargetState{{Name: "maas", Unsure: errors.New("no list")}}
	require.True(t, s.doubts()["n"].Equal(s.Now), "a clock was ahead")
	s.Record.Doubts["n"] = s.Now.Add(-25 * time.Hour)
	require.ErrorContains(t, s.lastingDoubt(), "no list")
}

func TestNoticeDays(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	for days, want := range map[float64]int{1: 0, 6.9: 0, 7: 1, 10: 2, 30: 5, 47: 7, 90: 15, 365: 60, 825: 90} {
		bundle, err := authority.Issue(certstore.EC256, 0, time.Duration(days*24*float64(time.Hour)), "a")
		require.NoError(t, err)
		s := State{Now: time.Now(), Current: &certstore.Version{Number: 1, Created: time.Now(), Bundle: bundle}}
		require.Equal(t, want, noticeDays(s), "%v days", days)
		left := s.leaf().NotAfter.Sub(s.renewAt())
		require.Less(t, time.Duration(want)*24*time.Hour, left, "it is not told before it is late")
	}
}

// A change of the root is remembered for a lifetime, in which both are published and it is said loudly who has to be told.
func TestAnotherRoot(t *testing.T) {
	t.Parallel()
	first, err := certtest.NewAuthority()
	require.NoError(t, err)
	second, err := certtest.NewAuthority()
	require.NoError(t, err)
	cert := Certificate{Name: "maas", RootsFile: "/var/lib/maascert/public/maas.roots.pem"}
	now := time.Now().Round(0)
	s := rooted(t, first, now, nil)
	one := Decide(s)
	require.Len(t, one.Roots, 1)
	require.True(t, one.Housekeeping)
	require.Empty(t, trustChange(s, one, cert), "the first one is no change")
	require.Equal(t, "configured", string(View{State: s, Plan: one}.RootsPEM([]byte("configured"))))
	s = rooted(t, first, now.Add(time.Hour), one.Roots)
	require.Len(t, Decide(s).Roots, 1)
	require.Empty(t, trustChange(s, Decide(s), cert), "another certificate under it is none either")

	s = rooted(t, second, now.Add(2*time.Hour), one.Roots)
	s.Broken = []maasconfig.Profile{{Name: "admin", Home: "/root"}}
	two := Decide(s)
	require.Len(t, two.Roots, 2)
	said := strings.Join(trustChange(s, two, cert), "; ")
	for _, words := range []string{"CLIENTS MUST TRUST ANOTHER ROOT since ", "maas login --cacerts", "Terraform", "Juju", "public/maas.roots.pem holds both until ", "admin (in /root)"} {
		require.Contains(t, said, words)
	}
	require.Equal(t, string(second.RootPEM())+string(first.RootPEM()), string(View{State: s, Plan: two}.RootsPEM(second.RootPEM())))
	require.Equal(t, string(second.RootPEM())+string(first.RootPEM()), string(View{State: s, Plan: two}.RootsPEM(nil)), "the system's are not listed, the present one is")

	s.Wish.Directory = "https://third.example/directory"
	before := strings.Join(trustChange(s, Decide(s), cert), "; ")
	require.Contains(t, before, "THE NEXT CERTIFICATE COMES FROM ANOTHER CA")

	s = rooted(t, second, now.Add(91*24*time.Hour), two.Roots)
	s.Current.Created = s.Now
	three := Decide(s)
	require.Len(t, three.Roots, 1, "a lifetime has gone")
	require.Empty(t, trustChange(s, three, cert))
}

// rooted is a state whose version an authority issued.
func rooted(t *testing.T, authority *certtest.Authority, now time.Time, before []certstore.Root) State {
	t.Helper()
	bundle, err := authority.Issue(certstore.EC256, 0, 90*24*time.Hour, "a")
	require.NoError(t, err)
	s := State{Now: now, Wish: certstore.Wish{Names: []string{"a"}, KeyType: certstore.EC256}, Current: &certstore.Version{Number: int(now.Unix()), Created: now, Bundle: bundle}, Record: certstore.Record{Roots: before}}
	s.Root = rootOf(*s.Current, certstore.Trust{Roots: authority.Pool()}, before)
	require.NotNil(t, s.Root)
	return s
}

func TestRootsThatComeAndGo(t *testing.T) {
	t.Parallel()
	first, err := certtest.NewAuthority()
	require.NoError(t, err)
	second, err := certtest.NewAuthority()
	require.NoError(t, err)
	now := time.Now().Round(0)
	before := Decide(rooted(t, first, now, nil)).Roots
	after := Decide(rooted(t, second, now.Add(2*time.Hour), before)).Roots
	require.Len(t, after, 2)

	// Somebody goes back after a moment: it never was.
	s := rooted(t, first, now.Add(3*time.Hour), after)
	require.Len(t, Decide(s).Roots, 1)
	s = rooted(t, first, now.Add(30*time.Hour), after)
	require.Len(t, Decide(s).Roots, 2)

	// Back and forth: what is published stays short, and the present one is the last.
	roots := []certstore.Root{}
	for n := range 20 {
		authority := first
		if n%2 == 1 {
			authority = second
		}
		roots = Decide(rooted(t, authority, now.Add(time.Duration(n)*7*time.Hour), roots)).Roots
	}
	require.Len(t, roots, 2)
	require.Zero(t, roots[1].Until)
}
