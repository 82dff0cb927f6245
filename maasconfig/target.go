// Package maasconfig makes MAAS serve a certificate, and sees what its regions serve.
//
// It promises that what would lock people out or cannot work is refused before anything is ordered; that MAAS is told
// once and every region is asked; that private keys lie in the stage only while config-tls runs; and that the pair that
// was served before is put back only when that is known to help.
//
// Start reading at [Target] and [Deploy]: what a target does, and what is done with every target alike. What MAAS does stands in facts.md
// beside it, numbered.
//
// To add a kind of target, write a type with the methods of [Target] in a file of its own: its guards, its endpoints and what they serve, a
// backup, and Prepare, which returns what would run and how to run and undo it. Tries, verification, putting back, rehearsals and troubles
// are the same for every kind. Its keys in the configuration are a [TargetSection] beside it, which checks them and makes the target; a row
// in [KnownTypes] gives it its name, and examples/maascert.yaml shows its keys. Nothing else has to know it: second_target_test.go of
// internal/command is such a type in one file.
package maasconfig

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Target is a place that serves a certificate. What is the same for every place is a function of this package, such as
// Ready, Deploy and Judge; what differs is a method.
type Target interface {
	Info() Info
	// Guards are what must be right before anything is ordered, in the order in which they are asked.
	Guards(want Want) []Guard
	// Discover finds out which endpoints there are, before they are looked at; those that are configured need nothing of the kind.
	// known are the regions of MAAS that were looked at before, by MAAS's number of each: where they were asked.
	Discover(ctx context.Context, known map[string]string)
	// Probe sees what every endpoint serves now. What cannot be seen is in the Served. There is at least one, or nobody would
	// know what is served.
	Probe(ctx context.Context) []Served
	// Backup returns the pair that is served now, as far as it can be read here.
	Backup(ctx context.Context) (*certstore.Bundle, error)
	// Prepare makes ready to serve a bundle, and changes nothing.
	Prepare(ctx context.Context, bundle *certstore.Bundle, want Want) (Change, error)
	// Tidy removes what a killed run left behind; most often there is nothing, and then nothing is written.
	Tidy(ctx context.Context) error
}

// Info says what a target is.
type Info struct {
	Name   string // in the configuration
	Type   string // likewise
	Shared bool   // the whole deployment has one, and not each host its own
	Logs   string // what says why it took no certificate, for people
	Unseen error  // what of it is perhaps not looked at, with a hint; nil: nothing
	Unsure error  // why there may be endpoints that were not found, with a hint; nil: all were
	NoList bool   // MAAS could not be asked which regions there are
	// Unlisted says which regions MAAS lists that are none of the configured endpoints, with a hint; nil: none is known.
	Unlisted error
}

// Origin is that of a pair which the target served before ours.
func (i Info) Origin() certstore.Origin {
	if i.Type == maasType {
		return certstore.FromMAAS
	}
	return certstore.FromElsewhere
}

// Guard is one thing that must be right before anything is ordered.
type Guard struct {
	Code    string
	Promise string // what is so when it is right, for people
	// Ask changes nothing. It returns what was seen, for people, and what is wrong: a *Refusal where somebody may override it.
	Ask func(ctx context.Context) (evidence string, err error)
	// First tells that the guards after this one make no sense where it says no.
	First bool
	// Advice tells that nothing is refused: it is only told.
	Advice bool
}

// Ready asks a target's guards that need no bundle in their order, up to the first that says no. It changes nothing, and is
// asked before a lock is taken and before anything is ordered. The error is a *Refusal where somebody may override it.
func Ready(ctx context.Context, target Target, want Want) error {
	for _, guard := range target.Guards(want) {
		if guard.Advice {
			continue
		}
		if _, err := guard.Ask(ctx); err != nil {
			return err
		}
	}
	return nil
}

