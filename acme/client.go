// Package acme obtains certificates from an ACME CA (RFC 8555) and asks it when to renew them (RFC 9773).
//
// It is an order engine of its own on lego's acme/api, which brings signatures, nonces and the wire types. It promises
// that all authorizations of an order go side by side; that every wait ends with its context and obeys Retry-After; that
// the order's URL and the certificate's key are saved before the order is finalized; and that what comes back is checked
// before it counts. No other package knows lego.
//
// Start reading at [Client.Obtain], which is an order from its first request to the certificate.
package acme

import (
	"context"
	"crypto"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"time"

	lego "github.com/go-acme/lego/v4/acme"
	"github.com/go-acme/lego/v4/acme/api"

	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// The directories that the configuration can call by name.
const (
	LetsEncrypt        = "https://acme-v02.api.letsencrypt.org/directory"
	LetsEncryptStaging = "https://acme-staging-v02.api.letsencrypt.org/directory"
)

// Config is all that a Client depends on. The zero values of what touches the world are the real thing.
type Config struct {
	Directory   string         // URL of the CA's directory
	Roots       *x509.CertPool // trust for the directory; nil: the system's
	IssuerRoots *x509.CertPool // what is issued must verify with these; nil: not checked
	Email       string         // contact of a new account; may be empty
	AcceptTerms bool           // agree to the CA's terms of service
	// External binds a new account to one that the CA knows otherwise; nil: none.
	External *ExternalAccount
	Profile  string // of the certificates, one that the directory names; empty: the CA's choice
	// PreferredChain is the common name or the fingerprint of the root, or of another certificate, that the chain should
	// lead to where the CA offers several; empty: the CA's choice.
	PreferredChain string
	UserAgent      string
	Store          certstore.Store                    // where the account is kept
	Solve          func(name string) challenge.Solver // how a name is proven; the same solver for the same name
	Log            *slog.Logger                       // is told of each request at the level debug; nil: nobody is
	Around         func(name string) *challenge.Hooks // what is run around the answers for a name; nil: nothing for any

	Resolvers []string // that tell where names lead, as host:port; none: the system's

	// Observe is told of each request to the CA: the directory's host, and the answer's status, 0 for none; nil: nobody is.
	Observe func(host string, status int)

	Dial   world.Dial                                     // to the CA; nil: the network
	Reach  world.Dial                                     // to whoever answers challenges; nil: the network
	Now    func() time.Time                               // nil: the system's clock
	NewKey func(certstore.KeyType) (crypto.Signer, error) // nil: KeyType.Generate

	// Sleep is between two requests about the same; nil: world.Sleep.
	Sleep func(context.Context, time.Duration) error
}

// Client talks to one CA with one account. It is safe for concurrent use.
type Client struct {
	config Config
	base   http.RoundTripper

	mu        sync.Mutex
	directory *cachedDirectory
	windows   map[string]Window
	skew      time.Duration // by how much the CA's clock is ahead of ours
	skewKnown bool
}

// ExternalAccount is an external account binding (RFC 8555 section 7.3.4). Its text never holds the key.
type ExternalAccount struct {
	KeyID string
	HMAC  string // base64url
}

func (e *ExternalAccount) String() string { return "external account " + e.KeyID }

// GoString never holds the key.
func (e *ExternalAccount) GoString() string { return e.String() }

// A directory is fetched again when it is older than directoryAge.
const directoryAge = time.Hour

type cachedDirectory struct {
	body    []byte
	fetched time.Time
}

// New makes a client. It asks nothing of the CA yet.
func New(config Config) *Client {
	if config.Now == nil {
		config.Now = time.Now
	}
	if config.Sleep == nil {
		config.Sleep = world.Sleep
	}
	if config.NewKey == nil {
		config.NewKey = certstore.KeyType.Generate
	}
	transport := &http.Transport{
		Proxy:                 http.ProxyFromEnvironment,
		DialContext:           config.Dial,
		TLSClientConfig:       &tls.Config{RootCAs: config.Roots, MinVersion: tls.VersionTLS12},
		ForceAttemptHTTP2:     true,
		MaxIdleConnsPerHost:   sideBySide,
		IdleConnTimeout:       30 * time.Second,
		TLSHandshakeTimeout:   10 * time.Second,
		ResponseHeaderTimeout: requestTime,
		// A CA's headers are a few URLs and a nonce.
		MaxResponseHeaderBytes: maxHeader,
	}
	return &Client{config: config, base: transport, windows: map[string]Window{}}
}

// Close closes idle connections to the CA.
func (c *Client) Close() { c.base.(*http.Transport).CloseIdleConnections() }

// Directory is the URL of the CA's directory.
func (c *Client) Directory() string { return c.config.Directory }

// session is one operation: its context, its requests, and lego's core on top of them.
type session struct {
	*Client
	ctx        context.Context
	wire       *transport
	core       *api.Core
	key        crypto.Signer
	thumbprint string      // of the key
	account    string      // URL of the account
	newKey     bool        // the key was made in this session
	harmless   bool        // nothing may be bound for good
	next       bool        // the key is the account's next one
	former     string      // URL of the account whose place this one takes
	grace      world.Grace // to take answers away after the context ended
}

// open loads the directory and prepares a session that signs with the account's key, which is made when there is none.
// It registers nothing.
func (c *Client) open(ctx context.Context) (*session, error) {
	s := &session{Client: c, ctx: ctx, wire: &transport{client: c, ctx: ctx}}
	s.grace.Watch(ctx)
	account, err := s.loadKey()
	if err != nil {
		return s, err
	}
	s.account = account.Registrations[c.config.Directory].URL
	return s, s.connect()
}

// sent counts the session's requests to the CA.
func (s *session) sent() int { return int(s.wire.requests.Load()) }

// connect makes lego's core anew, with what is known of the account.
func (s *session) connect() error {
	core, err := call(s, "directory", func() (*api.Core, error) {
		return api.New(&http.Client{Transport: s.wire}, s.config.UserAgent, s.config.Directory, s.account, s.key)
	})
	if err != nil {
		return s.unreachable(err)
	}
	s.core = core
	return nil
}

// openToOrder is open for an order, before which keys of the account that are lost give way to others. Where isCertain is set a person says that
// what is not there is lost.
func (c *Client) openToOrder(ctx context.Context, isCertain bool) (*session, error) {
	s, err := c.open(ctx)
	if !errors.Is(err, certstore.ErrKeyLost) {
		return s, err
	}
	if c.config.Log != nil {
		c.config.Log.Warn("the ACME account's key is lost, and another one takes its place", "error", err)
	}
	if err := c.dropLostKeys(ctx, isCertain); err != nil {
		return s, err
	}
	return c.open(ctx)
}

// dropLostKeys takes those keys out of the account that are lost, and with each the registrations which were made with it. What another CA knows
// the account by stays.
func (c *Client) dropLostKeys(ctx context.Context, isCertain bool) error {
	_, err := updateAccount(ctx, c.config.Store, func(account *certstore.Account) error {
		isLost := func(signer func(context.Context, certstore.Store) (crypto.Signer, error)) (bool, error) {
			_, err := signer(ctx, c.config.Store)
			if !isCertain {
				err = certstore.NotYetLost(err, account.Made, c.config.Now())
			}
			if errors.Is(err, certstore.ErrKeyLost) {
				return true, nil
			}
			return false, err
		}
		isKeyLost, err := isLost(account.Signer)
		if err != nil {
			return err
		}
		isNextLost := false
		if account.NextKey != "" {
			if isNextLost, err = isLost(account.NextSigner); err != nil {
				return err
			}
		}
		maps.DeleteFunc(account.Registrations, func(_ string, at certstore.Registration) bool {
			return at.Next && isNextLost || !at.Next && isKeyLost
		})
		if isNextLost {
			account.NextKey = ""
		}
		if isKeyLost {
			account.Key, account.NextKey = account.NextKey, ""
			for directory, at := range account.Registrations {
				at.Next = false
				account.Registrations[directory] = at
			}
		}
		return nil
	})
	return err
}

// loadKey takes the account's key from the store, or makes one and saves it.
func (s *session) loadKey() (certstore.Account, error) {
	account, revision, err := certstore.LoadAccount(s.ctx, s.config.Store)
	if err != nil {
		return account, err
	}
	if account.Key == "" {
		account, err = s.makeKey(account, revision)
	} else {
		err = s.useKey(account)
	}
	if err != nil {
		return account, err
	}
	s.thumbprint, err = challenge.ThumbprintOf(s.key.Public())
	return account, err
}

// useKey takes the account's key.
func (s *session) useKey(account certstore.Account) (err error) {
	if s.key, s.next, err = s.signer(s.ctx, account); err != nil {
		err = fmt.Errorf("the ACME account's key: %w", err)
	}
	if errors.Is(err, certstore.ErrKeyLost) {
		err = hint.Add(err, "the next order takes another account; maascert renew --force orders now")
	}
	return err
}

// makeKey gives an account a key, unless somebody else was faster.
func (s *session) makeKey(account certstore.Account, revision certstore.Revision) (certstore.Account, error) {
	key, err := certstore.EC256.Generate()
	if err != nil {
		return account, err
	}
	text, err := certstore.MarshalKey(key)
	if err != nil {
		return account, err
	}
	account.Key, account.Made = string(text), s.config.Now().UTC()
	_, err = certstore.SaveAccount(s.ctx, s.config.Store, account, revision)
	if conflict := err; errors.Is(err, certstore.ErrConflict) {
		if account, _, err = certstore.LoadAccount(s.ctx, s.config.Store); err == nil && account.Key == "" {
			err = conflict // and deleted meanwhile
		}
		if err == nil {
			err = s.useKey(account)
		}
		return account, err
	}
	s.key, s.newKey = key, err == nil
	return account, err
}

// register makes sure that the account is known to the CA (RFC 8555 section 7.3).
func (s *session) register() error {
	if s.account != "" {
		return nil
	}
	meta := s.core.GetDirectory().Meta
	if meta.TermsOfService != "" && !s.config.AcceptTerms {
		return hint.Add(fmt.Errorf("the CA asks to agree to its terms of service: %s", printable.Phrase(meta.TermsOfService)),
			"read them, then set acme.accept_terms: true")
	}
	external := s.config.External
	if meta.ExternalAccountRequired && external == nil || external != nil && s.harmless {
		return hint.Add(ErrExternalAccount, "set acme.eab to what the CA's operator gave you")
	}
	request := lego.Account{TermsOfServiceAgreed: meta.TermsOfService != ""}
	if s.config.Email != "" {
		request.Contact = []string{"mailto:" + s.config.Email}
	}
	account, err := call(s, "newAccount", func() (lego.ExtendedAccount, error) {
		if external != nil {
			return s.core.Accounts.NewEAB(request, external.KeyID, external.HMAC)
		}
		return s.core.Accounts.New(request)
	})
	if err != nil {
		return s.explainRegistration(err)
	}
	if err := checkURL("newAccount", account.Location); err != nil {
		return err
	}
	s.account = account.Location
	return s.saveRegistration(certstore.Registration{URL: account.Location, Created: s.config.Now().UTC(), Terms: printable.Phrase(meta.TermsOfService), Contact: s.config.Email, Next: s.next, Former: s.former})
}

func (s *session) saveRegistration(registration certstore.Registration) error {
	_, err := updateAccount(s.ctx, s.config.Store, func(account *certstore.Account) error {
		account.Registrations[s.config.Directory] = registration
		return nil
	})
	return err
}

// explainRegistration says what to do when a CA takes no account with this key.
func (s *session) explainRegistration(err error) error {
	if isType(err, "unauthorized") && strings.Contains(strings.ToLower(err.Error()), "deactivated") {
		return hint.Add(fmt.Errorf("%w: %w", ErrDeactivated, err), "a key whose account was deactivated cannot be used again; make another: maascert account rollover")
	}
	if isType(err, "externalAccountRequired") {
		return hint.Add(fmt.Errorf("%w: %w", ErrExternalAccount, err), "set acme.eab to what the CA's operator gave you")
	}
	if s.config.External != nil && IsRefusal(err) && !IsRateLimited(err) {
		return hint.Add(fmt.Errorf("the CA takes no account that is bound to %s: %w", printable.Phrase(s.config.External.KeyID), err),
			"acme.eab: is key_id what the CA's operator gave you, unused, and hmac the key that belongs to it?")
	}
	return err
}

// reregister replaces an account that the CA no longer knows, after a reset of its database for example.
func (s *session) reregister() error {
	s.account = ""
	if err := s.connect(); err != nil {
		return err
	}
	return s.register()
}

// Requirements list what a CA demands of its clients, by its directory.
type Requirements struct {
	Terms           string // URL of the terms of service; empty: none
	ExternalAccount bool
	ARI             bool              // the CA suggests when to renew
	Profiles        map[string]string // names and what they are for
	CAAIdentities   []string          // by which CAA records name the CA; none: it looks at no CAA records
}

// Requirements asks the CA's directory. It makes no account.
func (c *Client) Requirements(ctx context.Context) (Requirements, error) {
	s := &session{Client: c, ctx: ctx, wire: &transport{client: c, ctx: ctx}}
	directory, err := get[lego.Directory](s, "directory", c.config.Directory)
	if err == nil && directory.NewOrderURL == "" {
		err = errors.New("directory: it names no URL for new orders")
	}
	if err != nil {
		return Requirements{}, c.unreachable(err)
	}
	return Requirements{
		Terms: printable.Phrase(directory.Meta.TermsOfService), ExternalAccount: directory.Meta.ExternalAccountRequired, ARI: directory.RenewalInfo != "",
		Profiles: cleanProfiles(directory.Meta.Profiles), CAAIdentities: printable.Lines(directory.Meta.CaaIdentities, 253, 20),
	}, nil
}

// maxProfiles bounds the profiles of a directory that are looked at.
const maxProfiles = 50

func cleanProfiles(profiles map[string]string) map[string]string {
	cleaned := map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(profiles))[:min(len(profiles), maxProfiles)] {
		cleaned[printable.Phrase(name)] = printable.Phrase(profiles[name])
	}
	return cleaned
}

