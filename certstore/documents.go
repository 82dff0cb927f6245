package certstore

import (
	"bytes"
	"context"
	"crypto"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"maascert/internal/hint"
	"maascert/internal/printable"
)

// format is what every document's "v" says; a document with a higher one was written by a later maascert and is
// refused rather than misread.
const format = 1

// Origin is where a version came from.
type Origin string

const (
	// FromACME is a certificate that an order of ours brought.
	FromACME Origin = "acme"
	// FromMAAS is a pair that MAAS served before a certificate of ours replaced it.
	FromMAAS Origin = "maas"
	// FromDeploy is a certificate that a person brought in.
	FromDeploy Origin = "deployed"
	// FromElsewhere is a pair that somebody else brought here.
	FromElsewhere Origin = "import"
)

// IsOurs tells whether a certificate was ordered or brought in on purpose, unlike one that a target served before.
func (o Origin) IsOurs() bool { return o == FromACME || o == FromDeploy || o == FromElsewhere }

// Version is a bundle with its number and origin, written once and never changed.
type Version struct {
	Number    int
	Origin    Origin
	Created   time.Time
	Directory string // of the CA that issued it, for FromACME and, where that is known, FromElsewhere
	Account   string // URL of the ACME account that ordered it, likewise
	Profile   string // that was asked for, for FromACME; most often empty
	Bundle    *Bundle
}

// version is the document "versions/CERT/N".
type version struct {
	V           int       `json:"v"`
	Number      int       `json:"number"`
	Origin      Origin    `json:"origin"`
	Created     time.Time `json:"created"`
	Fingerprint string    `json:"fingerprint"`
	Directory   string    `json:"directory,omitempty"`
	Account     string    `json:"account,omitempty"`
	Profile     string    `json:"profile,omitempty"`
	Key         string    `json:"key"`
	Chain       string    `json:"chain"` // leaf first
}

func writeVersion(ctx context.Context, store Store, cert string, v Version) error {
	bundle, err := v.Bundle.WithKey(ctx)
	if err != nil {
		return err
	}
	_, err = save(ctx, store, versionName(cert, v.Number), version{
		V: format, Number: v.Number, Origin: v.Origin, Created: v.Created.UTC(), Fingerprint: bundle.Fingerprint(),
		Directory: v.Directory, Account: v.Account, Profile: v.Profile, Key: string(bundle.KeyPEM()), Chain: string(bundle.FullChainPEM()),
	}, "")
	return err
}

// LoadVersion reads one version of a certificate; ErrNotFound when there is none of that number. One that was moved to another number is
// damaged.
func LoadVersion(ctx context.Context, store Store, cert string, number int) (Version, error) {
	name := versionName(cert, number)
	data, _, err := store.Read(ctx, name)
	if err != nil {
		return Version{}, err
	}
	var doc version
	if err := decode(name, data, &doc, func() int { return doc.V }); err != nil {
		return Version{}, err
	}
	if doc.Number != number {
		return Version{}, damaged(name, fmt.Sprintf("it is version %d", doc.Number))
	}
	var bundle *Bundle
	if IsKeptApart(doc.Key) {
		bundle, err = keptApart(keptKey{store, name, doc.Key}, []byte(doc.Chain))
	} else {
		bundle, err = Parse([]byte(doc.Key), []byte(doc.Chain))
	}
	if err != nil {
		return Version{}, fmt.Errorf("store: %s: %w", name, err)
	}
	return Version{
		Number: number, Origin: doc.Origin, Created: doc.Created, Directory: doc.Directory, Account: doc.Account, Profile: doc.Profile, Bundle: bundle,
	}, nil
}

// VersionInfo describes a version without its key, so that only who needs that opens the version.
type VersionInfo struct {
	Number    int       `json:"number"`
	Origin    Origin    `json:"origin"`
	Names     []string  `json:"names,omitempty"` // canonical; only of a certificate that was ordered or brought in on purpose: others may have any number
	NotBefore time.Time `json:"not_before"`
	NotAfter  time.Time `json:"not_after"`

	unknown
}

func (v Version) info() VersionInfo {
	leaf := v.Bundle.Leaf()
	info := VersionInfo{Number: v.Number, Origin: v.Origin, NotBefore: leaf.NotBefore.UTC(), NotAfter: leaf.NotAfter.UTC()}
	if v.Origin.IsOurs() {
		info.Names = CertificateNames(leaf)
	}
	return info
}

func versionName(cert string, number int) string { return fmt.Sprintf("versions/%s/%d", cert, number) }

