package maasconfig_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/maasconfig"
	"maascert/maasconfig/maastest"
)

// far is a connection to a place that is a round trip away: an answer comes no sooner than that after what was said last.
type far struct {
	net.Conn
	trip time.Duration

	mu   sync.Mutex
	said time.Time
}

func (f *far) Write(p []byte) (int, error) {
	f.mu.Lock()
	f.said = time.Now()
	f.mu.Unlock()
	return f.Conn.Write(p)
}

func (f *far) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	f.mu.Lock()
	due := f.said.Add(f.trip)
	f.mu.Unlock()
	time.Sleep(time.Until(due))
	return n, err
}

// A hundred endpoints that are 50 ms away are seen within a second, side by side.
func TestAHundredEndpointsAreSeenWithinASecond(t *testing.T) {
	const trip = 50 * time.Millisecond
	s := newSite(t, maastest.Options{})
	bundle, err := s.authority.Issue(certstore.RSA3072, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	secure := httptest.NewUnstartedServer(http.NotFoundHandler())
	secure.TLS = &tls.Config{Certificates: []tls.Certificate{pair}}
	secure.StartTLS()
	t.Cleanup(secure.Close)
	plain := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }))
	t.Cleanup(plain.Close)
	s.config.Endpoints = nil
	for n := range 100 {
		s.config.Endpoints = append(s.config.Endpoints, fmt.Sprintf("10.9.0.%d:5443", n+1))
	}
	s.config.Dial = func(ctx context.Context, network, address string) (net.Conn, error) {
		to := plain.Listener.Addr().String()
		if strings.HasSuffix(address, ":5443") {
			to = secure.Listener.Addr().String()
		}
		conn, err := new(net.Dialer).DialContext(ctx, network, to)
		time.Sleep(trip) // TCP's own
		return &far{Conn: conn, trip: trip}, err
	}
	target := maasconfig.New(s.config)
	began := time.Now()
	endpoints := maasconfig.Judged(target.Probe(t.Context()), bundle, s.config.Trust)
	took := time.Since(began)
	require.Len(t, endpoints, 100)
	require.True(t, maasconfig.Serving(endpoints))
	t.Logf("100 endpoints, 50 ms away: %v", took.Round(time.Millisecond))
	require.Less(t, took, time.Second)
}
