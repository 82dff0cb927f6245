package acme

import (
	"bytes"
	"context"
	"crypto"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rsa"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"slices"
	"time"

	lego "github.com/go-acme/lego/v4/acme"
	jose "github.com/go-jose/go-jose/v4"

	"maascert/certstore"
	"maascert/internal/hint"
)

// ErrDeactivated says that the CA knows the account and lets it do nothing any more (RFC 8555 section 7.3.6). step-ca says
// the same of an account whose key it knows at another of its provisioners.
var ErrDeactivated = errors.New("the CA lets the ACME account do nothing: it is deactivated, or its key belongs to another provisioner")

// explainRefusal finds out whether a request was refused because of the account's state.
func (s *session) explainRefusal(err error) error {
	if isType(err, "unauthorized") {
		_, gone := call(s, "account", func() (lego.Account, error) { return s.core.Accounts.Get(s.account) })
		if isType(gone, "unauthorized") {
			return hint.Add(fmt.Errorf("%w: %w", ErrDeactivated, err),
				"if nobody deactivated it by mistake, make another account with another key: maascert account rollover")
		}
	}
	if !IsRefusal(err) || s.next {
		return err
	}
	if account, _, loadErr := certstore.LoadAccount(s.ctx, s.config.Store); loadErr == nil && account.NextKey != "" {
		return hint.Add(err, "the account's key is being replaced, and this CA may know only the new one: maascert account rollover goes on with that")
	}
	return err
}

// hasOtherKey tells, after a session's request was refused, whether the CA knows the account by another key than the
// session has: one that was stored meanwhile, or the next one of a rollover that was cut off after the CA took it. That is
// written down then, so that the next session signs with it.
func (c *Client) hasOtherKey(ctx context.Context, s *session) bool {
	account, _, err := certstore.LoadAccount(ctx, c.config.Store)
	if err != nil || s.next || s.key == nil {
		return false
	}
	if now, _, err := c.signer(ctx, account); err == nil && !isSameKey(now, s.key) {
		return true
	}
	at, registered := account.Registrations[c.config.Directory]
	if account.NextKey == "" || !registered {
		return false
	}
	next, err := account.NextSigner(ctx, c.config.Store)
	if err != nil {
		return false
	}
	other := &session{Client: c, ctx: ctx, wire: s.wire, key: next, next: true}
	if other.connect() != nil || !other.isKnownAs(at.URL) {
		return false
	}
	at.Next = true
	return other.saveRegistration(at) == nil
}

func isSameKey(a, b crypto.Signer) bool {
	public, ok := a.Public().(interface{ Equal(crypto.PublicKey) bool })
	return ok && public.Equal(b.Public())
}

// isKnownAs tells whether the CA knows the session's key as that of an account.
func (s *session) isKnownAs(account string) bool {
	found, err := call(s, "newAccount", func() (lego.ExtendedAccount, error) {
		return s.core.Accounts.New(lego.Account{OnlyReturnExisting: true})
	})
	return err == nil && found.Location == account
}

// AccountChange tells what became of the account at one directory.
type AccountChange struct {
	Directory string
	What      string // in words
	Err       error
}

// Rollover replaces the account's key at every directory that the account is registered with (RFC 8555 section 7.3.5). A
// CA that cannot do that, or no longer knows the account, gets a new account. A directory that none of the clients knows
// is forgotten. What could not be done is in the changes; the old key stays in use there, and the next Rollover goes on.
func Rollover(ctx context.Context, store certstore.Store, clients []*Client) ([]AccountChange, error) {
	var now time.Time
	if len(clients) > 0 {
		now = clients[0].config.Now().UTC()
	}
	account, err := updateAccount(ctx, store, func(account *certstore.Account) error {
		isUsed := slices.ContainsFunc(slices.Collect(maps.Values(account.Registrations)), func(at certstore.Registration) bool { return at.Next })
		if account.NextKey != "" && !isUsed {
			_, err := account.NextSigner(ctx, store)
			if errors.Is(certstore.NotYetLost(err, account.Made, now), certstore.ErrKeyLost) {
				account.NextKey = ""
			}
		}
		if account.Key == "" || account.NextKey != "" {
			return nil
		}
		key, err := certstore.EC256.Generate()
		if err != nil {
			return err
		}
		text, err := certstore.MarshalKey(key)
		account.NextKey, account.Made = string(text), now
		return err
	})
	if err != nil || account.Key == "" {
		return nil, err
	}
	next, err := account.NextSigner(ctx, store)
	if err != nil {
		return nil, fmt.Errorf("the ACME account's next key: %w", err)
	}
	changes, err := eachDirectory(account, clients, nil, func(c *Client, at certstore.Registration) (string, error) {
		what := "has the new key already"
		if !at.Next {
			var err error
			if what, err = c.rollover(ctx, at, next); err != nil {
				return what, err
			}
		}
		return what, c.endFormer(ctx)
	})
	if err != nil {
		return changes, err
	}
	_, err = updateAccount(ctx, store, func(account *certstore.Account) error {
		account.Key, account.NextKey = account.NextKey, ""
		for directory, at := range account.Registrations {
			if at.Next {
				at.Next = false
				account.Registrations[directory] = at
			} else {
				delete(account.Registrations, directory)
			}
		}
		return nil
	})
	return changes, err
}