func versionNumbers(ctx context.Context, store Store, cert string) ([]int, error) {
	names, err := store.List(ctx, "versions/"+cert)
	if err != nil {
		return nil, err
	}
	var numbers []int
	for _, name := range names {
		if number, err := strconv.Atoi(name); err == nil {
			numbers = append(numbers, number)
		}
	}
	slices.Sort(numbers)
	return numbers, nil
}

// Record remembers of a certificate what cannot be seen again: the document "state/CERT".
type Record struct {
	V       int `json:"v"`
	Current int `json:"current"` // number of the version in use, 0 for none

	// The wish that the deployment follows, its hash, and the hash that each host's configuration last asked for. Hosts
	// whose configurations differ must not order against each other, so a host's wish is followed only when it changes.
	Wish       *Wish             `json:"wish"`
	WishHash   string            `json:"wish_hash"`
	WishByHost map[string]string `json:"published"`

	Order   *Order   `json:"order"`             // under way at the CA
	Answers []Answer `json:"answers,omitempty"` // to challenges, that outlive a run and may still be visible
	Attempt *Attempt `json:"attempt"`           // under way here; left behind when a run is killed
	CutOff  int      `json:"cut_off"`           // runs killed in a row

	Failures    int                   `json:"failures"`              // orders failed in a row
	NextAttempt time.Time             `json:"next_attempt,omitzero"` // our own back-off; --force ignores it
	RetryAfter  time.Time             `json:"retry_after,omitzero"`  // the CA's Retry-After; nothing ignores it
	HeldUntil   time.Time             `json:"held_until,omitzero"`   // renewal by time is held
	Pinned      int                   `json:"pinned,omitempty"`      // version that a person made current: what it is counts as the wish
	PinnedAt    time.Time             `json:"pinned_at,omitzero"`    // when
	FailedAt    time.Time             `json:"failed_at,omitzero"`    // the last order that failed; zero when one succeeded since
	Refused     bool                  `json:"refused,omitempty"`     // the CA was reached then, and refused or could not validate
	FailedWith  string                `json:"failed_with,omitempty"` // hash of the configuration of CA and challenges then
	Attempts    []Attempt             `json:"attempts"`              // oldest first, at most maxAttempts
	Deployments map[string]Deployment `json:"deployments"`           // by target

	Versions    map[string]VersionInfo `json:"versions,omitempty"`    // those that are kept, by fingerprint; a Ledger keeps them
	Revocations []Revocation           `json:"revocations,omitempty"` // asked for, oldest first
	Window      *Window                `json:"window,omitempty"`      // what the CA said of the version in use when it was new
	Suggested   *Suggestion            `json:"suggested,omitempty"`   // what it said last; nil: it was not asked
	Discovered  *Discovered            `json:"discovered,omitempty"`  // names that the wish's rule led to; nil: none yet
	Doubts      map[string]time.Time   `json:"doubts,omitempty"`      // by host: since when MAAS leaves it in doubt which names or regions there are
	Roots       []Root                 `json:"roots,omitempty"`       // that clients verified our certificates with, the present one last

	Told      []Told     `json:"told,omitempty"`      // what people were told of that lasts, or was over lately
	Outbox    []Untold   `json:"outbox,omitempty"`    // events that not everybody could be told of, oldest first
	Rehearsal *Rehearsal `json:"rehearsal,omitempty"` // of the next renewal; nil: there was none

	unknown
}

// Told remembers of one topic what people were told, so that they are told once.
type Told struct {
	Topic  string    `json:"topic"`
	Kind   string    `json:"event"` // what was told last
	Target string    `json:"target,omitempty"`
	Stage  string    `json:"stage,omitempty"`
	Error  string    `json:"error,omitempty"`  // as it was told
	Detail string    `json:"detail,omitempty"` // likewise
	Found  time.Time `json:"found,omitzero"`   // since when it is found and was not told yet, because it may pass
	Digest string    `json:"digest,omitempty"` // of what was told as news
	At     time.Time `json:"at"`               // when it was told last
	Node   string    `json:"node"`             // who told it
	To     []string  `json:"to,omitempty"`     // notifiers that it was for
	Step   int       `json:"step,omitempty"`   // how far the certificate had come to its end: 1 a sixth was left, 2 a twelfth, 3 nothing

	// What comes and goes is told seldom.
	Day   time.Time `json:"day,omitzero"`    // when the day began in which it is counted how often it was told
	Times int       `json:"times,omitempty"` // since then
	Well  time.Time `json:"well,omitzero"`   // since when it is seen to be over
	Over  bool      `json:"over,omitempty"`  // that was told, or need not be

	unknown
}

