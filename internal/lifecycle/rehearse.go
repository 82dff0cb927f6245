package lifecycle

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/x509"
	"crypto/x509/pkix"
	"errors"
	"math/big"
	"time"

	"maascert/acme"
	"maascert/certstore"
)

// Level says how far a rehearsal got with the CA.
type Level string

const (
	Planned   Level = "planned"   // the CA was not asked for anything
	Validated Level = "validated" // every name was proven, nothing was issued
	Issued    Level = "issued"    // the directory for dry runs issued
)

// Rehearser is an Issuer that has the CA of the certificate issue nothing. Where there is a directory for dry runs, that
// one issues; else every name is proven at the CA itself and the order is left. The certificate that it returns then is
// one that it made itself, good for rehearsing a deployment and nothing else.
type Rehearser struct {
	Client *acme.Client
	DryRun *acme.Client // nil: none
	Now    func() time.Time
	Keep   bool // leave authorizations as they are, because an order is under way

	// After Obtain.
	Level Level
	AtCA  bool // the CA of the certificate was asked last, not the one for dry runs
	// Reused are names that were not proven, because the CA went by an earlier proof.
	Reused []string
}

var _ Issuer = (*Rehearser)(nil)

// Window asks the real CA.
func (r *Rehearser) Window(ctx context.Context, leaf *x509.Certificate) (acme.Window, error) {
	return r.Client.Window(ctx, leaf)
}

// Retract leaves what is there.
func (r *Rehearser) Retract(_ context.Context, left []certstore.Answer) ([]certstore.Answer, error) {
	return left, nil
}

// Obtain rehearses.
func (r *Rehearser) Obtain(ctx context.Context, request acme.Request) (*acme.Issued, error) {
	r.Level = Planned
	request.Leftovers = nil // what is there belongs to a real run
	r.AtCA = true
	if r.DryRun != nil {
		return r.issue(ctx, request)
	}
	rehearsed, err := r.Client.Rehearse(ctx, request, r.Keep)
	r.reuse(rehearsed)
	if err != nil && !errors.Is(err, acme.ErrExternalAccount) {
		return rehearsed, err
	}
	if err == nil {
		r.Level = Validated
	}
	rehearsed.Bundle, err = r.standIn(request)
	return rehearsed, err
}

// reuse notes, and says, what was not proven.
func (r *Rehearser) reuse(issued *acme.Issued) {
	r.Reused = issued.Reused
	if len(r.Reused) > 0 {
		issued.Warnings = append(issued.Warnings, "not proven, because the CA goes by an earlier proof: "+listed(r.Reused))
	}
}

// issue has the directory for dry runs issue, when the CA itself has been seen to be there and to know the account.
func (r *Rehearser) issue(ctx context.Context, request acme.Request) (*acme.Issued, error) {
	asked, err := r.Client.CheckAccount(ctx)
	if err != nil {
		return &acme.Issued{Requests: asked}, err
	}
	r.AtCA = false
	request.Afresh = true // what an earlier rehearsal proved is no proof now
	issued, err := r.DryRun.Obtain(ctx, request)
	r.reuse(issued)
	issued.Requests += asked
	issued.Directory = r.Client.Directory() // as if it came from there: another CA's would be replaced at once
	switch {
	case errors.Is(err, acme.ErrExternalAccount): // which is nothing to bind for a rehearsal
		issued.Bundle, err = r.standIn(request)
	case err == nil:
		r.Level = Issued
	}
	return issued, err
}

// standIn is a certificate with the names and the kind of key that were asked for, under a chain of the usual length: a
// CA that is made and forgotten here.
func (r *Rehearser) standIn(request acme.Request) (*certstore.Bundle, error) {
	now := r.Now()
	authority := &x509.Certificate{
		SerialNumber: big.NewInt(1), Subject: pkix.Name{CommonName: "rehearsal"}, IsCA: true, BasicConstraintsValid: true,
		NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour), KeyUsage: x509.KeyUsageCertSign,
	}
	leaf := &x509.Certificate{
		SerialNumber: big.NewInt(2), NotBefore: authority.NotBefore, NotAfter: authority.NotAfter,
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	leaf.DNSNames, leaf.IPAddresses = certstore.SplitNames(request.Names)
	rootKey, err := certstore.EC256.Generate()
	if err != nil {
		return nil, err
	}
	authorityKey, err := certstore.EC256.Generate()
	if err != nil {
		return nil, err
	}
	key, err := request.KeyType.Generate()
	if err != nil {
		return nil, err
	}
	root := &x509.Certificate{Subject: pkix.Name{CommonName: "rehearsal root"}}
	certs := make([]*x509.Certificate, 2)
	if certs[1], err = sign(authority, root, authorityKey.Public(), rootKey); err != nil {
		return nil, err
	}
	if certs[0], err = sign(leaf, certs[1], key.Public(), authorityKey); err != nil {
		return nil, err
	}
	return certstore.NewBundle(key, certs)
}

func sign(template, parent *x509.Certificate, public crypto.PublicKey, key crypto.Signer) (*x509.Certificate, error) {
	der, err := x509.CreateCertificate(rand.Reader, template, parent, public, key)
	if err != nil {
		return nil, err
	}
	return x509.ParseCertificate(der)
}
