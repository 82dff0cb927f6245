package similar_test

import (
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/similar"
)

func TestTo(t *testing.T) {
	t.Parallel()
	words := []string{"status", "store", "renew", "certificates", "x"}
	for word, want := range map[string][]string{
		"staus": {"status"}, "STATUS": nil, "stats": {"status"}, "certficates": {"certificates"}, "cert": {"certificates"}, "frobnicate": nil, "": nil, "y": nil, "stor": {"store"}, "rennew": {"renew"},
	} {
		require.Equal(t, want, similar.To(word, words), word)
	}
	require.Equal(t, 3, similar.Distance("kitten", "sitting"))
	require.Equal(t, 4, similar.Distance("", "four"))
}
