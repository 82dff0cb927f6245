// Package challenge makes answers to the challenges of ACME CAs visible (RFC 8555 section 8, RFC 8737): over HTTP, in the TLS
// handshake, in DNS, or as files of a web server that is there already.
//
// It promises that nothing that lasts is made visible unless the caller has written it down; that a place which a CNAME names is
// one where a record may stand; that whoever occupies the port keeps no validator out; and that nothing is answered any more
// after it was released.
//
// Start reading at [Solver]; each kind of challenge is a file that is called like it.
package challenge

import (
	"context"
	"crypto"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// Solver proves names by one type of challenge (RFC 8555 section 8).
type Solver interface {
	// Type is the challenge's: http-01, tls-alpn-01, dns-01.
	Type() string
	// Open makes ready to answer for an account. Nothing is answered any more after release.
	Open(ctx context.Context, account crypto.PublicKey) (release func(), err error)
	// Place is where the answer for a name stands. Answers at one Place stand there one after another; those without a
	// Place stand beside all others.
	Place(ctx context.Context, name string) (string, error)
	// Present makes an answer visible and returns when the CA can see it.
	Present(ctx context.Context, p Proof) error
	// Retract takes an answer away, also one that an earlier run made visible.
	Retract(ctx context.Context, p Proof) error
	// Remedy is what has to be so for the CA to see an answer, as a hint.
	Remedy() string
	// Lasts tells whether an answer outlives this process, so that it has to be written down before it is made visible.
	Lasts() bool
}

// Proof is one answer that a CA will look for.
type Proof struct {
	Name       string // canonical; without the wildcard
	Token      string
	Thumbprint string
	Place      string // where it stands; found out before it is presented
}

// KeyAuthorization proves that the account's holder answers (RFC 8555 section 8.1).
func (p Proof) KeyAuthorization() string { return p.Token + "." + p.Thumbprint }

// Digest is the key authorization as a TXT record holds it (RFC 8555 section 8.4).
func (p Proof) Digest() string {
	sum := sha256.Sum256([]byte(p.KeyAuthorization()))
	return base64.RawURLEncoding.EncodeToString(sum[:])
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

func (w *Webroot) Lasts() bool { return true }

func (w *Webroot) Remedy() string {
	return "the CA must reach " + Path + " under each name on port 80, and there the folder " + w.Dir + "; check DNS, firewall and the web server"
}

func (w *Webroot) Place(context.Context, string) (string, error) { return "", nil }

func (w *Webroot) Open(context.Context, crypto.PublicKey) (func(), error) {
	if err := w.FS.Writable(w.Dir); err != nil {
		return nil, hint.Add(fmt.Errorf("http-01: the webroot cannot be written: %w", err), "set the challenge's webroot to the folder that the web server serves for port 80")
	}
	return func() {}, nil
}

// File returns an answer's path below the webroot.
func (w *Webroot) File(p Proof) string {
	return filepath.Join(strings.TrimPrefix(filepath.FromSlash(Path), "/"), p.Token)
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

func (w *Webroot) Present(_ context.Context, p Proof) error {
	return w.within(func(root world.Root) error {
		file := w.File(p)
		if err := root.MkdirAll(filepath.Dir(file), 0o755); err != nil {
			return err
		}
		return root.Replace(file, []byte(p.KeyAuthorization()), 0o644)
	})
}

func (w *Webroot) Retract(_ context.Context, p Proof) error {
	if !IsToken(p.Token) {
		return nil // so it was never presented
	}
	return w.within(func(root world.Root) error {
		if err := root.Remove(w.File(p)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	})
}
