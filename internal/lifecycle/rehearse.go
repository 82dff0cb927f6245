package lifecycle

import (
	"context"
	"crypto/rand"
	"crypto/x509"
	"errors"
	"math/big"
	"net"
	"time"

	"maascert/acme"
	"maascert/certstore"
)

// Level is how far a rehearsal got with the CA.
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

	Level Level // after Obtain
}

var _ Issuer = (*Rehearser)(nil)

// Window asks the real CA.
func (r *Rehearser) Window(ctx context.Context, leaf *x509.Certificate) (acme.Window, error) {
	return r.Client.Window(ctx, leaf)
}

// Obtain rehearses.
func (r *Rehearser) Obtain(ctx context.Context, request acme.Request) (*acme.Issued, error) {
	r.Level = Planned
	if r.DryRun != nil {
		issued, err := r.DryRun.Obtain(ctx, request)
		if err == nil {
			r.Level = Issued
		}
		return issued, err
	}
	requests, err := r.Client.Rehearse(ctx, request)
	if err != nil && !errors.Is(err, acme.ErrExternalAccount) {
		return nil, err
	}
	if err == nil {
		r.Level = Validated
	}
	bundle, err := r.standIn(request)
	if err != nil {
		return nil, err
	}
	return &acme.Issued{Bundle: bundle, Directory: r.Client.Directory(), Requests: requests}, nil
}

// standIn is a self-signed certificate with the names and the kind of key that were asked for.
func (r *Rehearser) standIn(request acme.Request) (*certstore.Bundle, error) {
	key, err := request.KeyType.Generate()
	if err != nil {
		return nil, err
	}
	now := r.Now()
	template := &x509.Certificate{
		SerialNumber: big.NewInt(now.UnixNano()), NotBefore: now.Add(-time.Minute), NotAfter: now.Add(time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	for _, name := range request.Names {
		if address := net.ParseIP(name); address != nil {
			template.IPAddresses = append(template.IPAddresses, address)
		} else {
			template.DNSNames = append(template.DNSNames, name)
		}
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return nil, err
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		return nil, err
	}
	return certstore.NewBundle(key, []*x509.Certificate{cert})
}
