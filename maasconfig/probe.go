package maasconfig

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"sync"
	"syscall"
	"time"

	"maascert/internal/world"
)

// httpPort is where a region answers without TLS, always (MAAS fact 2.6).
const httpPort = 5240

// DefaultPort is where a region serves TLS unless it was told another port.
const DefaultPort = 5443

// askTime is how long one endpoint may take to answer.
const askTime = 5 * time.Second

// handshake sees what an address serves. The certificate is not verified here: what is served matters, trusted or not.
func handshake(ctx context.Context, dial world.Dial, address, serverName string) Served {
	served := Served{Address: address}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	raw, err := dial(ctx, "tcp", address)
	if err == nil {
		conn := tls.Client(raw, &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err = conn.HandshakeContext(ctx); err == nil {
			served.Certs = conn.ConnectionState().PeerCertificates
		}
		// What was to be seen has been seen.
		_ = raw.Close()
	}
	if err != nil {
		served.State, served.Err = classify(err)
	}
	return served
}

// classify tells a server that does not speak TLS from one that could not be asked.
func classify(err error) (State, error) {
	var plain tls.RecordHeaderError
	var op *net.OpError
	switch {
	case errors.Is(err, syscall.ECONNREFUSED):
		return None, errors.New("connection refused")
	case errors.As(err, &plain):
		return None, errors.New("it does not speak TLS")
	case errors.As(err, &op) && op.Op == "remote error":
		return None, fmt.Errorf("it refuses the handshake: %w", op.Err)
	case errors.Is(err, context.DeadlineExceeded), errors.Is(err, syscall.ETIMEDOUT):
		return Unknown, errors.New("no answer in time")
	case errors.Is(err, io.EOF):
		return Unknown, errors.New("it hung up")
	case errors.As(err, &op):
		return Unknown, op.Err
	default:
		return Unknown, err
	}
}

// tlsState is what one region's plain port says about TLS.
type tlsState struct {
	known bool
	port  int // 0: TLS is off
	err   error
}

// askTLS asks a region whether it serves TLS and on which port: with TLS off the API answers, with TLS on it redirects
// to the port (MAAS fact 2.6).
func askTLS(ctx context.Context, dial world.Dial, host string) tlsState {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	address := "http://" + net.JoinHostPort(host, strconv.Itoa(httpPort)) + "/MAAS/api/2.0/version/"
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return tlsState{err: err}
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		_, err = classify(err)
		return tlsState{err: err}
	}
	// Nothing of the body is wanted.
	_ = resp.Body.Close()
	switch resp.StatusCode {
	case http.StatusOK:
		return tlsState{known: true}
	case http.StatusMovedPermanently:
		location, err := url.Parse(resp.Header.Get("Location"))
		if err != nil || location.Scheme != "https" {
			return tlsState{err: errors.New("it redirects, but not to https")}
		}
		port, err := strconv.Atoi(location.Port())
		if location.Port() == "" {
			port, err = 443, nil
		}
		return tlsState{known: err == nil, port: port, err: err}
	default:
		return tlsState{err: fmt.Errorf("it answers %s", resp.Status)}
	}
}

// sideBySide runs f for every item at the same time and returns the results in the items' order.
func sideBySide[T, R any](items []T, f func(T) R) []R {
	results := make([]R, len(items))
	var group sync.WaitGroup
	for i, item := range items {
		group.Go(func() { results[i] = f(item) })
	}
	group.Wait()
	return results
}
