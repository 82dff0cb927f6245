// Package maasconfig makes MAAS serve a certificate, and sees what its regions serve.
//
// It promises that what would lock people out or cannot work is refused before anything is ordered; that MAAS is told
// once and every region is asked; that private keys lie in the stage only while config-tls runs; and that the pair that
// was served before is put back only when that is known to help.
package maasconfig

import (
	"bytes"
	"context"
	"crypto/x509"
	"fmt"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
)

// Target is a place that serves a certificate.
type Target interface {
	Name() string
	Type() string
	// Ready asks every guard that needs no bundle, and changes nothing. It is asked before a lock is taken and before
	// anything is ordered. The error is a *Refusal where somebody may override it.
	Ready(ctx context.Context, want Want) error
	// Probe sees what every endpoint serves now. What cannot be seen is in the Served.
	Probe(ctx context.Context) []Served
	// Judge compares what an endpoint served with a bundle (nil: with none).
	Judge(served Served, bundle *certstore.Bundle) Endpoint
	// Backup returns the pair that is served now, as far as it can be read here.
	Backup(ctx context.Context) (*certstore.Bundle, error)
	// Deploy makes the target serve a bundle and returns what was seen last. On an error the old one is still served,
	// or the endpoints of the outcome tell where not.
	Deploy(ctx context.Context, deployment Deployment) (Outcome, error)
	// Remedy says what to do about an endpoint that keeps the old certificate.
	Remedy(ctx context.Context) string
	// Tidy removes what a killed run left behind; most often there is nothing, and then nothing is written.
	Tidy(ctx context.Context) error
}

// Want is what a certificate will be, before there is one.
type Want struct {
	Names   []string // canonical
	Earlier []string // names that our certificates had before; losing one of those is our own doing
	KeyType certstore.KeyType
	Accept  Accept
	Ours    bool // a certificate of ours was verified here before
}

// Deployment is one try to make a target serve a bundle.
type Deployment struct {
	Bundle   *certstore.Bundle
	Previous *certstore.Bundle // to put back; nil when there is none
	Earlier  []string          // as in Want
	Ours     bool              // as in Want
	Accept   Accept
	Calls    int          // how often MAAS may be told at the most; each call makes every region's proxy reload
	Spend    func() error // called before each of them; an error stops
}

// Outcome is what a Deploy came to.
type Outcome struct {
	Endpoints  []Endpoint
	Calls      int  // that took effect or may have
	RolledBack bool // the previous pair was put back
}

// The codes of guards that may be overridden.
const (
	FirstEnable = "first-enable"
	NamesLost   = "names-lost"
	Juju        = "juju"
	DHCP37      = "dhcp-3.7"
)

// Codes are all guards that may be overridden.
var Codes = []string{FirstEnable, NamesLost, Juju, DHCP37}

// Accept is the set of the guards to override.
type Accept map[string]bool

// Refusal is a guard that said no.
type Refusal struct {
	Code string // one of Codes
	Why  string
}

// refuse is a Refusal whose hint repeats what was accepted already.
func refuse(accepted Accept, code, format string, args ...any) error {
	flags := []string{"maascert renew"}
	for _, known := range Codes {
		switch {
		case !accepted[known] && known != code:
		case known == FirstEnable:
			flags = append(flags, "--enable-tls")
		default:
			flags = append(flags, "--accept "+known)
		}
	}
	return hint.Add(&Refusal{Code: code, Why: fmt.Sprintf(format, args...)}, "if that is what you want: %s", strings.Join(flags, " "))
}

func (r *Refusal) Error() string { return r.Why }

// State is what an endpoint serves compared with what it should.
type State string

const (
	Match   State = "match"
	Other   State = "other"
	None    State = "none"    // TLS is off or refused
	Unknown State = "unknown" // timeout, reset, unresolved: proves nothing
)

// ChainState is what follows the leaf that an endpoint serves.
type ChainState string

const (
	Complete   ChainState = "complete"
	Incomplete ChainState = "incomplete"
	Untrusted  ChainState = "untrusted"
)

// Served is what one handshake with an endpoint showed.
type Served struct {
	Address string              // host:port
	Certs   []*x509.Certificate // as sent; none when the handshake failed
	State   State               // None or Unknown when there are no Certs
	Err     error
}

// Fingerprint is that of the leaf, or empty.
func (s Served) Fingerprint() string {
	if len(s.Certs) == 0 {
		return ""
	}
	return certstore.Fingerprint(s.Certs[0])
}

// Endpoint is a Served that was compared with a bundle.
type Endpoint struct {
	Served
	State State
	Chain ChainState // empty without a certificate
}

// IsServing tells whether the endpoint serves the bundle with its whole chain.
func (e Endpoint) IsServing() bool { return e.State == Match && e.Chain != Incomplete }

// Answer is the endpoint's answer in one word: two equal answers need not be acted on twice.
func (e Endpoint) Answer() string {
	switch {
	case e.State == Unknown:
		return string(Unknown)
	case e.Fingerprint() == "":
		return string(e.State)
	default:
		return e.Fingerprint() + " " + string(e.Chain)
	}
}

// String is one line for people.
func (e Endpoint) String() string {
	switch {
	case e.IsServing():
		return e.Address + " serves it"
	case e.State == Match:
		return e.Address + " serves it without its whole chain"
	case e.State == Other:
		return fmt.Sprintf("%s serves another certificate (%s, until %s)", e.Address, short(e.Fingerprint()),
			e.Certs[0].NotAfter.UTC().Format(time.DateOnly))
	case e.State == None:
		return fmt.Sprintf("%s serves no certificate (%v)", e.Address, e.Err)
	default:
		return fmt.Sprintf("%s cannot be asked (%v)", e.Address, e.Err)
	}
}

func short(fingerprint string) string { return fingerprint[:min(len(fingerprint), len("sha256:")+12)] }

// Serving tells whether every one of some endpoints serves the bundle; of none it is false.
func Serving(endpoints []Endpoint) bool {
	return len(endpoints) > 0 && !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return !e.IsServing() })
}

// Troubles are the endpoints that do not serve the bundle, each in one line.
func Troubles(endpoints []Endpoint) string {
	var lines []string
	for _, e := range endpoints {
		if !e.IsServing() {
			lines = append(lines, e.String())
		}
	}
	return strings.Join(lines, "; ")
}

// judge compares what an endpoint served with a bundle, for clients that trust roots at a moment.
func judge(served Served, bundle *certstore.Bundle, trusted func(leaf *x509.Certificate, chain []*x509.Certificate) error) Endpoint {
	e := Endpoint{Served: served, State: served.State}
	if len(served.Certs) == 0 {
		return e
	}
	e.State = Other
	if bundle != nil && served.Certs[0].Equal(bundle.Leaf()) {
		e.State = Match
		if !hasChain(served.Certs[1:], bundle.Chain()) {
			e.Chain = Incomplete
			return e
		}
	}
	e.Chain = Complete
	if trusted(served.Certs[0], served.Certs[1:]) != nil {
		e.Chain = Untrusted
	}
	return e
}

// hasChain tells whether sent holds want in its order; a root or anything else beside it does no harm.
func hasChain(sent, want []*x509.Certificate) bool {
	for _, cert := range sent {
		if len(want) > 0 && bytes.Equal(cert.Raw, want[0].Raw) {
			want = want[1:]
		}
	}
	return len(want) == 0
}