// Change is a target made ready to serve a bundle: what would run, and running it.
type Change struct {
	Commands []world.Command // for people; what is random in them stands as RANDOM
	Writes   []string        // paths of the files that are replaced before, and stay; for people
	Within   time.Duration   // in which every endpoint has to serve the bundle after it was made
	// Settles is for how long an endpoint may go on answering with what it served before after it answered with the bundle; 0:
	// it does not.
	Settles time.Duration
	// Make makes the change once. After an error what was served before still is, if the Telling is NotTold.
	Make func(ctx context.Context) (Telling, error)
	// Undo puts a pair back that was served before.
	Undo func(ctx context.Context, previous *certstore.Bundle) error
	// Deaf says what it means that the change was made twice and no endpoint answered otherwise after it; nil: nothing special.
	Deaf error
}

// Want describes a certificate before there is one.
type Want struct {
	Names   []string // canonical
	Earlier []string // names that our certificates had before; losing one of those is our own doing
	KeyType certstore.KeyType
	Accept  Accept
	Ours    bool // a certificate of ours was verified here before
	Port    int  // on which every endpoint was seen to serve it then; 0: unknown
}

// Deployment is one try to make a target serve a bundle.
type Deployment struct {
	Bundle    *certstore.Bundle
	Previous  *certstore.Bundle  // to put back; nil when there is none
	Want      Want               // names and key type are the bundle's
	Trust     certstore.Trust    // of those who connect
	Tries     int                // how often the change may be made at the most; each makes every endpoint's proxy reload
	Within    time.Duration      // how long endpoints are waited for at the most; 0: as long as the target wants
	BeforeTry func() error       // called before each of them; an error stops
	Waiting   func(words string) // called now and then while endpoints are waited for; may be nil
	// Known notes of endpoints which of our versions they serve; may be nil.
	Known func(endpoints []Endpoint)
	// Told is called when the target took a call, Looked with what the endpoints serve, and for how much longer they are waited for,
	// whenever that is looked at after it, and Seen when one was first seen to serve the bundle, so long after it; each may be nil.
	Told   func()
	Looked func(endpoints []Endpoint, left time.Duration)
	Seen   func(endpoint string, after time.Duration)
}

// Outcome tells how a Deploy ended.
type Outcome struct {
	Endpoints  []Endpoint // as they were seen after the last call; nil: they were not looked at since
	Tries      int        // that the target took
	Telling    Telling    // what became of the last call for the bundle
	RolledBack bool       // the previous pair was put back

	earlier int // tries that the target took before the last one
}

// Telling says whether a target took the call that tells it of a bundle.
type Telling string

const (
	Told    Telling = "told"     // it ended well
	NotTold Telling = "not told" // it ended with an error, which changes nothing
	Unsure  Telling = "unsure"   // its end was not seen: it may have been taken or not
)

// The codes of guards that may be overridden.
const (
	FirstEnable = "first-enable"
	NamesLost   = "names-lost"
	Juju        = "juju"
	DHCP37      = "dhcp-3.7"
	Foreign     = "foreign"   // no guard of a target: a good certificate that is not ours is replaced by the version in use
	KeysLost    = "keys-lost" // likewise: private keys that are kept apart, and of which none is there, are lost for ever
)

// Codes are all guards that may be overridden.
var Codes = []string{FirstEnable, NamesLost, Juju, DHCP37, Foreign, KeysLost}

// Accept is the set of the guards to override.
type Accept map[string]bool

