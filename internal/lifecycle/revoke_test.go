package lifecycle_test

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
)

// revoker is the CA's side of revocations.
type revoker struct {
	mu      sync.Mutex
	revoked []int
	answer  error
}

func (r *revoker) revoke(_ context.Context, version certstore.Version, _ uint) error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.answer == nil {
		r.revoked = append(r.revoked, version.Number)
	}
	return r.answer
}

// revocable is an engine whose first version is in use everywhere.
func revocable(t *testing.T) (*lifecycle.Engine, *revoker, *place, *memory) {
	t.Helper()
	e := new(effects)
	r, target, store := new(revoker), newPlace(e, "a", "b"), newMemory(e)
	eng := engine(e, store, newCA(t, e, 90*day), target)
	eng.Revoke = r.revoke
	require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	return eng, r, target, store
}

func ask(t *testing.T, eng *lifecycle.Engine, first bool) (certstore.Version, error) {
	t.Helper()
	version, _, err := eng.AskRevocation(t.Context(), eng.Certificates[0], lifecycle.Revoking{Reason: acme.Reasons["superseded"], First: first})
	return version, err
}

func TestRevokeAskedTwiceRevokesOneVersion(t *testing.T) {
	t.Parallel()
	eng, ca, _, _ := revocable(t)
	ca.answer = errors.New("503")
	for range 2 {
		version, err := ask(t, eng, false)
		require.NoError(t, err)
		require.Equal(t, 1, version.Number)
		r := eng.Pass(t.Context(), lifecycle.Options{})[0]
		require.ErrorContains(t, r.Err(), "revoking version 1: 503")
		require.Equal(t, lifecycle.StageRevoke, r.Stage())
		require.Equal(t, 2, r.After.Version(), "one replacement")
	}
	view, err := eng.Look(t.Context(), eng.Certificates[0])
	require.NoError(t, err)
	require.Equal(t, lifecycle.StateWaiting, view.Summary, "what is not revoked is not hidden")
	require.Contains(t, view.Warnings[0], "version 1 is not revoked yet")
	ca.answer = nil
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.Equal(t, []int{1}, r.Revoked)
	require.True(t, r.Healthy())
	require.Equal(t, []int{1}, ca.revoked)
}

func TestRevokeThatTheCARefuses(t *testing.T) {
	t.Parallel()
	eng, ca, _, _ := revocable(t)
	ca.answer = &acme.Error{Op: "revokeCert", Type: "badRevocationReason", Detail: "not this one", Status: 400}
	_, err := ask(t, eng, false)
	require.NoError(t, err)
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.ErrorContains(t, r.Err(), "badRevocationReason")
	require.Contains(t, hint.Of(r.Err()), "maascert revoke --reason")
	asked := ca.answer
	ca.answer = errors.New("it was asked again")
	r = eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.ErrorContains(t, r.Err(), "version 1 is not revoked: the CA refuses: revokeCert: badRevocationReason")
	require.Equal(t, lifecycle.StateFailed, r.After.Summary)
	ca.answer = asked

	version, err := ask(t, eng, false)
	require.NoError(t, err)
	require.Equal(t, 1, version.Number, "another reason for the same version")
	ca.answer = nil
	r = eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.Equal(t, []int{1}, ca.revoked)
	require.Equal(t, 2, r.After.Version())
}

// A look that fails proves nothing of what is served.
func TestNothingIsRevokedThatMayBeServed(t *testing.T) {
	t.Parallel()
	eng, ca, target, store := revocable(t)
	_, err := ask(t, eng, false)
	require.NoError(t, err)
	target.tell = errors.New("config-tls failed")
	before := store.effects.n
	store.broken = func(name string) bool {
		return name == "state/maas" && slices.Contains(store.effects.names[before:], "config-tls")
	}
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.Error(t, r.Err())
	require.Empty(t, ca.revoked)
}

func TestARevocationThatHasBecomePointless(t *testing.T) {
	t.Parallel()
	eng, ca, _, store := revocable(t)
	ca.answer = errors.New("503")
	_, err := ask(t, eng, false)
	require.NoError(t, err)
	require.Error(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
	require.NoError(t, store.Delete(t.Context(), "versions/maas/1"))
	r := eng.Pass(t.Context(), lifecycle.Options{})[0]
	require.NoError(t, r.Err())
	require.Empty(t, r.Revoked, "it was not revoked")
	require.Contains(t, r.Warnings[0], "version 1 was not revoked: the store has it no more")
	record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.Empty(t, record.Revocations)
}