// Deactivate deactivates the account at every directory that it is registered with, and forgets its key when that
// succeeded everywhere: a CA lets nobody use it again.
func Deactivate(ctx context.Context, store certstore.Store, clients []*Client) ([]AccountChange, error) {
	account, _, err := certstore.LoadAccount(ctx, store)
	if err != nil {
		return nil, err
	}
	unknown := hint.Add(errors.New("the configuration does not know this directory, so nobody can deactivate the account there"),
		"add it under issuers, with its root, for this once")
	changes, err := eachDirectory(account, clients, unknown, func(c *Client, _ certstore.Registration) (string, error) {
		if err := c.endFormer(ctx); err != nil {
			return "", err
		}
		return c.deactivate(ctx)
	})
	if err != nil {
		return changes, err
	}
	_, err = updateAccount(ctx, store, func(account *certstore.Account) error {
		if len(account.Registrations) == 0 {
			account.Key, account.NextKey = "", ""
		}
		return nil
	})
	return changes, err
}

// UpdateContact tells every directory that the account is registered with the mail address that its client's configuration has (RFC 8555
// section 7.3.2). A client without an address tells nothing.
func UpdateContact(ctx context.Context, store certstore.Store, clients []*Client) ([]AccountChange, error) {
	account, _, err := certstore.LoadAccount(ctx, store)
	if err != nil {
		return nil, err
	}
	unknown := hint.Add(errors.New("the configuration does not know this directory"), "add it under issuers, with its root")
	return eachDirectory(account, clients, unknown, func(c *Client, at certstore.Registration) (string, error) {
		if c.config.Email == "" {
			return "was told nothing: the configuration has no email for it", nil
		}
		s, err := c.open(ctx)
		if err != nil {
			return "", err
		}
		if _, err := call(s, "account", func() (lego.Account, error) {
			return s.core.Accounts.Update(at.URL, lego.Account{Contact: []string{"mailto:" + c.config.Email}})
		}); err != nil {
			return "", s.explainRefusal(err)
		}
		at.Contact = c.config.Email
		return "was told " + c.config.Email, s.saveRegistration(at)
	})
}

// eachDirectory does something at every directory that an account is registered with. unknown is what is said of one that
// no client knows; nil: it is forgotten.
func eachDirectory(account certstore.Account, clients []*Client, unknown error, do func(*Client, certstore.Registration) (string, error)) (changes []AccountChange, err error) {
	failed := 0
	for _, directory := range slices.Sorted(maps.Keys(account.Registrations)) {
		change := AccountChange{Directory: directory, What: "forgotten: the configuration does not know this directory", Err: unknown}
		if at := slices.IndexFunc(clients, func(c *Client) bool { return c.config.Directory == directory }); at >= 0 {
			change.What, change.Err = do(clients[at], account.Registrations[directory])
		}
		if change.Err != nil {
			failed++
		}
		changes = append(changes, change)
	}
	if failed > 0 {
		return changes, fmt.Errorf("%d of %d directories failed", failed, len(changes))
	}
	return changes, nil
}

func updateAccount(ctx context.Context, store certstore.Store, change func(*certstore.Account) error) (certstore.Account, error) {
	for {
		account, revision, err := certstore.LoadAccount(ctx, store)
		if err != nil {
			return account, err
		}
		if account.Registrations == nil {
			account.Registrations = map[string]certstore.Registration{}
		}
		if err := change(&account); err != nil {
			return account, err
		}
		if _, err = certstore.SaveAccount(ctx, store, account, revision); !errors.Is(err, certstore.ErrConflict) {
			return account, err
		}
	}
}

// ErrOtherAccount says that the store has an ACME account of its own, with another key.
var ErrOtherAccount = errors.New("the store has an ACME account of its own, with another key")