// Untold is an event that is on its way to people.
type Untold struct {
	ID    string          `json:"id"`
	Topic string          `json:"topic"` // what it is about
	Event json.RawMessage `json:"event"`
	To    []string        `json:"to"` // notifiers that have not taken it
	Since time.Time       `json:"since"`
	Tries int             `json:"tries,omitempty"` // passes that tried in vain
	Next  time.Time       `json:"next,omitzero"`   // when to try again
	Taken time.Time       `json:"taken,omitzero"`  // a host is telling it since
	By    string          `json:"by,omitempty"`    // that host

	unknown
}

// Rehearsal remembers how the next renewal was rehearsed last.
type Rehearsal struct {
	At      time.Time `json:"at"`               // when the last one ended that came to a result
	Node    string    `json:"node"`             // the host that made it
	Level   string    `json:"level,omitempty"`  // how far it came with the CA
	Failed  time.Time `json:"failed,omitzero"`  // since when rehearsals fail; zero: the last one did not
	Proven  bool      `json:"proven,omitempty"` // it failed twice, an hour apart
	Skipped time.Time `json:"skipped,omitzero"` // since when it cannot be found out; zero: it can
	Tried   time.Time `json:"tried,omitzero"`   // when the last one began, whatever came of it
	By      string    `json:"by,omitempty"`     // the host that is at it now
	Target  string    `json:"target,omitempty"` // of the failure, or of what could not be found out
	Stage   string    `json:"stage,omitempty"`
	Error   string    `json:"error,omitempty"`
	Hint    string    `json:"hint,omitempty"`

	Configs map[string]string `json:"configs,omitempty"` // by host: hash of the configuration that it rehearsed last

	unknown
}

// Root is a root that clients verify our certificates with, or did until it was replaced.
type Root struct {
	Fingerprint string    `json:"fingerprint"`
	Subject     string    `json:"subject"`
	PEM         string    `json:"pem"`
	Version     int       `json:"version"` // of the certificate that led there last
	Since       time.Time `json:"since"`
	Until       time.Time `json:"until,omitzero"` // for how long it is published beside the one that replaced it; zero: it is the present one

	unknown
}

// Discovered are names that a certificate has because a rule leads to them, and what has been seen of them since.
type Discovered struct {
	Rule    string               `json:"rule"`              // the wish's that led to them
	Names   []string             `json:"names"`             // of the next certificate, beside those of the wish; sorted
	Added   map[string]time.Time `json:"added,omitempty"`   // that the rule leads to and the certificate lacks: when a pass first saw each
	Missing map[string]time.Time `json:"missing,omitempty"` // of Names, to which the rule does not lead any more: likewise
	ByHost  map[string]string    `json:"by_host,omitempty"` // the one that only a host itself knows: of MAAS's own URL there

	unknown
}

// Revocation is a version that somebody wants revoked.
type Revocation struct {
	Version int       `json:"version"`
	Reason  uint      `json:"reason"` // RFC 5280 section 5.3.1
	Asked   time.Time `json:"asked"`
	Expires time.Time `json:"expires,omitzero"`  // the version, after which there is nothing to revoke
	Done    time.Time `json:"done,omitzero"`     // when the CA revoked it; until then it is to be replaced first
	Refused string    `json:"refused,omitempty"` // why the CA does not; it is not asked again unless somebody wishes it

	unknown
}

// Window remembers when the CA suggested to renew a version (RFC 9773) when that was new: what it says later is measured by it.
type Window struct {
	Version     int       `json:"version"`
	Start       time.Time `json:"start"`
	End         time.Time `json:"end"`
	Explanation string    `json:"explanation,omitempty"`

	unknown
}

// Suggestion is the CA's last answer to the question when to renew a version (RFC 9773 section 4.2), which every host follows
// until it may be asked again.
type Suggestion struct {
	Version     int       `json:"version"`
	Start       time.Time `json:"start,omitzero"` // of its window; zero: the CA offers no renewal information
	End         time.Time `json:"end,omitzero"`
	Explanation string    `json:"explanation,omitempty"`
	Asked       time.Time `json:"asked"`     // when it answered, by the clock of the host that asked
	AskAgain    time.Time `json:"ask_again"` // from then on it may be asked (RFC 9773 section 4.3.2)

	unknown
}

// PendingRevocation is the oldest revocation that the CA has not made, or nil.
func (r *Record) PendingRevocation() *Revocation {
	for i := range r.Revocations {
		if r.Revocations[i].Done.IsZero() {
			return &r.Revocations[i]
		}
	}
	return nil
}

// Revocation returns the wish to revoke a version, or nil.
func (r *Record) Revocation(version int) *Revocation {
	for i := range r.Revocations {
		if r.Revocations[i].Version == version {
			return &r.Revocations[i]
		}
	}
	return nil
}

