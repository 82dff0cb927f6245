package certstore_test

import (
	"fmt"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
)

// Answers that hosts publish are given for an hour at most, are as many as a host may have, and keep what a later maascert added.
func TestPublishedAnswers(t *testing.T) {
	t.Parallel()
	store, ctx, now := certstore.NewOverlay(nil), t.Context(), time.Now().UTC()
	answer := func(token string, at time.Time) certstore.Answer {
		return certstore.Answer{Type: "tls-alpn-01", Name: token + ".example", Token: token, Thumbprint: "t", At: at}
	}
	tokens := func(now time.Time) (all []string) {
		answers, err := certstore.LoadAnswers(ctx, store, now)
		require.NoError(t, err)
		for _, one := range answers {
			all = append(all, one.Token)
		}
		return all
	}
	require.NoError(t, certstore.PublishAnswer(ctx, store, "region1", answer("a", now)))
	require.NoError(t, certstore.PublishAnswer(ctx, store, "region2", answer("b", now)))
	require.NoError(t, certstore.PublishAnswer(ctx, store, "region1", answer("c", now.Add(30*time.Minute))))
	require.Equal(t, []string{"c", "a", "b"}, tokens(now), "the newest first")
	again := answer("a", now.Add(time.Minute))
	again.Token = "a2"
	require.NoError(t, certstore.PublishAnswer(ctx, store, "region1", again))
	require.Equal(t, []string{"c", "a2", "b"}, tokens(now), "of one name only the last is given")
	require.Equal(t, []string{"c"}, tokens(now.Add(time.Hour+time.Minute)))
	require.NoError(t, certstore.WithdrawAnswer(ctx, store, "region1", again, now))
	require.Equal(t, []string{"c", "b"}, tokens(now))
	for n := range 350 {
		require.NoError(t, certstore.PublishAnswer(ctx, store, "region1", answer(fmt.Sprint("n", n), now)))
	}
	require.Len(t, tokens(now), 301)

	_, err := store.Write(ctx, "answers/region4", []byte("no document"), "")
	require.NoError(t, err)
	require.Len(t, tokens(now), 301, "one that cannot be read hides no other")
	require.NoError(t, certstore.PublishAnswer(ctx, store, "region4", answer("e", now)), "and is written anew")
	require.Len(t, tokens(now), 302)

	data, revision, err := store.Read(ctx, "answers/region2")
	require.NoError(t, err)
	_, err = store.Write(ctx, "answers/region2", append([]byte(`{"later":[1],`), data[1:]...), revision)
	require.NoError(t, err)
	require.NoError(t, certstore.PublishAnswer(ctx, store, "region2", answer("d", now)))
	data, _, err = store.Read(ctx, "answers/region2")
	require.NoError(t, err)
	require.Contains(t, string(data), `"later": [`)
}

func TestTheNewestOfWhatWasSeen(t *testing.T) {
	t.Parallel()
	now := time.Now()
	older, newer := certstore.Seen{Version: 7, Fingerprint: "older", NotBefore: now}, certstore.Seen{Version: 3, Fingerprint: "newer", NotBefore: now.Add(time.Hour)}
	want := certstore.Seen{Version: 3, Highest: 7, Fingerprint: "newer", NotBefore: newer.NotBefore}
	require.Equal(t, want, older.Newest(newer))
	require.Equal(t, want, newer.Newest(older))
	require.Equal(t, want, want.Newest(certstore.Seen{}))
}
