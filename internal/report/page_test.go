package report_test

import (
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

func publicCertificate(name string, now time.Time) report.PublicCertificate {
	version := 3
	return report.PublicCertificate{
		Name: name, State: "ok", Reason: "fresh", Names: []string{"maas.example.internal"}, Version: 4, Fingerprint: "sha256:ab",
		NotBefore: report.Time{Time: now.Add(-30 * 24 * time.Hour)}, NotAfter: report.Time{Time: now.Add(60 * 24 * time.Hour)}, RenewAt: report.Time{Time: now.Add(30 * 24 * time.Hour)},
		Window:    &report.PublicWindow{Start: report.Time{Time: now.Add(29 * 24 * time.Hour)}, End: report.Time{Time: now.Add(31 * 24 * time.Hour)}},
		Rehearsal: &report.PublicRehearsal{At: report.Time{Time: now.Add(-time.Hour)}, OK: true},
		Targets: []report.Target{{Name: "maas", Endpoints: []report.Endpoint{
			{Address: "10.0.0.11:5443", State: "match", Chain: "complete", NotAfter: report.Time{Time: now.Add(60 * 24 * time.Hour)}}, {Address: "10.0.0.12:5443", State: "other", Version: &version}, {Address: "10.0.0.13:5443", State: "unknown"},
		}}},
	}
}

func shown(doc report.Public) *report.Board {
	b := &report.Board{Version: "v1"}
	b.Show(doc)
	return b
}

// What a page says, and that what is said to it comes out as text.
func TestPage(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	const evil = `<script>alert(1)</script>"'><img src=x onerror=alert(2)>`
	doc := report.NewPublic("region1", now.Add(12*time.Hour), 12*time.Hour, now)
	doc.Certificates = []report.PublicCertificate{publicCertificate("maas", now), publicCertificate(evil, now)}
	doc.Certificates[1].Names = []string{evil}
	doc.Certificates[1].State, doc.Certificates[1].Reason = "degraded", "lifetime"
	doc.Certificates[1].Targets[0].Name = evil
	doc.Certificates[1].Targets[0].Endpoints[0].Address = evil
	doc.Notifiers = []report.PublicNotifier{{Name: evil, Failures: 2}}
	doc.Node = evil
	b := shown(doc)
	b.Passed(report.PastPass{At: now, Lines: []report.PastLine{{Certificate: evil, Words: evil}}})
	b.Heard("region1", []certstore.Node{
		{Node: "region1", LastPass: now, LastRun: now.Add(-30 * 24 * time.Hour)}, {Node: evil, LastPass: now, LastRun: now, OK: true, Version: "v1"},
		{Node: "region3", LastPass: now.Add(-48 * time.Hour), LastRun: now.Add(-48 * time.Hour), OK: true, Version: evil},
	}, lifecycle.SilenceOf(12*time.Hour), now)
	text, err := b.Page(now)
	require.NoError(t, err)
	page := string(text)
	require.NotContains(t, page, "<script")
	require.NotContains(t, page, "<img")
	require.NotContains(t, page, "onerror=alert(2)>\"")
	require.NotContains(t, page, " style=", "the policy allows none")
	require.NotContains(t, page, ">region1<", "what this host once said of itself is older than the rest of its page")
	for _, words := range []string{
		"This needs attention", "&lt;script&gt;", "33 % of the lifetime has gone", "serves the version in use", "still serves version 3", "could not be asked", "worked at 2026-11-26 11:00 UTC",
		"1 of 3 endpoints serve what they should", "</a>: not every endpoint serves it", "it runs maascert &lt;script&gt;", "did not take what it was told after 2 passes", "2026-12-25 12:00 UTC</time> to <time",
		"as each had said by <time datetime=\"2026-11-26T12:00:00Z\">2026-11-26 12:00 UTC</time>", "its daemon was not heard of since 2026-11-24 12:00 UTC", "this host v1",
	} {
		require.Contains(t, page, words)
	}
	// It is well-formed: each element is closed, but for those that HTML leaves open.
	decoder := xml.NewDecoder(strings.NewReader(strings.Replace(page, "<!doctype html>", "", 1)))
	decoder.Entity = xml.HTMLEntity
	for {
		_, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		require.NoError(t, err)
	}
	again, err := b.Page(now.Add(500 * time.Millisecond))
	require.NoError(t, err)
	require.Same(t, &text[0], &again[0], "it is not made anew for everybody who asks")
	later, err := b.Page(now.Add(time.Hour))
	require.NoError(t, err)
	require.NotEqual(t, page, string(later))
}

func TestPageBeforeAPass(t *testing.T) {
	t.Parallel()
	text, err := shown(report.Public{}).Page(time.Now())
	require.NoError(t, err)
	require.Contains(t, string(text), "no pass has been made yet")
}

func TestPageKeepsTheLastPasses(t *testing.T) {
	t.Parallel()
	b := shown(report.Public{})
	for i := range 50 {
		b.Passed(report.PastPass{At: time.Now(), Lines: []report.PastLine{{Certificate: "maas", Words: fmt.Sprintf("pass %d.", i), IsWell: true}}})
	}
	text, err := b.Page(time.Now())
	require.NoError(t, err)
	require.Contains(t, string(text), "pass 49.")
	require.NotContains(t, string(text), "pass 29.")
}

// What a pass did is no idleness, and several idle certificates are one line.
func TestWhatAPassDid(t *testing.T) {
	t.Parallel()
	ok := lifecycle.View{Summary: lifecycle.StateOK}
	past := report.NewPastPass([]lifecycle.Result{{Name: "a", After: ok}, {Name: "b", After: ok}, {Name: "c", After: ok, Revoked: []int{3}}}, time.Now())
	require.Equal(t, []report.PastLine{{Certificate: "c", Words: "had the CA revoke version 3", IsWell: true}, {Words: "2 certificates: nothing to do", IsWell: true}}, past.Lines)
}

// A page of 200 certificates is made within 20 ms.
func BenchmarkPageOf200Certificates(b *testing.B) {
	now := time.Now()
	doc := report.NewPublic("region1", now.Add(time.Hour), time.Hour, now)
	for i := range 200 {
		doc.Certificates = append(doc.Certificates, publicCertificate(fmt.Sprintf("cert%d", i), now))
	}
	board := shown(doc)
	for i := range b.N {
		if _, err := board.Page(now.Add(time.Duration(i) * time.Second)); err != nil {
			b.Fatal(err)
		}
	}
}