// Refusal is a guard that said no.
type Refusal struct {
	Code    string // one of Codes
	Why     string
	IsFirst bool // TLS is off and was never on: the one thing that a person at a terminal is asked
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

// State compares what an endpoint serves with what it should.
type State string

const (
	Match   State = "match"
	Other   State = "other"
	None    State = "none"    // TLS is off or refused
	Unknown State = "unknown" // timeout, reset, unresolved: proves nothing
)

// ChainState judges the certificates that an endpoint serves after its leaf.
type ChainState string

const (
	Complete   ChainState = "complete"
	Incomplete ChainState = "incomplete"
	Untrusted  ChainState = "untrusted"
)

// Served holds what one handshake with an endpoint showed.
type Served struct {
	Address   string              // host:port
	Certs     []*x509.Certificate // as sent; none when the handshake failed
	State     State               // None or Unknown when there are no Certs
	Err       error
	Pretended bool   // a rehearsal shows it, and nobody is served it
	Stopped   bool   // what would take a certificate over does not run there
	Fleeting  error  // why what is served is served only until the next start; nil: it is not known to be so
	Remedy    string // what to do there when it keeps another certificate, for people
	Region    string // MAAS's number of the region, where MAAS told of it; else empty
	Unlisted  bool   // MAAS does not list the region any more
}

// Fingerprint returns the leaf's, or nothing.
func (s Served) Fingerprint() string {
	if len(s.Certs) == 0 {
		return ""
	}
	return certstore.Fingerprint(s.Certs[0])
}

// Port is the address's; 0 for none.
func (s Served) Port() int {
	_, port := splitEndpoint(s.Address)
	number, err := strconv.Atoi(port)
	if err != nil {
		return 0
	}
	return number
}

// Endpoint is a Served that was compared with a bundle.
type Endpoint struct {
	Served
	State    State
	Chain    ChainState // empty without a certificate
	Distrust error      // why clients do not trust what is served; nil: they do, or there is nothing
	Version  int        // number of the version of ours that is served, as far as whoever looked knows our versions; 0: none
}

// IsTrusted tells whether the endpoint serves the bundle with its whole chain, and clients trust it now.
func (e Endpoint) IsTrusted() bool { return e.IsServing() && e.Distrust == nil }

// IsServing tells whether the endpoint serves the bundle with its whole chain, and will go on with it.
func (e Endpoint) IsServing() bool {
	return e.State == Match && e.Chain != Incomplete && e.Fleeting == nil
}

// StoppedAnswer is the Answer of an endpoint whose regiond is stopped.
const StoppedAnswer = "stopped"

// Observed is the endpoint's answer in one word: two equal answers need not be acted on twice.
func (e Endpoint) Observed() string {
	switch {
	case e.Stopped:
		return StoppedAnswer
	case e.State == Unknown:
		return string(Unknown)
	case e.Fingerprint() == "":
		return string(e.State)
	case e.State == Match && e.Fleeting != nil:
		return e.Fingerprint() + " fleeting"
	default:
		return e.Fingerprint() + " " + string(e.Chain)
	}
}

// String is one line for people.
func (e Endpoint) String() string {
	switch {
	case e.IsServing() && e.Distrust != nil:
		return fmt.Sprintf("%s serves it, but %s", e.Address, whyDistrusted(e.Certs[0], e.Distrust))
	case e.IsServing():
		return fmt.Sprintf("%s serves it, until %s", e.Address, printable.Time(e.Certs[0].NotAfter))
	case e.Stopped:
		words := e.Address + " takes no certificate now: regiond is stopped there, and reads what MAAS holds at its next start"
		if len(e.Certs) > 0 {
			words += fmt.Sprintf(" (nginx serves %s, until %s)", short(e.Fingerprint()), printable.Time(e.Certs[0].NotAfter))
		}
		return words
	case e.State == Match && e.Chain == Incomplete:
		return e.Address + " serves it without its whole chain"
	case e.State == Match:
		return fmt.Sprintf("%s serves it, but %s", e.Address, printable.Line(e.Fleeting.Error(), printable.Word))
	case e.State == Other && e.Version != 0:
		return fmt.Sprintf("%s still serves version %d, until %s", e.Address, e.Version, printable.Time(e.Certs[0].NotAfter))
	case e.State == Other:
		return fmt.Sprintf("%s serves another certificate, issued by %s (%s, until %s)", e.Address, printable.Phrase(e.Certs[0].Issuer.String()), short(e.Fingerprint()), printable.Time(e.Certs[0].NotAfter))
	case e.State == None:
		return fmt.Sprintf("%s serves no certificate (%s)", e.Address, e.trouble())
	default:
		return fmt.Sprintf("%s cannot be told of (%s)", e.Address, e.trouble())
	}
}

// whyDistrusted says why clients do not trust a leaf, in words that say more than the library's where there are some.
func whyDistrusted(leaf *x509.Certificate, err error) string {
	var invalid x509.CertificateInvalidError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired && invalid.Cert.Equal(leaf):
		if strings.Contains(invalid.Detail, " is before ") {
			return "it is not valid before " + printable.Time(leaf.NotBefore)
		}
		return "it ended " + printable.Time(leaf.NotAfter)
	case errors.As(err, &unknown):
		return "clients do not trust it: no root that they know has signed it"
	default:
		return "clients do not trust it: " + printable.Phrase(err.Error())
	}
}

