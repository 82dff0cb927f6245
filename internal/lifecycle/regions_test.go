package lifecycle

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/maasconfig"
)

// Where regions answer is remembered for when MAAS cannot be asked, and one that MAAS hides is asked until that was seen twice.
func TestRegionsAreRemembered(t *testing.T) {
	t.Parallel()
	began := time.Now().Round(0)
	endpoint := func(region, host string, state maasconfig.State, isUnlisted bool) maasconfig.Endpoint {
		return maasconfig.Endpoint{Served: maasconfig.Served{Address: host + ":5443", Region: region, Unlisted: isUnlisted}, State: state}
	}
	target := func(endpoints ...maasconfig.Endpoint) TargetState {
		return TargetState{Name: "maas", Endpoints: endpoints}
	}

	first := target(endpoint("a", "10.0.0.1", maasconfig.Match, false), endpoint("b", "10.0.0.2", maasconfig.Unknown, false), endpoint("", "10.0.0.9", maasconfig.Match, false))
	require.False(t, first.remembersRegions(certstore.Deployment{}, began))
	d := first.rememberRegions(certstore.Deployment{Verified: 3}, began)
	require.Equal(t, map[string]string{"a": "10.0.0.1"}, d.Regions, "one that never answered may be somebody else's address")
	require.Equal(t, 3, d.Verified)
	require.True(t, first.remembersRegions(d, began))

	d = target(endpoint("a", "10.0.0.1", maasconfig.Unknown, false), endpoint("b", "10.0.0.2", maasconfig.None, false)).rememberRegions(d, began)
	require.Equal(t, map[string]string{"a": "10.0.0.1", "b": "10.0.0.2"}, d.Regions, "one that is silent now did answer")

	hidden := target(endpoint("a", "10.0.0.1", maasconfig.Match, false), endpoint("b", "10.0.0.2", maasconfig.Match, true))
	once := hidden.rememberRegions(d, began)
	require.Equal(t, d.Regions, once.Regions)
	require.True(t, once.Unlisted["b"].Equal(began))
	require.True(t, hidden.remembersRegions(once, began), "the same pass does not count twice")
	twice := hidden.rememberRegions(once, began.Add(time.Minute))
	require.Equal(t, map[string]string{"a": "10.0.0.1"}, twice.Regions)
	require.Nil(t, twice.Unlisted)
	back := target(endpoint("a", "10.0.0.1", maasconfig.Match, false), endpoint("b", "10.0.0.2", maasconfig.Match, false)).rememberRegions(once, began.Add(time.Minute))
	require.Len(t, back.Regions, 2)
	require.Nil(t, back.Unlisted)
	require.Equal(t, d, target(endpoint("", "10.0.0.9", maasconfig.Match, false)).rememberRegions(d, began), "where MAAS cannot be asked, nothing changes")
}

// A version that a hidden region may serve is not revoked.
func TestNothingIsRevokedWhileRegionsMayBeHidden(t *testing.T) {
	t.Parallel()
	s := settled(t, time.Hour)
	s.Record.Revocations = []certstore.Revocation{{Version: 7}}
	s.Targets = []TargetState{{Name: "maas", Endpoints: []maasconfig.Endpoint{{State: maasconfig.Match, Chain: maasconfig.Complete}}}}
	require.Len(t, s.toRevoke(), 1)
	s.Targets[0].Unsure = errors.New("no list")
	require.Empty(t, s.toRevoke())
}

// A host that wishes the same names in another way says so, and the others follow it instead of forgetting what it found.
func TestARuleThatChangesNoNameIsPublished(t *testing.T) {
	t.Parallel()
	s := settled(t, time.Hour)
	static := certstore.Wish{Names: []string{"a", "b", "10.0.0.1"}, KeyType: certstore.EC256}
	s.Record.Wish, s.Record.WishHash, s.Record.Discovered = &static, static.Hash(), nil
	s.Record.WishByHost = map[string]string{"n": static.Hash(), "m": static.Hash()}
	p := Decide(s)
	require.False(t, p.Obtain)
	require.True(t, p.publishes && p.Housekeeping)
	other := s
	other.Node, other.Wish, other.Found = "m", static, maasconfig.Found{}
	own := s.Wish
	other.Record.Wish, other.Record.WishHash, other.Record.Discovered = &own, own.Hash(), p.Discovered
	other.Record.WishByHost = map[string]string{"n": own.Hash(), "m": static.Hash()}
	q := Decide(other)
	require.True(t, q.Differ)
	require.False(t, q.Obtain || q.Housekeeping)
	require.Equal(t, p.Discovered, q.Discovered)

	// Nobody has found them yet: what is certified stays.
	other.Record.Discovered = nil
	q = Decide(other)
	require.False(t, q.Obtain)
	require.ElementsMatch(t, []string{"a", "b", "10.0.0.1"}, q.Names)
}

// MAAS's own URL may be another one on each region host: the names of all are certified, and none of them is missed by another host.
func TestEachHostHasItsOwnURL(t *testing.T) {
	t.Parallel()
	s := settled(t, time.Hour)
	s.Found = maasconfig.Found{Names: []string{"10.0.0.1"}, URL: "b"}
	s.Nodes = []certstore.Node{{Node: "n"}, {Node: "m"}}
	s.Record.Discovered.ByHost = map[string]string{"n": "b", "m": "10.0.0.1", "gone": "x"}
	d, err := s.discover(s.Wish)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"n": "b", "m": "10.0.0.1"}, d.ByHost)
	require.Empty(t, d.Missing)
	s.Record.Discovered = d
	s.Node, s.Found.URL = "m", "m.example"
	d, err = s.discover(s.Wish)
	require.NoError(t, err)
	require.Equal(t, map[string]string{"n": "b", "m": "m.example"}, d.ByHost)
	require.True(t, slices.Equal([]string{"10.0.0.1", "b"}, d.Names))
	require.Contains(t, d.Added, "m.example")
	require.Empty(t, d.Missing)
	s.Found = maasconfig.Found{NamesDoubt: errors.New("unreadable"), AddressDoubt: errors.New("unreadable")}
	s.Record.Discovered = d
	again, err := s.discover(s.Wish)
	require.NoError(t, err)
	require.Equal(t, d.ByHost, again.ByHost, "what cannot be read is as it was")
}
