package acme

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"sync"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// Solver proves names by one type of challenge (RFC 8555 section 8).
type Solver interface {
	// Type is the challenge's: http-01, tls-alpn-01.
	Type() string
	// open makes ready to answer for an account. Nothing is answered any more after release.
	open(ctx context.Context, account crypto.PublicKey) (release func(), err error)
	// present makes one answer visible, before the CA is told to look. done takes it away.
	present(p proof) (done func(), err error)
}

// proof is one answer that a CA will look for.
type proof struct {
	name       string // canonical; without the wildcard
	token      string
	thumbprint string
}

// keyAuthorization is what proves that the account's holder answers (RFC 8555 section 8.1).
func (p proof) keyAuthorization() string { return p.token + "." + p.thumbprint }

// solvers are the distinct ones that some names need.
func (c *Client) solvers(names []string) []Solver {
	var all []Solver
	for _, name := range names {
		if solver := c.config.Solve(name); !slices.Contains(all, solver) {
			all = append(all, solver)
		}
	}
	return all
}

// open makes every solver ready that some names need.
func (c *Client) openSolvers(ctx context.Context, names []string, account crypto.PublicKey) (release func(), err error) {
	var releases []func()
	release = func() {
		for _, f := range slices.Backward(releases) {
			f()
		}
	}
	for _, solver := range c.solvers(names) {
		one, err := solver.open(ctx, account)
		if err != nil {
			release()
			return nil, err
		}
		releases = append(releases, one)
	}
	return release, nil
}

// presented takes answers away when an order is over, however it ended.
type presented struct {
	mu   sync.Mutex
	done []func()
}

func (p *presented) add(done func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.done = append(p.done, done)
}

func (p *presented) clear() {
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, done := range p.done {
		done()
	}
	p.done = nil
}

// Webroot answers http-01 through a web server that is there already: the answers lie as files below the folder that it
// serves. A run that is killed leaves them; they prove nothing to anybody else.
type Webroot struct {
	Dir string
	FS  world.FS
}

var _ Solver = (*Webroot)(nil)

// Type is http-01.
func (w *Webroot) Type() string { return "http-01" }

func (w *Webroot) open(context.Context, crypto.PublicKey) (func(), error) {
	if err := w.FS.Writable(w.Dir); err != nil {
		return nil, hint.Add(fmt.Errorf("http-01: the webroot cannot be written: %w", err), "set the challenge's webroot to the folder that the web server serves for port 80")
	}
	return func() {}, nil
}

func (w *Webroot) present(p proof) (func(), error) {
	if !tokens.MatchString(p.token) {
		return nil, errors.New("http-01: the CA's token is none")
	}
	dir := filepath.Join(w.Dir, filepath.FromSlash(challengePath))
	if err := w.FS.MkdirAll(dir, 0o755); err != nil {
		return nil, fmt.Errorf("http-01: %w", err)
	}
	file := filepath.Join(dir, p.token)
	if err := w.FS.Replace(file, []byte(p.keyAuthorization()), 0o644); err != nil {
		return nil, fmt.Errorf("http-01: %w", err)
	}
	return func() {
		if err := w.FS.Remove(file); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return // what is left proves nothing to anybody else
		}
	}, nil
}
