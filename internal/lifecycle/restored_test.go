package lifecycle_test

import (
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

// A store that was restored from an older copy: what is served since is kept until it is due itself.
func TestAStoreThatWasRestored(t *testing.T) {
	t.Parallel()
	w := newWorld(t)
	// The copy is from when version 3 was about to be renewed; version 4 was made since and is not in it.
	restored := func(current, age time.Duration) lifecycle.State {
		s := w.state(current, 30*day)
		lost := w.bundle(age, 30*day)
		s.Latest = certstore.Seen{Version: 4, Fingerprint: lost.Fingerprint(), NotBefore: lost.Leaf().NotBefore, NotAfter: lost.Leaf().NotAfter}
		s.Targets[0].Endpoints = []maasconfig.Endpoint{w.serves("a:5443", lost, s.Current.Bundle), w.serves("b:5443", lost, s.Current.Bundle)}
		return s
	}
	for name, row := range map[string]struct {
		age     time.Duration
		change  func(*lifecycle.State)
		why     lifecycle.Reason
		obtains bool
		deploys bool
	}{
		"what is served is kept although version 3 is due": {age: time.Hour, why: lifecycle.Foreign},
		"although version 3 ended":                         {age: 10 * day, why: lifecycle.Foreign},
		"until it is due itself":                           {age: 21 * day, why: lifecycle.Expired, obtains: true},
		"one region that serves version 3, which is good, changes nothing": {age: time.Hour, why: lifecycle.Foreign, change: func(s *lifecycle.State) {
			*s = restored(25*day, time.Hour)
			s.Targets[0].Endpoints[1] = w.serves("b:5443", s.Current.Bundle, s.Current.Bundle)
		}},
		"one region that serves version 3 in its last tenth needs another": {age: time.Hour, why: lifecycle.Emergency, obtains: true, change: func(s *lifecycle.State) {
			s.Targets[0].Endpoints[1] = w.serves("b:5443", s.Current.Bundle, s.Current.Bundle)
		}},
		"a stranger's certificate that ended is no reason to order": {age: time.Hour, why: lifecycle.Foreign, change: func(s *lifecycle.State) {
			s.Targets[0].Endpoints[1] = w.serves("b:5443", w.bundle(31*day, 30*day), s.Current.Bundle)
		}},
		"a version in use that is to be revoked is replaced": {age: time.Hour, why: lifecycle.Revoked, obtains: true, change: func(s *lifecycle.State) {
			*s = restored(25*day, time.Hour)
			s.Record.Revocations = []certstore.Revocation{{Version: 3}}
		}},
		"a wish that changed orders": {age: time.Hour, why: lifecycle.KeyTypeChanged, obtains: true, change: func(s *lifecycle.State) { s.Wish.KeyType = certstore.RSA3072 }},
		"so does a person":           {age: time.Hour, why: lifecycle.Forced, obtains: true, change: func(s *lifecycle.State) { s.Force = true }},
		"nobody serves it any more": {age: time.Hour, why: lifecycle.Emergency, obtains: true, change: func(s *lifecycle.State) {
			s.Targets[0].Endpoints = []maasconfig.Endpoint{w.serves("a:5443", s.Current.Bundle, s.Current.Bundle)}
		}},
		"no host remembers it, so it is somebody else's":    {age: time.Hour, why: lifecycle.Emergency, obtains: true, change: func(s *lifecycle.State) { s.Latest = certstore.Seen{} }},
		"it is in the store: this host is to serve another": {age: time.Hour, why: lifecycle.Emergency, obtains: true, change: func(s *lifecycle.State) { s.Known[s.Latest.Fingerprint] = certstore.VersionInfo{Number: 4} }},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := restored(29*day+row.age, row.age)
			if row.change != nil {
				row.change(&s)
			}
			p := lifecycle.Decide(s)
			require.Equal(t, row.why, p.Why)
			require.Equal(t, row.obtains, p.Obtain)
			require.Equal(t, row.deploys, len(p.Deploy) > 0)
			if !row.obtains {
				require.Equal(t, s.Latest.NotBefore.Add(20*day), p.RenewAt)
				require.Equal(t, lifecycle.StateDegraded, lifecycle.Summary("maas", s, p))
			}
		})
	}
}