// Order is an ACME order under way, saved before it is finalized: with it a run that follows a crash gets the
// certificate that was ordered, instead of losing its key or ordering again.
type Order struct {
	Directory string    `json:"directory"`
	Account   string    `json:"account"`
	URL       string    `json:"url"`
	Created   time.Time `json:"created"`
	Names     []string  `json:"names"`
	KeyType   KeyType   `json:"key_type"`
	Profile   string    `json:"profile,omitempty"`
	Key       string    `json:"key,omitempty"` // PKCS#8 PEM; none while it is being made

	unknown
}

// Answer is an answer to a challenge that others keep for us, a TXT record or a file in a webroot. It is written down
// before it is made visible, so that a run that follows a crash can take it away.
type Answer struct {
	Type       string    `json:"type"` // the challenge's: dns-01, http-01
	Name       string    `json:"name"` // without the wildcard
	Token      string    `json:"token"`
	Thumbprint string    `json:"thumbprint"`      // of the account's key
	Place      string    `json:"place,omitempty"` // where it stands, for dns-01: the name after all CNAMEs
	At         time.Time `json:"at"`

	unknown
}

// Attempt is one try to make something so.
type Attempt struct {
	At     time.Time `json:"at"`
	Node   string    `json:"node"`
	Why    string    `json:"why"`
	Target string    `json:"target,omitempty"` // at which it failed; empty: at none
	Stage  string    `json:"stage,omitempty"`  // where it failed
	Error  string    `json:"error,omitempty"`
	Hint   string    `json:"hint,omitempty"`
	Times  int       `json:"times,omitempty"` // how often it failed like this, each within an hour of the last

	unknown
}

// Deployment remembers how a certificate was brought to a target.
type Deployment struct {
	Verified   int       `json:"verified"`             // the last version that every endpoint was seen to serve, 0 for none
	VerifiedAt time.Time `json:"verified_at,omitzero"` // when it was first seen so, or so again after a trouble
	Took       *Took     `json:"took,omitempty"`       // how long that took; nil: not known
	Port       int       `json:"port,omitempty"`       // on which all of them were seen to serve it; 0 for none or several

	Regions  map[string]string    `json:"regions,omitempty"`  // where MAAS's regions answered last, by MAAS's number of each
	Unlisted map[string]time.Time `json:"unlisted,omitempty"` // of them, those that MAAS does not list any more: since when

	Version    int               `json:"version"`        // the one being brought there
	Tries      int               `json:"calls"`          // of config-tls, for this version and these laggards
	Laggards   map[string]string `json:"laggards"`       // endpoint to what it answered instead
	Since      time.Time         `json:"since,omitzero"` // when it was first told in vain
	Told       time.Time         `json:"told,omitzero"`  // when it was told last
	RolledBack int               `json:"rolled_back"`    // how often the pair before it was put back

	Failure *Attempt `json:"failure,omitempty"` // what failed there last with this version; nil: nothing since

	// Answers that come and go have a target told only so often a day.
	Day      time.Time `json:"day,omitzero"`        // when the day began in which calls are counted
	DayTries int       `json:"day_calls,omitempty"` // since then

	unknown
}

// Took is how long a target took to serve a version: from when it was first told of it to when every endpoint was seen to serve it, where one
// run saw both. It names the version, because an earlier maascert carries it over to the next one as something that it does not know.
type Took struct {
	Version   int      `json:"version"`
	MS        int64    `json:"ms"`        // milliseconds
	Endpoints []string `json:"endpoints"` // that there were, sorted
}

// For carries over to another version for the same target what was verified, and what a later
// maascert wrote.
func (d Deployment) For(version int) Deployment {
	return Deployment{Verified: d.Verified, VerifiedAt: d.VerifiedAt, Port: d.Port, Regions: d.Regions, Unlisted: d.Unlisted, Version: version, unknown: d.unknown}
}

// Fail remembers that something failed at a target, under the key of its deployment.
func (r *Record) Fail(key string, a Attempt) {
	a = a.bounded()
	r.Remember(a)
	if r.Deployments == nil {
		r.Deployments = map[string]Deployment{}
	}
	d := r.Deployments[key]
	d.Failure = &a
	r.Deployments[key] = d
}

// bounded keeps an attempt's words, which come from outside, as one printable line of bounded length each.
func (a Attempt) bounded() Attempt {
	a.Error, a.Hint = printable.Line(a.Error, printable.Sentence), printable.Line(a.Hint, printable.Sentence)
	return a
}

const (
	// maxAttempts is how many attempts a record keeps.
	maxAttempts = 20
	// maxAttemptsText is how many bytes they may take, as JSON: their words come from outside.
	maxAttemptsText = 32 << 10
)

