package maasconfig_test

import (
	"context"
	"crypto/tls"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
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

// wire is a listener to whom connections come within this process.
type wire chan net.Conn

func (w wire) Accept() (net.Conn, error) {
	if conn, isOpen := <-w; isOpen {
		return conn, nil
	}
	return nil, net.ErrClosed
}

func (w wire) Close() error { return nil }

func (w wire) Addr() net.Addr { return &net.TCPAddr{IP: net.IPv4(10, 9, 0, 1)} }

// A hundred endpoints that are 50 ms away are seen within a second, side by side. What waiting takes is told in fake time, exactly; what
// computing takes, for both ends, depends on the machine and on what else it does.
func TestAHundredEndpointsAreSeenWithinASecond(t *testing.T) {
	s := newSite(t, maastest.Options{})
	bundle, err := s.authority.Issue(certstore.RSA3072, 0, time.Hour, "maas.example")
	require.NoError(t, err)
	began := time.Now()
	synctest.Test(t, func(t *testing.T) { s.seeAHundred(t, bundle) })
	t.Logf("100 endpoints: computed for %v", time.Since(began).Round(time.Millisecond))
}

func (s *site) seeAHundred(t *testing.T, bundle *certstore.Bundle) {
	const trip = 50 * time.Millisecond
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	secure, plain := make(wire), make(wire)
	server := &http.Server{
		Handler:  http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{}") }),
		ErrorLog: log.New(io.Discard, "", 0), // that a prober hangs up is no news
	}
	defer server.Close()
	for _, listener := range []net.Listener{tls.NewListener(secure, &tls.Config{Certificates: []tls.Certificate{pair}}), plain} {
		go func() { _ = server.Serve(listener) }()
	}
	defer close(secure)
	defer close(plain)
	s.config.Endpoints = nil
	for n := range 100 {
		s.config.Endpoints = append(s.config.Endpoints, fmt.Sprintf("10.9.0.%d:5443", n+1))
	}
	s.config.Dial = func(_ context.Context, _, address string) (net.Conn, error) {
		to := plain
		if strings.HasSuffix(address, ":5443") {
			to = secure
		}
		here, there := net.Pipe()
		to <- there
		time.Sleep(trip) // TCP's own
		return &far{Conn: here, trip: trip}, nil
	}
	target := maasconfig.New(s.config)
	began := time.Now()
	endpoints := maasconfig.Judged(target.Probe(t.Context()), bundle, s.config.Trust)
	took := time.Since(began)
	require.Len(t, endpoints, 100)
	require.True(t, maasconfig.Serving(endpoints))
	t.Logf("100 endpoints, 50 ms away: waited for %v", took)
	require.GreaterOrEqual(t, took, 2*trip, "there is a way to each")
	require.Less(t, took, time.Second/2)
}
