package command

import (
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/http/httptest"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/net/html"

	"maascert/internal/report"
)

// hostileWords is what somebody might have a name be.
const hostileWords = `</style><script>alert(1)</script>"'><img src=//evil.example onerror=alert(2)><a href="javascript:alert(3)">`

// pageOf is the page of so many certificates as a client gets it.
func pageOf(t *testing.T, certificates int, words string) *httptest.ResponseRecorder {
	t.Helper()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	b := newBoard(func() time.Time { return now })
	b.shown.Show(largeDocument(certificates, words, now))
	b.shown.Passed(report.PastPass{At: now, Lines: []report.PastLine{{Certificate: words, Words: words}}})
	got := httptest.NewRecorder()
	b.handler.ServeHTTP(got, httptest.NewRequest(http.MethodGet, "/", nil))
	require.Equal(t, http.StatusOK, got.Code)
	return got
}

// largeDocument is of so many certificates, each at three endpoints, whose names and troubles hold some words.
func largeDocument(certificates int, words string, now time.Time) report.Public {
	at := func(days int) report.Time { return report.Time{Time: now.Add(time.Duration(days) * 24 * time.Hour)} }
	doc := report.NewPublic("region1"+words, now.Add(12*time.Hour), 12*time.Hour, now)
	doc.Notifiers = []report.PublicNotifier{{Name: "mail" + words, Failures: 3}}
	for n := range certificates {
		c := report.PublicCertificate{
			Name: fmt.Sprintf("cert%d%s", n, words), State: "degraded", Reason: "fresh" + words, Names: []string{"maas.example.internal", words}, Version: 2, NotBefore: at(-30), NotAfter: at(60), RenewAt: at(30),
			Fingerprint: "sha256:" + words, Window: &report.PublicWindow{Start: at(29), End: at(31)}, Rehearsal: &report.PublicRehearsal{At: at(-1), OK: true}, Targets: []report.Target{{Name: "maas" + words}},
		}
		for m := range 3 {
			c.Targets[0].Endpoints = append(c.Targets[0].Endpoints, report.Endpoint{Address: fmt.Sprintf("10.0.%d.%d:5443%s", n%250, m, words), State: "other", Error: "it broke: " + words, NotAfter: at(60)})
		}
		doc.Certificates = append(doc.Certificates, c)
	}
	return doc
}

// The page may do nothing but be shown: a policy forbids all else, and the page has nothing that the policy would have to forbid, whatever names
// and troubles hold.
func TestThePageMayDoNothing(t *testing.T) {
	t.Parallel()
	got := pageOf(t, 3, hostileWords)
	for name, want := range map[string]string{
		"Content-Type": "text/html; charset=utf-8", "X-Content-Type-Options": "nosniff", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Refresh": "30",
		"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
	} {
		require.Equal(t, []string{want}, got.Header()[name], name)
	}
	require.NotContains(t, got.Header(), "Set-Cookie")
	require.NotContains(t, got.Header(), "Access-Control-Allow-Origin")

	policy := map[string][]string{}
	require.Len(t, got.Header()["Content-Security-Policy"], 1)
	for directive := range strings.SplitSeq(got.Header().Get("Content-Security-Policy"), ";") {
		words := strings.Fields(directive)
		require.NotContains(t, policy, words[0], "the first of two counts")
		policy[words[0]] = words[1:]
	}
	for _, directive := range []string{"default-src", "base-uri", "form-action", "frame-ancestors"} {
		require.Equal(t, []string{"'none'"}, policy[directive], directive)
	}
	delete(policy, "default-src")
	require.Equal(t, []string{"base-uri", "form-action", "frame-ancestors", "style-src"}, slices.Sorted(maps.Keys(policy)), "nothing takes back what default-src forbids")

	text := got.Body.String()
	root, err := html.Parse(strings.NewReader(text))
	require.NoError(t, err)
	var styles []string
	for node := range root.Descendants() {
		if node.Type != html.ElementNode {
			continue
		}
		require.NotContains(t, []string{"script", "iframe", "frame", "object", "embed", "link", "base", "form", "img", "input", "button", "audio", "video", "portal"}, node.Data)
		if node.Data == "style" {
			styles = append(styles, node.FirstChild.Data)
		}
		for _, attribute := range node.Attr {
			require.False(t, strings.HasPrefix(attribute.Key, "on") || slices.Contains([]string{"style", "src", "srcset", "action", "formaction", "srcdoc", "ping", "background"}, attribute.Key), "%s %s", node.Data, attribute.Key)
			if strings.HasSuffix(attribute.Key, "href") {
				require.True(t, strings.HasPrefix(attribute.Val, "#"), attribute.Val)
			}
			require.NotEqual(t, "http-equiv", attribute.Key, "headers say it")
		}
	}
	require.Len(t, styles, 1)
	sum := sha256.Sum256([]byte(styles[0]))
	require.Equal(t, []string{"'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"}, policy["style-src"])
	require.NotContains(t, styles[0], "url(")
	require.NotContains(t, styles[0], "@import")
	for _, about := range []string{"cert0", "region1", "mail", "maas", "10.0.0.0:5443"} {
		require.Contains(t, textOf(root), about+hostileWords, "it comes out as text")
	}
	require.NotContains(t, text, "it broke", "what errors say is for those who may read the log")
	require.Empty(t, regexp.MustCompile(`https?://`).FindAllString(text, -1))

	b := newBoard(time.Now)
	for _, path := range []string{"/metrics", "/healthz", "/", "/x"} {
		got := httptest.NewRecorder()
		b.handler.ServeHTTP(got, httptest.NewRequest(http.MethodGet, path, nil))
		require.Equal(t, "nosniff", got.Header().Get("X-Content-Type-Options"), path)
		for _, method := range []string{http.MethodPost, http.MethodPut, http.MethodDelete, http.MethodOptions, http.MethodTrace} {
			refused := httptest.NewRecorder()
			b.handler.ServeHTTP(refused, httptest.NewRequest(method, path, io.LimitReader(strings.NewReader("x"), 1)))
			require.GreaterOrEqual(t, refused.Code, 400, "%s %s: it is read-only", method, path)
		}
	}
}

func textOf(node *html.Node) string {
	var all strings.Builder
	for one := range node.Descendants() {
		if one.Type == html.TextNode {
			all.WriteString(one.Data)
		}
	}
	return all.String()
}
