package vaultkeys

import (
	"bytes"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync/atomic"
	"time"
)

// mostAnswer is how many bytes of an answer are read: a key has a few thousand.
const mostAnswer = 1 << 20

// gate is the only way to Vault. A request takes the token along that its context has. Only what Vault itself answers comes back: a
// proxy's page, or one that leads elsewhere, is an error here, so that nobody takes it for a key that is not there.
type gate struct {
	http.RoundTripper
	shown atomic.Pointer[x509.Certificate] // Vault's, as it was seen last
}

// passed is what a question has with it on its way, and what is seen of its answer.
type passed struct {
	token string
	date  time.Time // by the clock of who answered; zero: it does not say
}

type passedKey struct{}

func with(ctx context.Context, p *passed) context.Context {
	return context.WithValue(ctx, passedKey{}, p)
}

// refusal is an error that Vault answers with.
type refusal struct {
	status int
	said   []string
}

func (r *refusal) Error() string { return fmt.Sprintf("Vault answers %d", r.status) }

// stranger is an answer that is none of Vault's. What it says is shown to nobody: it may be anything.
type stranger struct{ status int }

func (s *stranger) Error() string {
	if s.status >= 300 && s.status < 400 {
		return fmt.Sprintf("who answers there leads elsewhere (%d)", s.status)
	}
	return fmt.Sprintf("who answers there is not Vault (%d)", s.status)
}

var errFlood = errors.New("the answer is too long")

func (g *gate) RoundTrip(r *http.Request) (*http.Response, error) {
	p, isOurs := r.Context().Value(passedKey{}).(*passed)
	if !isOurs {
		return nil, errors.New("a question of nobody's")
	}
	r = r.Clone(r.Context())
	r.Header.Del("X-Vault-Token")
	if p.token != "" {
		r.Header.Set("X-Vault-Token", p.token)
	}
	answer, err := g.RoundTripper.RoundTrip(r)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.TLS != nil && len(answer.TLS.PeerCertificates) > 0 {
		g.shown.Store(answer.TLS.PeerCertificates[0])
	}
	p.date, _ = http.ParseTime(answer.Header.Get("Date")) // zero where there is none
	body, err := io.ReadAll(io.LimitReader(answer.Body, mostAnswer+1))
	switch {
	case err != nil:
		return nil, err
	case len(body) > mostAnswer:
		return nil, errFlood
	}
	if err := judge(r.Method, answer.StatusCode, body); err != nil {
		return nil, err
	}
	answer.Body = io.NopCloser(bytes.NewReader(body))
	return answer, nil
}

// judge tells what is wrong with an answer. That something is not there is an answer like others: an object that says so.
func judge(method string, status int, body []byte) error {
	var said struct {
		Errors []string        `json:"errors"`
		Data   json.RawMessage `json:"data"`
	}
	isObject := json.Unmarshal(body, &said) == nil && len(body) > 0
	isFine := status >= 200 && status < 300
	switch {
	case status == http.StatusNoContent && method != http.MethodGet, isFine && isObject:
		return nil
	case status == http.StatusNotFound && isObject && (bytes.HasPrefix(said.Data, []byte("{")) || said.Errors != nil && len(said.Errors) == 0):
		return nil
	case status >= 400 && isObject && said.Errors != nil:
		return &refusal{status, said.Errors}
	default:
		return &stranger{status}
	}
}
