package report

import (
	"bytes"
	"encoding/json"
	"errors"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
)

func TestTimesAreUTCInWholeSecondsOrNull(t *testing.T) {
	t.Parallel()
	at := time.Date(2026, 11, 25, 1, 2, 3, 456, time.FixedZone("CET", 3600))
	text, err := json.Marshal([]Time{{at}, {}})
	require.NoError(t, err)
	require.Equal(t, `["2026-11-25T00:02:03Z",null]`, string(text))
	var back []Time
	require.NoError(t, json.Unmarshal(text, &back))
	require.True(t, back[0].Equal(at.Truncate(time.Second)) && back[1].IsZero())
	require.Equal(t, "2026-11-25 00:02 UTC unknown", Time{at}.String()+" "+Time{}.String())
}

// A document's text is one line, whoever wrote it, in both faces.
func TestTextsAreOnePrintableLine(t *testing.T) {
	t.Parallel()
	evil := errors.New("first\nmaascert: all is well\x1b[2J")
	list := NewChecklist("region1", []Item{Asked("store", "", "", hint.Add(evil, "mend it")), Warning("caa", "a\nb", "", ""), Asked("tls", "good\n", "seen", nil)})
	require.False(t, list.OK)
	var words bytes.Buffer
	list.Words(&words)
	require.Equal(t, "3 checks: 1 fail, 1 warn, 1 ok\nfail  store        first maascert: all is well [2J\n                   fix: mend it\nwarn  caa          a b\nok    tls          good\n", words.String())
}

func TestUnattended(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	silence := lifecycle.Silence{Timer: 13 * time.Hour, Daemon: 3 * time.Hour}
	ran := func(ago time.Duration) []certstore.Node {
		return []certstore.Node{{Node: "a"}, {Node: "b", LastRun: now.Add(-ago)}}
	}
	require.Contains(t, Unattended(nil, silence, now), "nothing renews this by itself")
	require.Empty(t, Unattended(ran(3*time.Hour), silence, now))
	require.Contains(t, Unattended(ran(3*time.Hour+time.Second), silence, now), "nothing has looked by itself since 2026-11-24 20:59 UTC")
	timed := ran(12 * time.Hour)
	timed[1].ByTimer = true
	require.Empty(t, Unattended(timed, silence, now), "a timer looks no sooner than it fires")
	require.Contains(t, Unattended(ran(-time.Hour), silence, now), "nothing renews this by itself", "a clock that runs ahead proves nothing")
}

func TestNewStatusNamesTheHostOfTheLastPass(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	require.Nil(t, NewStatus("a", nil, nil, lifecycle.Silence{}, now).LastPass)
	nodes := []certstore.Node{{Node: "a", LastPass: now.Add(-time.Hour)}, {Node: "b", LastPass: now.Add(-time.Minute)}, {Node: "c", LastPass: now.Add(-time.Hour)}}
	require.Equal(t, &LastPass{Time{now.Add(-time.Minute)}, "b"}, NewStatus("a", nodes, nil, lifecycle.Silence{}, now).LastPass)
}

func TestKeepEarlier(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 25, 0, 0, 0, 0, time.UTC)
	before := NewPublic("a", now.Add(time.Hour), 12*time.Hour, now.Add(-time.Hour))
	before.Certificates = []PublicCertificate{{Name: "b"}, {Name: "a", Version: 1}, {Name: "gone"}}
	text, err := before.Text()
	require.NoError(t, err)
	isKnown := func(name string) bool { return name != "gone" }
	doc := NewPublic("a", time.Time{}, 12*time.Hour, now)
	doc.Certificates = []PublicCertificate{{Name: "a", Version: 2}}
	doc.KeepEarlier([]byte("{"), isKnown, false)
	require.Len(t, doc.Certificates, 1)
	doc.KeepEarlier(text, isKnown, false)
	require.Equal(t, []string{"a", "b"}, []string{doc.Certificates[0].Name, doc.Certificates[1].Name})
	require.Equal(t, 2, doc.Certificates[0].Version)
	require.Equal(t, now.Add(time.Hour+lifecycle.PassTime), doc.StaleAfter.UTC(), "what is kept is as old as it is")
	require.Equal(t, now.Add(time.Hour), doc.NextPass.UTC(), "a person's pass knows nothing of the daemon's next")
	doc = NewPublic("a", now.Add(12*time.Hour), 12*time.Hour, now)
	doc.KeepEarlier(text, isKnown, true)
	require.Equal(t, now.Add(12*time.Hour), doc.NextPass.UTC())
}

// A reader that went away changes no outcome.
func TestWriteJSONToNobody(t *testing.T) {
	t.Parallel()
	require.NoError(t, WriteJSON(failing{syscall.EPIPE}, 1))
	require.ErrorIs(t, WriteJSON(failing{syscall.ENOSPC}, 1), syscall.ENOSPC)
}

type failing struct{ err error }

func (f failing) Write([]byte) (int, error) { return 0, f.err }
