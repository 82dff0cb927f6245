package vaultkeys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"time"

	"github.com/hashicorp/vault/api"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// token is what a login got, and when. Vault counts its time in seconds from then.
type token struct {
	text      string // empty: there is none
	got       time.Time
	lasts     time.Duration // 0: for ever
	renewable bool
}

// isYoung tells whether less than a part of its time has passed.
func (t token) isYoung(now time.Time, part time.Duration) bool {
	age := now.Sub(t.got)
	return t.text != "" && age >= 0 && (t.lasts == 0 || age < t.lasts/part)
}

// Bounds of logins: what is refused is not asked again and again, or Vault locks the role out; and a token that is good for a few
// requests only must not make a login of each.
const (
	refusedPause = 30 * time.Second
	mostLogins   = 10 // within a minute, that succeeded

	hungPause = 30 * time.Second // in which Vault is not asked again after it did not answer

	mostRemembered = 8 // secrets that no error tells
)

// logins are those of late.
type logins struct {
	made         []time.Time
	refusedAt    time.Time
	refused      error
	role, secret string // which was refused
}

// loginError says that what failed was the login.
type loginError struct{ error }

func (e loginError) Unwrap() error { return e.error }

// Bounds of one question, with all that it takes to have it answered.
const (
	askTime    = 4 * requestTime
	behindTime = 50 * time.Millisecond // before a server that is behind the others is asked again, at first
)

// ask asks Vault something under a token of ours, and explains what fails. secrets are what it is told with it.
func (k *Keys) ask(parent context.Context, secrets []string, question func(context.Context) error) error {
	if k.hangs() {
		return k.away(errHangs, hangsRemedy)
	}
	ctx, cancel := context.WithTimeout(parent, askTime)
	defer cancel()
	err := k.askOnce(ctx, question)
	for pause := behindTime; isStatus(err, http.StatusPreconditionFailed) && world.Sleep(ctx, pause) == nil; pause *= 2 {
		err = k.askOnce(ctx, question)
	}
	if cause := context.Cause(parent); err != nil && cause != nil && cause != context.DeadlineExceeded { //nolint:errorlint // one that wraps it has words of its own
		return cause
	}
	if isTimeout(err) && parent.Err() == nil {
		k.hung.Store(new(k.config.Now()))
	}
	return k.explain(err, secrets)
}

// hangs tells whether somebody waited for Vault in vain a moment ago, so that a command which asks it several things does not wait for each.
func (k *Keys) hangs() bool {
	since := k.hung.Load()
	if since == nil {
		return false
	}
	age := k.config.Now().Sub(*since)
	return age >= 0 && age < hungPause
}

// askOnce replaces a token that is refused, once: it has expired, or was revoked. Vault answers the same to what the policy forbids, so the
// token is looked at before.
func (k *Keys) askOnce(ctx context.Context, question func(context.Context) error) error {
	now, isNew, err := k.enter(ctx, "")
	if err != nil {
		return err
	}
	err = question(with(ctx, &passed{token: now.text}))
	if isNew || !isStatus(err, http.StatusForbidden) {
		return err
	}
	_, refused := k.client.Auth().Token().LookupSelfWithContext(with(ctx, &passed{token: now.text}))
	if !isStatus(refused, http.StatusForbidden) {
		return err
	}
	if now, _, err = k.enter(ctx, now.text); err != nil {
		return err
	}
	return question(with(ctx, &passed{token: now.text}))
}

// enter has a token for the next request, other than one that was refused: the one at hand, the same renewed when half of its time has
// passed, or another one. One caller at a time sees to that.
func (k *Keys) enter(ctx context.Context, refused string) (_ token, isNew bool, err error) {
	if have := k.have(); have.text != refused && have.isYoung(k.config.Now(), 2) {
		return have, false, nil
	}
	select {
	case k.entering <- struct{}{}:
		defer func() { <-k.entering }()
	case <-ctx.Done():
		return token{}, false, context.Cause(ctx)
	}
	now, have := k.config.Now(), k.have()
	switch {
	case have.text == refused:
	case have.isYoung(now, 2):
		return have, false, nil // somebody else was faster
	case have.renewable && have.isYoung(now, 1):
		if renewed, isLonger := k.renew(ctx, have, now); isLonger {
			return renewed, false, nil
		}
	}
	made, err := k.login(ctx, now)
	if err != nil && have.text != refused && have.isYoung(now, 1) {
		return have, false, nil // it is good for a while yet
	}
	return made, true, err
}

func (k *Keys) have() token {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.token
}

func (k *Keys) takes(auth *api.SecretAuth, now time.Time) token {
	made := token{text: auth.ClientToken, got: now, lasts: time.Duration(auth.LeaseDuration) * time.Second, renewable: auth.Renewable}
	k.mu.Lock()
	defer k.mu.Unlock()
	k.token = made
	k.remembers(made.text)
	return made
}

// remembers keeps the newest of what no error is to tell. The caller holds k.mu.
func (k *Keys) remembers(secrets ...string) {
	for _, secret := range secrets {
		k.sent = slices.DeleteFunc(k.sent, func(known string) bool { return known == secret })
		k.sent = append(k.sent, secret)
	}
	k.sent = k.sent[max(0, len(k.sent)-mostRemembered):]
}

// renew has a token last longer. One that cannot for as long as it did gives way to another login.
func (k *Keys) renew(ctx context.Context, have token, now time.Time) (token, bool) {
	answer, err := k.client.Auth().Token().RenewSelfWithContext(with(ctx, &passed{token: have.text}), 0)
	if err != nil || answer.Auth == nil || answer.Auth.ClientToken == "" || time.Duration(answer.Auth.LeaseDuration)*time.Second < have.lasts/2 {
		return token{}, false
	}
	return k.takes(answer.Auth, now), true
}

// login logs in by AppRole, in bounds.
func (k *Keys) login(ctx context.Context, now time.Time) (token, error) {
	role, err := k.config.RoleID()
	if err != nil {
		return token{}, err
	}
	secret, err := k.config.SecretID()
	if err != nil {
		return token{}, err
	}
	k.mu.Lock()
	k.remembers(role, secret)
	late := &k.logins
	late.made = slices.DeleteFunc(late.made, func(at time.Time) bool { return now.Sub(at) >= time.Minute || at.After(now) })
	age := now.Sub(late.refusedAt)
	isRefused := late.refused != nil && late.role == role && late.secret == secret && age >= 0 && age < refusedPause
	isOften := len(late.made) >= mostLogins
	refused := late.refused
	k.mu.Unlock()
	switch {
	case isRefused:
		return token{}, refused
	case isOften:
		return token{}, hint.Add(fmt.Errorf("%w: %d logins within a minute did not last", certstore.ErrKeysAway, mostLogins), fewUses)
	}
	answer, err := k.client.Logical().WriteWithContext(with(ctx, &passed{}), "auth/"+k.config.AppRole+"/login", map[string]any{"role_id": role, "secret_id": secret})
	if err == nil && (answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "") {
		err = errors.New("the answer to a login has no token")
	}
	if err != nil {
		err = loginError{err}
		if isStatus(err, http.StatusBadRequest) || isStatus(err, http.StatusForbidden) {
			k.mu.Lock()
			late.refusedAt, late.refused, late.role, late.secret = now, err, role, secret
			k.mu.Unlock()
		}
		return token{}, err
	}
	k.mu.Lock()
	late.made = append(late.made, now)
	k.mu.Unlock()
	return k.takes(answer.Auth, now), nil
}