// Adopt takes over an account that another client registered with a directory: its key becomes that of the store, which must not have
// another one. Without a URL the CA is asked for it when it is needed first (RFC 8555 section 7.3.1). It asks no CA.
func Adopt(ctx context.Context, store certstore.Store, directory string, key crypto.Signer, known certstore.Registration) error {
	text, err := certstore.MarshalKey(key)
	if err != nil {
		return err
	}
	_, err = updateAccount(ctx, store, func(account *certstore.Account) error {
		if account.Key != "" && !account.IsKey(key) {
			return ErrOtherAccount
		}
		account.Key = string(text)
		if _, ok := account.Registrations[directory]; !ok && known.URL != "" {
			account.Registrations[directory] = known
		}
		return nil
	})
	return err
}

// rollover gives the account another key at this directory.
func (c *Client) rollover(ctx context.Context, at certstore.Registration, next crypto.Signer) (string, error) {
	s, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	refused := s.changeKey(next)
	if refused == nil {
		at.Next = true
		return "has the new key", s.saveRegistration(at)
	}
	var answered *Error
	if !errors.As(refused, &answered) || answered.Type == "" && answered.Status != http.StatusNotImplemented {
		return "", refused
	}
	// Perhaps it has the new key, from a run that was cut off.
	other := &session{Client: c, ctx: ctx, wire: s.wire, key: next, next: true, former: at.URL}
	if err := other.connect(); err != nil {
		return "", err
	}
	if other.isKnownAs(at.URL) {
		at.Next = true
		return "has the new key", s.saveRegistration(at)
	}
	cannot := answered.Status == http.StatusNotImplemented
	gone := answered.Type == "accountDoesNotExist" || errors.Is(s.explainRefusal(refused), ErrDeactivated)
	if !cannot && !gone {
		return "", refused
	}
	if err := other.register(); err != nil {
		return "", errors.Join(refused, err)
	}
	return fmt.Sprintf("has a new account with the new key, because it could not change the old one's (%v)", refused), nil
}

// endFormer deactivates the account whose place another one took because its key could not be changed: whoever has the old
// key must not be able to use it.
func (c *Client) endFormer(ctx context.Context) error {
	account, _, err := certstore.LoadAccount(ctx, c.config.Store)
	if err != nil {
		return err
	}
	at := account.Registrations[c.config.Directory]
	if at.Former == "" {
		return nil
	}
	key, err := account.Signer(ctx, c.config.Store)
	if err != nil {
		return err
	}
	s := &session{Client: c, ctx: ctx, wire: &transport{client: c, ctx: ctx}, key: key, account: at.Former}
	if err := s.connect(); err != nil {
		return err
	}
	if _, err := s.deactivate(); err != nil && !isStatus(err, http.StatusNotImplemented) {
		return fmt.Errorf("the old account is still active: %w", err)
	}
	at.Former = ""
	return s.saveRegistration(at)
}

func isStatus(err error, status int) bool {
	var answered *Error
	return errors.As(err, &answered) && answered.Status == status
}

// changeKey asks the CA to know the account by another key: a request signed by the new one, within one signed by the old
// one (RFC 8555 section 7.3.5). lego cannot do that.
func (s *session) changeKey(next crypto.Signer) error {
	url := s.core.GetDirectory().KeyChangeURL
	if url == "" {
		return &Error{Op: "keyChange", Status: http.StatusNotImplemented, Detail: "the directory names no URL for it"}
	}
	old := jose.JSONWebKey{Key: s.key.Public()}
	payload, err := json.Marshal(map[string]any{"account": s.account, "oldKey": old})
	if err != nil {
		return err
	}
	inner, err := signJWS(next, payload, &jose.SignerOptions{EmbedJWK: true, ExtraHeaders: map[jose.HeaderKey]any{"url": url}})
	if err != nil {
		return err
	}
	_, err = call(s, "keyChange", func() (struct{}, error) { return struct{}{}, s.post(url, inner) })
	return err
}

