package maasconfig

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"net/netip"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"maascert/internal/printable"
	"maascert/internal/world"
)

// A region answers on httpPort without TLS, always (MAAS fact 2.6).
const httpPort = 5240

// DefaultPort is the port of TLS unless MAAS was told another one.
const DefaultPort = 5443

// askTime bounds the answer of one endpoint.
const askTime = 5 * time.Second

// maxServed bounds the certificates of an answer that are looked at.
const maxServed = 20

// Handshake sees what an address (host:port) serves, asked for a server name (SNI; may be empty), within five seconds. The
// certificate is not verified here: what is served matters, trusted or not.
func Handshake(ctx context.Context, dial world.Dial, address, serverName string) Served {
	served := Served{Address: address}
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	raw, err := dial(ctx, "tcp", address)
	if err == nil {
		conn := tls.Client(raw, &tls.Config{ServerName: serverName, InsecureSkipVerify: true, MinVersion: tls.VersionTLS12})
		if err = conn.HandshakeContext(ctx); err == nil {
			served.Certs = conn.ConnectionState().PeerCertificates
			served.Certs = served.Certs[:min(len(served.Certs), maxServed)]
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

// isStopped tells whether a region's regiond is seen to be stopped: its proxy is there and says that nobody is behind it
// (MAAS fact 2.4). The path is one that stays plain whether TLS is on or off (MAAS fact 2.6).
func isStopped(ctx context.Context, dial world.Dial, host string) bool {
	resp, err := askPlain(ctx, dial, host, "/MAAS/rpc/")
	return err == nil && (resp.StatusCode == http.StatusBadGateway || resp.StatusCode == http.StatusServiceUnavailable || resp.StatusCode == http.StatusGatewayTimeout)
}

// LiveRegions are the regions whose regiond runs, as one of them says to anybody (MAAS fact 2.4): the name of each host, and its addresses. It is
// for proposals: a region that is down is not among them.
func LiveRegions(ctx context.Context, dial world.Dial, host string) ([]Region, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := openPlain(ctx, dial, host, "/MAAS/rpc/")
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("it answers %s", printable.Phrase(resp.Status))
	}
	var said struct {
		EventLoops map[string][][]any `json:"eventloops"`
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxLoops)).Decode(&said); err != nil {
		return nil, err
	}
	found := map[string]Region{}
	for loop, ends := range said.EventLoops { // region1:pid=5819, and where it listens
		name, _, _ := strings.Cut(loop, ":")
		region := found[name]
		region.Name = printable.Line(name, 253)
		for _, end := range ends {
			if text, isText := append(end, nil)[0].(string); isText {
				address, err := netip.ParseAddr(text)
				isFit := err == nil && address.Zone() == "" && !address.IsLoopback() && !address.IsUnspecified() && !address.IsMulticast() && len(region.Addresses) < mostOfRegion
				if isFit && !slices.Contains(region.Addresses, address.Unmap()) {
					region.Addresses = append(region.Addresses, address.Unmap())
				}
			}
		}
		if len(found) < MostNames {
			found[name] = region
		}
	}
	var regions []Region
	for _, name := range slices.Sorted(maps.Keys(found)) {
		regions = append(regions, found[name])
	}
	return regions, nil
}

// mostOfRegion bounds how many addresses of a region are believed.
const mostOfRegion = 20

// maxLoops bounds, in bytes, the list of regions that run.
const maxLoops = 256 << 10

// askPlain asks a region's plain port for a path. Nothing of the body is wanted: the answer's is closed.
func askPlain(ctx context.Context, dial world.Dial, host, path string) (*http.Response, error) {
	ctx, cancel := context.WithTimeout(ctx, askTime)
	defer cancel()
	resp, err := openPlain(ctx, dial, host, path)
	if err != nil {
		return nil, err
	}
	return resp, resp.Body.Close()
}

func openPlain(ctx context.Context, dial world.Dial, host, path string) (*http.Response, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+net.JoinHostPort(host, strconv.Itoa(httpPort))+path, nil)
	if err != nil {
		return nil, err
	}
	transport := &http.Transport{DialContext: dial, DisableKeepAlives: true, MaxResponseHeaderBytes: maxHeader}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		_, err = classify(err)
		return nil, err
	}
	return resp, nil
}

// maxHeader bounds, in bytes, the headers of a region's answer.
const maxHeader = 16 << 10

// tlsState holds the answer of one region's plain port about TLS.
type tlsState struct {
	known bool
	port  int // 0: TLS is off
	err   error
}

// askTLS asks a region whether it serves TLS and on which port: with TLS off the API answers, with TLS on it redirects
// to the port (MAAS fact 2.6).
func askTLS(ctx context.Context, dial world.Dial, host string) tlsState {
	resp, err := askPlain(ctx, dial, host, "/MAAS/api/2.0/version/")
	if err != nil {
		return tlsState{err: err}
	}
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
		if err != nil || port < 1 || port > 65535 {
			return tlsState{err: errors.New("it redirects to no port")}
		}
		return tlsState{known: true, port: port}
	default:
		return tlsState{err: fmt.Errorf("it answers %s", printable.Line(resp.Status, printable.Word))}
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
