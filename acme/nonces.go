package acme

import (
	"context"
	"net/http"
	"sync/atomic"
)

// nonces are fetched ahead (RFC 8555 section 7.2), beside the requests that make an order, so that the requests for its
// authorizations, which all start at the same time, need not each fetch one first.
type nonces struct {
	url     string // of the CA's newNonce
	coming  atomic.Int64
	arrived chan string // empty: that one could not be had
}

// fetchNonces begins to fetch as many nonces as the requests for the authorizations of some names will lack: the answer to
// newOrder brings one. nil where that is enough.
func (s *session) fetchNonces(names int) *nonces {
	count := min(names, sideBySide) - 1
	if count <= 0 {
		return nil
	}
	source := s.nonceSource(s.wire.roundTrip)
	n := &nonces{url: source.url, arrived: make(chan string, count)}
	n.coming.Store(int64(count))
	for range count {
		go func() {
			nonce, err := source.Nonce()
			if err != nil {
				nonce = ""
			}
			n.arrived <- nonce
		}()
	}
	return n
}

// take waits for one of the nonces that are being fetched; false when there is none, and the CA is to be asked.
func (n *nonces) take(ctx context.Context, req *http.Request) (nonce string, taken bool) {
	if n == nil || req.Method != http.MethodHead || req.URL.String() != n.url || n.coming.Add(-1) < 0 {
		return "", false
	}
	select {
	case nonce = <-n.arrived:
		return nonce, nonce != ""
	case <-ctx.Done():
		return "", false
	}
}