// Remember appends an attempt and forgets the oldest ones. The same failure twice in a row is one.
func (r *Record) Remember(a Attempt) {
	a = a.bounded()
	if n := len(r.Attempts); a.Error != "" && n > 0 && r.Attempts[n-1].Error == a.Error && r.Attempts[n-1].Stage == a.Stage {
		if a.At.Sub(r.Attempts[n-1].At) < time.Hour {
			a.Times = max(1, r.Attempts[n-1].Times) + 1
		}
		r.Attempts = r.Attempts[:n-1]
	}
	r.Attempts = append(r.Attempts, a)
	r.Attempts = slices.Clone(r.Attempts[max(0, len(r.Attempts)-maxAttempts):])
	for len(r.Attempts) > 1 && jsonLength(r.Attempts) > maxAttemptsText {
		r.Attempts = r.Attempts[1:]
	}
}

func jsonLength(attempts []Attempt) int {
	// Strings, times and numbers always marshal.
	text, _ := json.Marshal(attempts)
	return len(text)
}

// LoadRecord reads the record of a certificate; a certificate without one has an empty record.
func LoadRecord(ctx context.Context, store Store, cert string) (Record, Revision, error) {
	var record Record
	revision, err := load(ctx, store, "state/"+cert, &record, func() int { return record.V })
	record.V = format
	return record, revision, err
}

// SaveRecord writes the record of a certificate; ErrConflict when it changed since it was loaded.
func SaveRecord(ctx context.Context, store Store, cert string, record Record, prev Revision) (Revision, error) {
	return save(ctx, store, "state/"+cert, record, prev)
}

// Account is the ACME account: the document "account". One key is registered with every directory that is used.
type Account struct {
	V             int                     `json:"v"`
	Key           string                  `json:"key"`                // PKCS#8 PEM; none when empty
	Registrations map[string]Registration `json:"registrations"`      // by directory URL
	NextKey       string                  `json:"next_key,omitempty"` // that is taking the key's place, PKCS#8 PEM
	Made          time.Time               `json:"made,omitzero"`      // when the newer of its keys was; zero: nobody remembers, long ago

	unknown
}

// Registration links the account's key with its account at a CA.
type Registration struct {
	URL     string    `json:"url"` // the account's (RFC 8555 section 7.3)
	Created time.Time `json:"created"`
	Terms   string    `json:"terms,omitempty"`   // URL of the terms of service that were agreed to
	Contact string    `json:"contact,omitempty"` // mail address that the CA was told last; empty: none, or nobody remembers
	Next    bool      `json:"next,omitempty"`    // it is by the next key that the CA knows the account
	Former  string    `json:"former,omitempty"`  // URL of an account with the old key that is yet to be deactivated

	unknown
}

// Signer is the account's private key; the store that the account was read from has it where it is kept apart.
func (a Account) Signer(ctx context.Context, store Store) (crypto.Signer, error) {
	return signer(ctx, store, "account", a.Key)
}

// NextSigner is the private key that is taking its place.
func (a Account) NextSigner(ctx context.Context, store Store) (crypto.Signer, error) {
	return signer(ctx, store, "account", a.NextKey)
}

