package acme

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// Solver proves names by one type of challenge (RFC 8555 section 8).
type Solver interface {
	// Type is the challenge's: http-01, tls-alpn-01, dns-01.
	Type() string
	// open makes ready to answer for an account. Nothing is answered any more after release.
	open(ctx context.Context, account crypto.PublicKey) (release func(), err error)
	// place is where the answer for a name stands. Answers at one place stand there one after another; those without a
	// place stand beside all others.
	place(ctx context.Context, name string) (string, error)
	// present makes an answer visible and returns when the CA can see it.
	present(ctx context.Context, p proof) error
	// retract takes an answer away, also one that an earlier run made visible.
	retract(ctx context.Context, p proof) error
	// remedy is what has to be so for the CA to see an answer, as a hint.
	remedy() string
	// lasts tells whether an answer outlives this process, so that it has to be written down before it is made visible.
	lasts() bool
}

// proof is one answer that a CA will look for.
type proof struct {
	name       string // canonical; without the wildcard
	token      string
	thumbprint string
	place      string // where it stands; found out before it is presented
}

// keyAuthorization proves that the account's holder answers (RFC 8555 section 8.1).
func (p proof) keyAuthorization() string { return p.token + "." + p.thumbprint }

// digest is the key authorization as a TXT record holds it (RFC 8555 section 8.4).
func (p proof) digest() string {
	sum := sha256.Sum256([]byte(p.keyAuthorization()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
}

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

// ready are solvers that were opened.
type ready struct {
	solvers  []Solver
	releases []func()
}

func (r *ready) open(ctx context.Context, solver Solver, account crypto.PublicKey) error {
	if slices.Contains(r.solvers, solver) {
		return nil
	}
	release, err := solver.open(ctx, account)
	if err != nil {
		return err
	}
	r.solvers, r.releases = append(r.solvers, solver), append(r.releases, release)
	return nil
}

func (r *ready) release() {
	for _, f := range slices.Backward(r.releases) {
		f()
	}
}

// openSolvers makes every solver ready that some names need.
func (c *Client) openSolvers(ctx context.Context, names []string, account crypto.PublicKey) (*ready, error) {
	r := &ready{}
	for _, solver := range c.solvers(names) {
		if err := r.open(ctx, solver, account); err != nil {
			r.release()
			return nil, err
		}
	}
	return r, nil
}

// Webroot answers http-01 through a web server that is there already: the answers lie as files below the folder that it
// serves.
type Webroot struct {
	Dir string
	FS  world.FS
}

var _ Solver = (*Webroot)(nil)

// Type is http-01.
func (w *Webroot) Type() string { return "http-01" }

func (w *Webroot) lasts() bool { return true }

func (w *Webroot) remedy() string {
	return "the CA must reach " + challengePath + " under each name on port 80, and there the folder " + w.Dir + "; check DNS, firewall and the web server"
}

func (w *Webroot) place(context.Context, string) (string, error) { return "", nil }

func (w *Webroot) open(context.Context, crypto.PublicKey) (func(), error) {
	if err := w.FS.Writable(w.Dir); err != nil {
		return nil, hint.Add(fmt.Errorf("http-01: the webroot cannot be written: %w", err), "set the challenge's webroot to the folder that the web server serves for port 80")
	}
	return func() {}, nil
}

// file returns an answer's path below the webroot.
func (w *Webroot) file(p proof) string {
	return filepath.Join(strings.TrimPrefix(filepath.FromSlash(challengePath), "/"), p.token)
}

// within does something below the webroot, whose owner may have fewer rights than we and lay links there.
func (w *Webroot) within(do func(root world.Root) error) error {
	root, err := w.FS.OpenRoot(w.Dir)
	if err == nil {
		err = errors.Join(do(root), root.Close())
	}
	if err != nil {
		return fmt.Errorf("http-01: webroot: %w", err)
	}
	return nil
}

func (w *Webroot) present(_ context.Context, p proof) error {
	return w.within(func(root world.Root) error {
		file := w.file(p)
		if err := root.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return root.Replace(file, []byte(p.keyAuthorization()), 0o644)
	})
}

func (w *Webroot) retract(_ context.Context, p proof) error {
	if !tokens.MatchString(p.token) {
		return nil // so it was never presented
	}
	return w.within(func(root world.Root) error {
		if err := root.Remove(w.file(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
