package sealed_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/sealed"
)

// Only what a seal closed opens with it, under its own name; any change of it is found.
func FuzzSealed(f *testing.F) {
	base := certstore.NewOverlay(nil)
	s, err := sealed.New(base, first)
	require.NoError(f, err)
	_, err = s.Write(f.Context(), "state/maas", []byte(`{"v":1}`), "")
	require.NoError(f, err)
	closed, _, err := base.Read(f.Context(), "state/maas")
	require.NoError(f, err)
	f.Add(closed, 30, byte(1))
	f.Add([]byte("maascert"), 0, byte(0))
	f.Fuzz(func(t *testing.T, text []byte, at int, flip byte) {
		base := certstore.NewOverlay(nil)
		s, err := sealed.New(base, first)
		require.NoError(t, err)
		if _, err := base.Write(t.Context(), "state/maas", text, ""); err != nil {
			return // it is too long
		}
		if opened, _, err := s.Read(t.Context(), "state/maas"); err == nil {
			require.Equal(t, `{"v":1}`, string(opened), "nobody else can close one")
		}
		revision, err := s.Write(t.Context(), "account", text, "")
		if err != nil {
			return
		}
		opened, _, err := s.Read(t.Context(), "account")
		require.NoError(t, err)
		require.Equal(t, string(text), string(opened))
		closed, _, err := base.Read(t.Context(), "account")
		require.NoError(t, err)
		_, err = base.Write(t.Context(), "state/moved", closed, "")
		require.NoError(t, err)
		_, _, err = s.Read(t.Context(), "state/moved")
		require.Error(t, err, "it was moved to another name")
		if flip == 0 {
			return
		}
		closed[uint(at)%uint(len(closed))] ^= flip
		_, err = base.Write(t.Context(), "account", closed, revision)
		require.NoError(t, err)
		_, _, err = s.Read(t.Context(), "account")
		require.Error(t, err, "it was changed")
	})
}
