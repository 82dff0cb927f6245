package acme

import (
	"bytes"
	"crypto/x509"
	"io"
	"math/big"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// said is a CA that says always the same of a renewal.
type said struct {
	body  []byte
	again string // Retry-After
}

func (s said) RoundTrip(r *http.Request) (*http.Response, error) {
	body := s.body
	if strings.HasSuffix(r.URL.Path, "/directory") {
		body = []byte(`{"newNonce":"https://ca.example/n","newAccount":"https://ca.example/a","newOrder":"https://ca.example/o","renewalInfo":"https://ca.example/ari"}`)
	}
	header := http.Header{"Content-Type": {"application/json"}}
	if s.again != "" {
		header.Set("Retry-After", s.again)
	}
	return &http.Response{StatusCode: http.StatusOK, Status: "200 OK", Proto: "HTTP/1.1", Header: header, Body: io.NopCloser(bytes.NewReader(body)), Request: r}, nil
}

// Whatever a CA says of when to renew, the moment lies within its window, and it is asked again within a day and not before a minute.
func FuzzRenewalInformation(f *testing.F) {
	f.Add([]byte(`{"suggestedWindow":{"start":"2026-11-26T12:00:00Z","end":"2026-11-28T12:00:00Z"},"explanationURL":"https://ca.example/why"}`), "21600")
	f.Add([]byte(`{"suggestedWindow":{"start":"0001-01-01T00:00:00Z","end":"9999-12-31T23:59:59Z"}}`), "Thu, 26 Nov 2026 12:00:00 GMT")
	f.Add([]byte(`{"suggestedWindow":{"start":"2026-11-26T12:00:00.000000001+23:59","end":"2026-11-26T12:00:00.000000002+23:59"}}`), "-1")
	f.Fuzz(func(t *testing.T, body []byte, again string) {
		now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
		c := New(Config{Directory: "https://ca.example/directory", Now: func() time.Time { return now }})
		c.base = said{body, again}
		leaf := &x509.Certificate{AuthorityKeyId: []byte{1, 2}, SerialNumber: big.NewInt(200), NotBefore: now.Add(-time.Hour), NotAfter: now.Add(time.Hour)}
		window, err := c.Window(t.Context(), leaf)
		if err != nil {
			require.Less(t, len(err.Error()), 2000)
			return
		}
		require.True(t, window.Start.Before(window.End))
		moment := window.Moment()
		require.False(t, moment.Before(window.Start))
		require.True(t, moment.Before(window.End))
		require.Equal(t, moment, window.Moment(), "it is the same at every look")
		wait := window.AskAgain.Sub(now)
		require.True(t, wait >= soonestAsk && wait <= LatestAsk, wait)
		require.Less(t, len(window.Explanation), 1000)
		_, err = window.Start.MarshalJSON()
		require.NoError(t, err, "it can be written down")
		_, err = window.End.MarshalJSON()
		require.NoError(t, err)
	})
}