// CheckKey tells without asking for the account's private keys whether they could be had: ErrKeyLost, or ErrKeysAway when nobody knows.
func (a Account) CheckKey(ctx context.Context, store Store) error {
	keys := []string{a.Key}
	for _, at := range a.Registrations {
		if at.Next && len(keys) == 1 { // else the next key is of no use yet, and another one does as well
			keys = append(keys, a.NextKey)
		}
	}
	for _, key := range keys {
		err := checkKey(ctx, store, "account", key)
		if err == nil && !IsKeptApart(key) {
			_, err = ParseKey([]byte(key))
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// Thumbprint is that of the account's private key (RFC 7638) in base64url, which nobody who keeps keys apart is asked for.
func (a Account) Thumbprint() (string, error) { return thumbprintOf(a.Key) }

// IsKey tells whether a private key is the account's.
func (a Account) IsKey(key crypto.Signer) bool {
	if IsKeptApart(a.Key) {
		reference, err := referenceTo(key.Public())
		return err == nil && reference == a.Key
	}
	text, err := MarshalKey(key)
	return err == nil && string(text) == a.Key
}

// LoadAccount reads the account; without one it is empty.
func LoadAccount(ctx context.Context, store Store) (Account, Revision, error) {
	var account Account
	revision, err := load(ctx, store, "account", &account, func() int { return account.V })
	account.V = format
	return account, revision, err
}

// SaveAccount writes the account; ErrConflict when it changed since it was loaded.
func SaveAccount(ctx context.Context, store Store, account Account, prev Revision) (Revision, error) {
	return save(ctx, store, "account", account, prev)
}

// Node tells how one host's last pass ended: the document "nodes/HOST", written by that host alone.
type Node struct {
	V           int       `json:"v"`
	Node        string    `json:"node"`
	MachineID   string    `json:"machine_id"`         // systemd's; empty where there is none
	Version     string    `json:"version"`            // of maascert
	LastPass    time.Time `json:"last_pass"`          // its end
	LastRun     time.Time `json:"last_run,omitzero"`  // the end of the last pass that the daemon or a timer made
	ByTimer     bool      `json:"by_timer,omitempty"` // a timer did, which looks when it fires and no sooner
	OK          bool      `json:"ok"`                 // everything was as it should be
	WishHash    string    `json:"wish_hash"`          // over the wishes of all certificates
	ClockSkewMS int64     `json:"clock_skew_ms"`      // by how much a CA's clock was ahead of this host's when one said last; 0 also when none did

	Targets   []NodeTarget         `json:"targets"`
	Notifiers []NodeNotifier       `json:"notifiers,omitempty"`
	LastOK    map[string]time.Time `json:"last_ok"`          // by certificate: when a pass last found or made it as it should be
	Wishes    map[string]string    `json:"wishes,omitempty"` // by certificate: hash of what the host's configuration asks for
	Latest    map[string]Seen      `json:"latest,omitempty"` // by certificate: the newest version that the host ever saw

	unknown
}

// Seen is what is remembered of a version outside of the store that has it, which may be restored from an older copy one day.
type Seen struct {
	Version     int       `json:"version"`
	Highest     int       `json:"highest"` // number of any version that was seen
	Fingerprint string    `json:"fingerprint"`
	NotBefore   time.Time `json:"not_before"`
	NotAfter    time.Time `json:"not_after"`
}

// Newest is the one of two that was issued later, with the highest number of both.
func (s Seen) Newest(other Seen) Seen {
	if other.NotBefore.After(s.NotBefore) {
		s, other = other, s
	}
	if s.Fingerprint == other.Fingerprint {
		s.Version = max(s.Version, other.Version) // one of them may not know it
	}
	s.Highest = max(s.Highest, s.Version, other.Highest, other.Version)
	return s
}

// NodeTarget is a target that a host looks after.
type NodeTarget struct {
	Certificate string `json:"certificate"`
	Name        string `json:"name"`
	Type        string `json:"type"`
	Shared      bool   `json:"shared"`  // it is the deployment's, and not that host's alone
	Version     *int   `json:"version"` // that all of its endpoints served that were seen at the last pass, 0 for none or several; nil: none was seen
}

// NodeNotifier is how telling went with a notifier of a host's.
type NodeNotifier struct {
	Name     string    `json:"name"`
	Type     string    `json:"type"`
	Failures int       `json:"failures,omitempty"` // passes in a row after which it did not take what it was told
	Since    time.Time `json:"since,omitzero"`     // when the first of them ended
	Error    string    `json:"error,omitempty"`    // of the last
	Hint     string    `json:"hint,omitempty"`
	LastTold time.Time `json:"last_told,omitzero"` // when it last took one
}

// NodeAge is after how long a host that said nothing is forgotten.
const NodeAge = 30 * 24 * time.Hour

// LoadNode reads what a host said; one that never said anything has an empty document.
func LoadNode(ctx context.Context, store Store, host string) (Node, Revision, error) {
	var node Node
	revision, err := load(ctx, store, "nodes/"+host, &node, func() int { return node.V })
	node.V = format
	return node, revision, err
}

// LoadNodes reads what all hosts said within NodeAge, sorted by name. A document that cannot be read is left out.
func LoadNodes(ctx context.Context, store Store, now time.Time) ([]Node, error) {
	store = Ahead(ctx, store, Wanted{Folders: []string{"nodes"}})
	hosts, err := store.List(ctx, "nodes")
	var nodes []Node
	for _, host := range hosts {
		if node, _, err := LoadNode(ctx, store, host); err == nil && now.Sub(node.LastPass) < NodeAge {
			nodes = append(nodes, node)
		}
	}
	return nodes, err
}

// UpdateNode changes what a host says of itself, and forgets hosts that said nothing for NodeAge before it spoke. What cannot be read is
// written anew: nothing in it is worth more than that.
func UpdateNode(ctx context.Context, store Store, host string, change func(*Node)) error {
	store = Ahead(ctx, store, Wanted{Folders: []string{"nodes"}})
	hosts, err := store.List(ctx, "nodes")
	if err != nil {
		return err
	}
	for {
		node, revision, err := LoadNode(ctx, store, host)
		if err != nil {
			node, revision = Node{V: format}, ""
			if err := store.Delete(ctx, "nodes/"+host); err != nil {
				return err
			}
		}
		node.Node = host
		change(&node)
		_, err = save(ctx, store, "nodes/"+host, node, revision)
		if errors.Is(err, ErrConflict) {
			continue // another run on this host was faster
		}
		if err != nil {
			return err
		}
		others := slices.DeleteFunc(hosts, func(name string) bool { return name == host })
		return forgetNodes(ctx, store, others, node.LastPass)
	}
}

// forgetNodes forgets those of some hosts that said nothing for NodeAge.
func forgetNodes(ctx context.Context, store Store, hosts []string, now time.Time) error {
	var failures []error
	for _, host := range hosts {
		node, revision, err := LoadNode(ctx, store, host)
		if err == nil && revision != "" && now.Sub(node.LastPass) >= NodeAge {
			failures = append(failures, store.Delete(ctx, "nodes/"+host))
		}
	}
	return errors.Join(failures...)
}

func load(ctx context.Context, store Store, name string, into any, v func() int) (Revision, error) {
	data, revision, err := store.Read(ctx, name)
	if errors.Is(err, ErrNotFound) {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	return revision, decode(name, data, into, v)
}

func decode(name string, data []byte, into any, v func() int) error {
	if err := json.Unmarshal(data, into); err != nil {
		// encoding/json may quote what it read, and a document holds keys: the position is enough.
		return damaged(name, where(err))
	}
	switch got := v(); {
	case got < 1:
		return damaged(name, "it has no format version")
	case got > format:
		return hint.Add(fmt.Errorf("store: %s was written by a later maascert (format %d, this one knows %d)", name, got, format),
			"run the maascert that wrote it, or a later one")
	}
	return nil
}

// damaged says what is wrong with a document, and what heals it: what it held is found out or made anew.
func damaged(name, why string) error {
	return hint.Add(fmt.Errorf("store: %s is damaged: %s", name, why), "move the file %s of the store away (keep it), then: maascert renew", name)
}

func where(err error) string {
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	switch {
	case errors.As(err, &syntax):
		return fmt.Sprintf("no JSON at byte %d", syntax.Offset)
	case errors.As(err, &mistyped):
		return fmt.Sprintf("field %s is no %s", mistyped.Field, mistyped.Type)
	default:
		return "unreadable"
	}
}

func save(ctx context.Context, store Store, name string, doc any, prev Revision) (Revision, error) {
	data, err := encode(name, doc)
	if err != nil {
		return "", err
	}
	return store.Write(ctx, name, data, prev)
}

func encode(name string, doc any) ([]byte, error) {
	data, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return nil, fmt.Errorf("store: %s: %w", name, err)
	}
	return append(data, '\n'), nil
}

// unknown holds the fields of a JSON object that this maascert does not know, so that they survive a rewrite.
type unknown struct{ fields map[string]json.RawMessage }

// take takes the fields of an object that the type of known does not have. The object was decoded before, so it is valid.
func (u *unknown) take(data []byte, known any) error {
	names := fieldNames(reflect.TypeOf(known))
	u.fields = nil
	if !hasOthers(data, names) {
		return nil
	}
	var fields map[string]json.RawMessage
	if err := json.Unmarshal(data, &fields); err != nil {
		return err
	}
	for name := range names {
		delete(fields, name)
	}
	u.fields = fields
	return nil
}

// namesByType are those of the fields of types, which are the same for ever.
var namesByType sync.Map

func fieldNames(of reflect.Type) map[string]bool {
	if names, isKnown := namesByType.Load(of); isKnown {
		return names.(map[string]bool)
	}
	names := map[string]bool{}
	for field := range of.Fields() {
		name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
		names[name] = true
	}
	namesByType.Store(of, names)
	return names
}

// hasOthers tells whether a valid object may have fields of other names. Nearly none has, and to look is much faster than to decode
// what is inside once more; a name that is written with escapes counts as another one.
func hasOthers(data []byte, names map[string]bool) bool {
	depth, text := 0, -1 // how deep in objects and lists; where the string began that is being read
	isName := false      // the next string is a name of the outermost object
	for at := 0; at < len(data); at++ {
		switch c := data[at]; {
		case text >= 0 && c == '\\':
			at++
		case text >= 0 && c == '"':
			if isName && !names[string(data[text:at])] {
				return true
			}
			isName, text = false, -1
		case text >= 0:
		case c == '"':
			text = at + 1
		case c == '{' || c == '[':
			depth++
			isName = depth == 1
		case c == '}' || c == ']':
			depth--
		case c == ',':
			isName = depth == 1
		}
	}
	return false
}

func (u unknown) add(data []byte, err error) ([]byte, error) {
	if err != nil || len(u.fields) == 0 {
		return data, err
	}
	out := bytes.NewBuffer(bytes.TrimSuffix(data, []byte("}")))
	for _, name := range slices.Sorted(maps.Keys(u.fields)) {
		key, err := json.Marshal(name)
		if err != nil {
			return nil, err
		}
		fmt.Fprintf(out, ",%s:%s", key, u.fields[name])
	}
	out.WriteByte('}')
	return out.Bytes(), nil
}

// The plain types have the fields of their namesakes without the methods, so that encoding/json does not recurse.
type (
	plainRecord       Record
	plainOrder        Order
	plainAnswer       Answer
	plainRevocation   Revocation
	plainVersionInfo  VersionInfo
	plainWindow       Window
	plainSuggestion   Suggestion
	plainAttempt      Attempt
	plainDeployment   Deployment
	plainAccount      Account
	plainRegistration Registration
	plainNode         Node
	plainDiscovered   Discovered
	plainRoot         Root
	plainTold         Told
	plainUntold       Untold
	plainRehearsal    Rehearsal
)

func (t *Told) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainTold)(t)), t.take(data, *t))
}

