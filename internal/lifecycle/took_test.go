package lifecycle_test

import (
	"context"
	"errors"
	"maps"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

// late is a target whose endpoints take what they were told of a while later.
type late struct {
	*place
	later time.Duration
	told  func() // called when it was told; nil: nothing
}

func (l *late) Prepare(ctx context.Context, bundle *certstore.Bundle, want maasconfig.Want) (maasconfig.Change, error) {
	change, err := l.place.Prepare(ctx, bundle, want)
	change.Within = time.Minute
	tell := change.Make
	change.Make = func(ctx context.Context) (maasconfig.Telling, error) {
		before := maps.Clone(l.serves)
		telling, err := tell(ctx)
		if err != nil {
			return telling, err
		}
		l.mu.Lock()
		defer l.mu.Unlock()
		after := l.serves
		l.serves = before
		time.AfterFunc(l.later, func() {
			l.mu.Lock()
			defer l.mu.Unlock()
			l.serves = after
		})
		if l.told != nil {
			l.told()
		}
		return telling, nil
	}
	return change, err
}

// How long a target took is known where one run told it for the first time and saw every endpoint serve it, and nowhere else.
func TestHowLongATargetTookIsWhatOneRunSaw(t *testing.T) {
	t.Parallel()
	const later = 5 * time.Second
	for name, row := range map[string]struct {
		begins func(target *late, now *atomic.Int64)
		then   func(t *testing.T, eng *lifecycle.Engine, target *late)
		known  bool
	}{
		"told, and seen": {known: true},
		"and remembered": {known: true, then: func(t *testing.T, eng *lifecycle.Engine, _ *late) {
			time.Sleep(day)
			require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		}},
		"of another version its own": {known: true, then: func(t *testing.T, eng *lifecycle.Engine, _ *late) {
			require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{Force: true})[0].Err())
		}},
		"told in vain first": {begins: func(target *late, _ *atomic.Int64) { target.tell = errors.New("MAAS's database is away") }, then: func(t *testing.T, eng *lifecycle.Engine, target *late) {
			target.tell = nil
			time.Sleep(time.Hour)
			require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		}},
		"a laggard that heals by itself": {begins: func(target *late, _ *atomic.Int64) { target.deaf["b"] = true }, then: func(t *testing.T, eng *lifecycle.Engine, target *late) {
			target.mu.Lock()
			target.serves["b"] = target.serves["a"]
			target.mu.Unlock()
			require.NoError(t, eng.Pass(t.Context(), lifecycle.Options{})[0].Err())
		}},
		"a clock that is set back meanwhile": {begins: func(target *late, now *atomic.Int64) {
			target.told = func() { time.AfterFunc(time.Second, func() { now.Add(-int64(time.Hour)) }) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				e := new(effects)
				target := &late{place: newPlace(e, "a", "b"), later: later}
				eng := engine(e, newMemory(e), newCA(t, e, 90*day), target)
				ahead := new(atomic.Int64)
				eng.Now = func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) }
				if row.begins != nil {
					row.begins(target, ahead)
				}
				eng.Pass(t.Context(), lifecycle.Options{})
				if row.then != nil {
					row.then(t, eng, target)
				}
				view, err := eng.Look(t.Context(), eng.Certificates[0])
				require.NoError(t, err)
				require.Equal(t, lifecycle.StateOK, view.Summary)
				took, endpoints := view.State.Converged(view.State.Targets[0])
				if !row.known {
					require.Zero(t, took)
					return
				}
				require.GreaterOrEqual(t, took, later)
				require.Less(t, took, 2*later)
				require.Equal(t, []string{"a", "b"}, endpoints)
			})
		})
	}
}
