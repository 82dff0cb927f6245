package lifecycle

import (
	"errors"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/certstore/certtest"
)

func TestWarnings(t *testing.T) {
	t.Parallel()
	authority, err := certtest.NewAuthority() // which expires in ten years
	require.NoError(t, err)
	state := func(lifetime time.Duration) State {
		bundle, err := authority.Issue(certstore.EC256, 0, lifetime, "a.example")
		require.NoError(t, err)
		return State{Now: time.Now(), Current: &certstore.Version{Number: 1, Created: time.Now(), Bundle: bundle}}
	}
	const year = 365 * 24 * time.Hour
	require.Empty(t, warnings(state(year), Plan{}, Certificate{Trust: certstore.Trust{Roots: authority.Pool()}}))
	require.Empty(t, warnings(State{Now: time.Now()}, Plan{}, Certificate{Trust: certstore.Trust{Roots: authority.Pool()}}))
	for _, roots := range []int{1, 0} {
		pool := authority.Pool()
		if roots == 0 {
			pool = nil
		}
		found := warnings(state(8*year), Plan{}, Certificate{Trust: certstore.Trust{Roots: pool}})
		require.Len(t, found, 1+roots, "the intermediate, and the root where it is known")
		require.Contains(t, found[0], `the CA certificate "CN=certtest intermediate" expires at `)
	}

	s := state(90 * 24 * time.Hour)
	remember := func(age time.Duration, why string, failure error) {
		a := certstore.Attempt{At: s.Now.Add(-age), Why: why}
		if failure != nil {
			a.Stage, a.Error = string(StageObtain), failure.Error()
		}
		s.Record.Remember(a)
	}
	for range 4 {
		remember(8*24*time.Hour, "forced", nil)
		remember(time.Hour, "ari", nil)
	}
	s.Wish.Directory = acme.LetsEncrypt
	require.Empty(t, warnings(s, Plan{}, Certificate{}))
	for range 4 {
		remember(time.Hour, "forced", nil)
	}
	require.Contains(t, warnings(s, Plan{}, Certificate{})[0], "4 certificates were ordered within a week")
	for range 4 {
		remember(time.Minute, "missing", errors.New("validation: a.example: connection: refused"))
	}
	require.Contains(t, warnings(s, Plan{}, Certificate{})[1], "4 orders failed within an hour")
	s.Wish.Directory = "https://ca.example/directory"
	require.Empty(t, warnings(s, Plan{}, Certificate{}))
}