func (u *Untold) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainUntold)(u)), u.take(data, *u))
}

func (r *Rehearsal) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainRehearsal)(r)), r.take(data, *r))
}

func (r *Record) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainRecord)(r)), r.take(data, *r))
}

func (o *Order) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainOrder)(o)), o.take(data, *o))
}

func (a *Answer) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainAnswer)(a)), a.take(data, *a))
}

func (r *Revocation) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainRevocation)(r)), r.take(data, *r))
}

func (v *VersionInfo) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainVersionInfo)(v)), v.take(data, *v))
}

func (w *Window) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainWindow)(w)), w.take(data, *w))
}

func (s *Suggestion) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainSuggestion)(s)), s.take(data, *s))
}

func (a *Attempt) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainAttempt)(a)), a.take(data, *a))
}

func (d *Deployment) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainDeployment)(d)), d.take(data, *d))
}

func (a *Account) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainAccount)(a)), a.take(data, *a))
}

func (r *Registration) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainRegistration)(r)), r.take(data, *r))
}

func (r *Root) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainRoot)(r)), r.take(data, *r))
}

func (d *Discovered) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainDiscovered)(d)), d.take(data, *d))
}

func (n *Node) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainNode)(n)), n.take(data, *n))
}