// IsTooEarly tells whether clients distrust what an endpoint serves because it is not valid yet.
func (e Endpoint) IsTooEarly() bool {
	var invalid x509.CertificateInvalidError
	return errors.As(e.Distrust, &invalid) && invalid.Reason == x509.Expired && strings.Contains(invalid.Detail, " is before ")
}

// trouble is the endpoint's error in one line; parts of it come from outside.
func (e Endpoint) trouble() string {
	if e.Err == nil {
		return "no reason"
	}
	return printable.Line(e.Err.Error(), printable.Word)
}

func short(fingerprint string) string { return fingerprint[:min(len(fingerprint), len("sha256:")+12)] }

// Serving tells whether every one of some endpoints serves the bundle; of none it is false.
func Serving(endpoints []Endpoint) bool {
	return len(endpoints) > 0 && !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return !e.IsServing() })
}

// Trusted tells whether every one of some endpoints serves the bundle and clients trust it; of none it is false.
func Trusted(endpoints []Endpoint) bool {
	return len(endpoints) > 0 && !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return !e.IsTrusted() })
}

// mostTold is how many endpoints are told of in one line.
const mostTold = 5

// Troubles are the endpoints that do not serve the bundle, each in one line.
func Troubles(endpoints []Endpoint) string {
	if len(endpoints) == 0 {
		return "it has no endpoint, so nobody sees what it serves"
	}
	var lines []string
	more := 0
	for _, e := range endpoints {
		switch {
		case e.IsTrusted():
		case len(lines) < mostTold:
			lines = append(lines, e.String())
		default:
			more++
		}
	}
	if more > 0 {
		lines = append(lines, fmt.Sprintf("and %d more", more))
	}
	return strings.Join(lines, "; ")
}

// Judge compares what an endpoint served with a bundle (nil: with none), for clients that trust something. Where nobody takes
// certificates over, one that is not the bundle proves nothing.
func Judge(served Served, bundle *certstore.Bundle, trust certstore.Trust) Endpoint {
	if bundle == nil {
		return JudgeByChain(served, nil, trust)
	}
	return JudgeByChain(served, append([]*x509.Certificate{bundle.Leaf()}, bundle.Chain()...), trust)
}

// JudgeByChain compares what an endpoint served with a leaf and its chain (none: with nothing), as Judge does, without the key.
func JudgeByChain(served Served, wanted []*x509.Certificate, trust certstore.Trust) Endpoint {
	e := Endpoint{Served: served, State: served.State}
	if len(served.Certs) > 0 {
		e.State, e.Chain = Other, Complete
		isIt := len(wanted) > 0 && served.Certs[0].Equal(wanted[0])
		if isIt {
			e.State = Match
		}
		if !served.Pretended {
			e.Distrust = trust.Check(served.Certs[0], served.Certs[1:])
		}
		if e.Distrust != nil {
			e.Chain = Untrusted
		}
		if isIt && !hasChain(served.Certs[1:], wanted[1:]) {
			e.Chain = Incomplete
		}
	}
	e.Stopped = served.Stopped && !e.IsServing()
	if e.Stopped {
		e.State = Unknown
	}
	return e
}

// Judged compares what endpoints served with a bundle.
func Judged(served []Served, bundle *certstore.Bundle, trust certstore.Trust) []Endpoint {
	endpoints := make([]Endpoint, len(served))
	for i, s := range served {
		endpoints[i] = Judge(s, bundle, trust)
	}
	return endpoints
}

// Remedy is what to do about the first of some endpoints that does not serve the bundle; empty when nothing is known.
func Remedy(endpoints []Endpoint) string {
	for _, e := range endpoints {
		if !e.IsServing() && e.Served.Remedy != "" {
			return e.Served.Remedy
		}
	}
	return ""
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