// maxURL bounds, in bytes, a URL that a CA names and that is written down.
const maxURL = 2 << 10

// checkURL refuses a URL that is none that a CA may name for what is asked of it again (RFC 8555 section 6.1).
func checkURL(op, text string) error {
	if text == "" {
		return fmt.Errorf("%s: the CA named no URL", op)
	}
	address, err := url.Parse(text)
	if err != nil || address.Scheme != "https" || address.Host == "" || address.User != nil || len(text) > maxURL || text != clip(text) {
		return fmt.Errorf("%s: the CA names a URL that is none: %s", op, printable.Phrase(text))
	}
	return nil
}

// clip is a text as it may be written down.
func clip(text string) string { return printable.Line(text, maxURL) }

// Skew is by how much the CA's clock was ahead of ours when it answered last, as its Date header says to the second; false
// while it has not.
func (c *Client) Skew() (ahead time.Duration, known bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.skew, c.skewKnown
}

func (c *Client) noteDate(header http.Header) {
	date, err := http.ParseTime(header.Get("Date"))
	if err != nil {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.skew, c.skewKnown = date.Sub(c.config.Now().Round(0)).Round(time.Second), true
}

// MaxClock is by how much a CA's clock may differ from ours before nothing is ordered.
const MaxClock = 24 * time.Hour

// checkClock refuses to order while this host's clock, or the CA's, is off by more than a day: what is issued would be
// refused, and the order lost.
func (s *session) checkClock() error {
	skew, known := s.Skew()
	if known && skew.Abs() > MaxClock { // one of the clocks may have been set since the CA answered last
		s.mu.Lock()
		s.directory = nil
		s.mu.Unlock()
		if _, err := get[lego.Directory](s, "directory", s.config.Directory); err != nil {
			return err
		}
		skew, known = s.Skew()
	}
	if !known || skew.Abs() <= MaxClock {
		return nil
	}
	where := "behind"
	if skew < 0 {
		where = "ahead of"
	}
	return hint.Add(fmt.Errorf("this host's clock is %v %s the CA's", skew.Abs(), where), "set the clock (timedatectl), or mend the CA's; nothing was ordered")
}

func (c *Client) unreachable(err error) error {
	return hint.Add(fmt.Errorf("%s: %w", c.config.Directory, err),
		"check acme.directory and acme.root, and that the CA runs: curl --cacert ROOT %s", c.config.Directory)
}

// CheckProfile tells whether a CA that offers some profiles has the one that is asked for.
func CheckProfile(profile string, offered map[string]string) error {
	if _, ok := offered[profile]; ok || profile == "" {
		return nil
	}
	if len(offered) == 0 {
		return hint.Add(fmt.Errorf("the CA has no profiles, so none called %q", profile), "leave acme.profile out")
	}
	names := make([]string, 0, len(offered))
	for name := range offered {
		names = append(names, printable.Phrase(name))
	}
	slices.Sort(names)
	return hint.Add(fmt.Errorf("the CA has no profile %q", profile), "it has: %s", strings.Join(names, ", "))
}

// signer is the key by which the CA knows the account, and whether that is the next one already.
func (c *Client) signer(ctx context.Context, account certstore.Account) (key crypto.Signer, next bool, err error) {
	if account.Registrations[c.config.Directory].Next {
		key, err = account.NextSigner(ctx, c.config.Store)
		return key, true, err
	}
	key, err = account.Signer(ctx, c.config.Store)
	return key, false, err
}

// accountURL returns the account's URL at this CA; empty while there is none.
func (c *Client) accountURL(ctx context.Context) (string, error) {
	account, _, err := certstore.LoadAccount(ctx, c.config.Store)
	return account.Registrations[c.config.Directory].URL, err
}

// Thumbprint returns the account key's; a key is made when there is none. The CA is not asked.
func (c *Client) Thumbprint(ctx context.Context) (challenge.Thumbprint, error) {
	s := &session{Client: c, ctx: ctx}
	if _, err := s.loadKey(); err != nil {
		return "", err
	}
	return challenge.Thumbprint(s.thumbprint), nil
}