func (t Told) MarshalJSON() ([]byte, error)         { return t.add(json.Marshal(plainTold(t))) }
func (u Untold) MarshalJSON() ([]byte, error)       { return u.add(json.Marshal(plainUntold(u))) }
func (r Rehearsal) MarshalJSON() ([]byte, error)    { return r.add(json.Marshal(plainRehearsal(r))) }
func (d Discovered) MarshalJSON() ([]byte, error)   { return d.add(json.Marshal(plainDiscovered(d))) }
func (r Root) MarshalJSON() ([]byte, error)         { return r.add(json.Marshal(plainRoot(r))) }
func (n Node) MarshalJSON() ([]byte, error)         { return n.add(json.Marshal(plainNode(n))) }
func (r Record) MarshalJSON() ([]byte, error)       { return r.add(json.Marshal(plainRecord(r))) }
func (o Order) MarshalJSON() ([]byte, error)        { return o.add(json.Marshal(plainOrder(o))) }
func (a Answer) MarshalJSON() ([]byte, error)       { return a.add(json.Marshal(plainAnswer(a))) }
func (r Revocation) MarshalJSON() ([]byte, error)   { return r.add(json.Marshal(plainRevocation(r))) }
func (v VersionInfo) MarshalJSON() ([]byte, error)  { return v.add(json.Marshal(plainVersionInfo(v))) }
func (s Suggestion) MarshalJSON() ([]byte, error)   { return s.add(json.Marshal(plainSuggestion(s))) }
func (w Window) MarshalJSON() ([]byte, error)       { return w.add(json.Marshal(plainWindow(w))) }
func (a Attempt) MarshalJSON() ([]byte, error)      { return a.add(json.Marshal(plainAttempt(a))) }
func (d Deployment) MarshalJSON() ([]byte, error)   { return d.add(json.Marshal(plainDeployment(d))) }
func (a Account) MarshalJSON() ([]byte, error)      { return a.add(json.Marshal(plainAccount(a))) }
func (r Registration) MarshalJSON() ([]byte, error) { return r.add(json.Marshal(plainRegistration(r))) }