// post sends a payload that is signed with the account's key.
func (s *session) post(url string, payload []byte) error {
	body, err := signJWS(s.key, payload, &jose.SignerOptions{NonceSource: s.nonceSource(s.wire.RoundTrip), ExtraHeaders: map[jose.HeaderKey]any{"url": url, "kid": s.account}})
	if err != nil {
		return err
	}
	req, err := http.NewRequestWithContext(s.ctx, http.MethodPost, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	req.Header.Set("Content-Type", "application/jose+json")
	req.Header.Set("User-Agent", s.config.UserAgent)
	resp, err := s.wire.RoundTrip(req)
	if err != nil {
		return err
	}
	_, err = answered(resp, url)
	return err
}

// answered reads an answer; one that is a refusal is an error.
func answered(resp *http.Response, url string) ([]byte, error) {
	body, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode == http.StatusOK {
		return body, err
	}
	problem := &lego.ProblemDetails{HTTPStatus: resp.StatusCode, Detail: resp.Status}
	// What normalize wrote always parses; anything else keeps the status line.
	_ = json.Unmarshal(body, problem)
	problem.URL = url
	return nil, problem
}

// nonceSource fetches nonces (RFC 8555 section 7.2).
type nonceSource struct {
	ctx            context.Context
	url, userAgent string
	send           func(*http.Request) (*http.Response, error)
}

func (s *session) nonceSource(send func(*http.Request) (*http.Response, error)) nonceSource {
	return nonceSource{s.ctx, s.core.GetDirectory().NewNonceURL, s.config.UserAgent, send}
}

func (n nonceSource) Nonce() (string, error) {
	req, err := http.NewRequestWithContext(n.ctx, http.MethodHead, n.url, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("User-Agent", n.userAgent)
	resp, err := n.send(req)
	if err != nil {
		return "", err
	}
	return resp.Header.Get("Replay-Nonce"), nil
}

// signJWS signs with the algorithm that fits a key.
func signJWS(key crypto.Signer, payload []byte, options *jose.SignerOptions) ([]byte, error) {
	algorithm := jose.ES256
	switch k := key.(type) {
	case *rsa.PrivateKey:
		algorithm = jose.RS256
	case *ecdsa.PrivateKey:
		if k.Curve == elliptic.P384() {
			algorithm = jose.ES384
		}
	}
	signer, err := jose.NewSigner(jose.SigningKey{Algorithm: algorithm, Key: key}, options)
	if err != nil {
		return nil, err
	}
	signed, err := signer.Sign(payload)
	if err != nil {
		return nil, err
	}
	return []byte(signed.FullSerialize()), nil
}

// deactivate deactivates the account at this directory and forgets its registration.
func (c *Client) deactivate(ctx context.Context) (string, error) {
	s, err := c.open(ctx)
	if err != nil {
		return "", err
	}
	what, err := s.deactivate()
	if err != nil {
		return "", err
	}
	_, err = updateAccount(ctx, c.config.Store, func(account *certstore.Account) error {
		delete(account.Registrations, c.config.Directory)
		return nil
	})
	return what, err
}

func (s *session) deactivate() (string, error) {
	_, err := call(s, "deactivate", func() (struct{}, error) { return struct{}{}, s.core.Accounts.Deactivate(s.account) })
	switch {
	case err == nil:
		return "deactivated", nil
	case isType(err, "accountDoesNotExist"), errors.Is(s.explainRefusal(err), ErrDeactivated):
		return "was gone already", nil
	default:
		return "", err
	}
}

// Reasons for a revocation that a CA may be given (RFC 5280 section 5.3.1), by their names.
var Reasons = map[string]uint{"unspecified": 0, "keyCompromise": 1, "affiliationChanged": 3, "superseded": 4, "cessationOfOperation": 5}

// Revoke revokes a certificate that this CA issued to the account (RFC 8555 section 7.6). One that is revoked already is
// fine.
func (c *Client) Revoke(ctx context.Context, v certstore.Version, reason uint) error {
	if v.Directory != c.config.Directory {
		return fmt.Errorf("the certificate was not issued by %s", c.config.Directory)
	}
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	if s.account == "" || v.Account != s.account {
		// Another account ordered it; whoever has the certificate's own key may revoke it as well.
		bundle, err := v.Bundle.WithKey(ctx)
		if err != nil {
			return err
		}
		return s.revoke(bundle.Leaf(), bundle.Key(), reason)
	}
	return s.revoke(v.Bundle.Leaf(), nil, reason)
}

// RevokeCertificate revokes a certificate that this CA issued to whomever (RFC 8555 section 7.6): as the account, or with the
// certificate's own key. One that is revoked already is fine.
func (c *Client) RevokeCertificate(ctx context.Context, leaf *x509.Certificate, key crypto.Signer, reason uint) error {
	s, err := c.open(ctx)
	if err != nil {
		return err
	}
	if key == nil && s.account == "" {
		return hint.Add(errors.New("there is no ACME account at the CA that could ask for it"), "with the certificate's own key: --key FILE")
	}
	return s.revoke(leaf, key, reason)
}

func (s *session) revoke(leaf *x509.Certificate, key crypto.Signer, reason uint) error {
	message := lego.RevokeCertMessage{Certificate: base64.RawURLEncoding.EncodeToString(leaf.Raw), Reason: &reason}
	if key != nil {
		s.key, s.account = key, ""
		if err := s.connect(); err != nil {
			return err
		}
	}
	_, err := call(s, "revokeCert", func() (struct{}, error) { return struct{}{}, s.core.Certificates.Revoke(message) })
	if isType(err, "alreadyRevoked") {
		return nil
	}
	return err
}
