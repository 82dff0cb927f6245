package vaultkeys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"time"

	"github.com/hashicorp/vault/api"
)

// token is what a login got. Vault counts its time in seconds from then.
type token struct {
	got       time.Time
	lasts     time.Duration // 0: for ever
	renewable bool
	known     bool
}

func (t token) isSet() bool { return t.known }

// errLogin says that what failed was the login.
var errLogin = errors.New("login by AppRole")

// ask asks Vault something under a token of ours. A token that is refused is replaced once: it has expired, or was revoked.
func (k *Keys) ask(ctx context.Context, question func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, 4*requestTime)
	defer cancel()
	isNew, err := k.enter(ctx)
	if err != nil {
		return err
	}
	err = question(ctx)
	if refused, isRefused := errors.AsType[*api.ResponseError](err); isNew || !isRefused || refused.StatusCode != http.StatusForbidden {
		return err
	}
	k.mu.Lock()
	k.forget()
	k.mu.Unlock()
	if _, err := k.enter(ctx); err != nil {
		return err
	}
	return question(ctx)
}

// enter has a token that lasts for the next request: the one at hand, the same renewed when half of its time has passed, or another one.
func (k *Keys) enter(ctx context.Context) (isNew bool, err error) {
	k.mu.Lock()
	defer k.mu.Unlock()
	now := k.config.Now()
	age := now.Sub(k.token.got)
	switch {
	case !k.token.isSet() || age < 0:
	case k.token.lasts == 0 || age < k.token.lasts/2:
		return false, nil
	case k.token.renewable && age < k.token.lasts:
		if renewed, err := k.client.Auth().Token().RenewSelfWithContext(ctx, 0); err == nil && renewed.Auth != nil && k.takes(renewed.Auth, now) {
			return false, nil
		}
	}
	return true, k.login(ctx, now)
}

// takes takes a token, unless it is about to end: one that cannot be renewed for longer gives way to another login.
func (k *Keys) takes(auth *api.SecretAuth, now time.Time) bool {
	lasts := time.Duration(auth.LeaseDuration) * time.Second
	if k.token.isSet() && lasts > 0 && lasts < k.token.lasts/2 {
		return false
	}
	k.client.SetToken(auth.ClientToken)
	k.sent = append(k.sent[:min(2, len(k.sent))], auth.ClientToken)
	k.token = token{got: now, lasts: lasts, renewable: auth.Renewable, known: true}
	return true
}

func (k *Keys) login(ctx context.Context, now time.Time) error {
	k.forget()
	role, err := k.config.RoleID()
	if err != nil {
		return err
	}
	secret, err := k.config.SecretID()
	if err != nil {
		return err
	}
	k.sent = []string{role, secret}
	answer, err := k.client.Logical().WriteWithContext(ctx, "auth/"+k.config.AppRole+"/login", map[string]any{"role_id": role, "secret_id": secret})
	if err != nil {
		return fmt.Errorf("%w: %w", errLogin, err)
	}
	if answer == nil || answer.Auth == nil || answer.Auth.ClientToken == "" {
		return fmt.Errorf("%w: the answer has no token", errLogin)
	}
	k.takes(answer.Auth, now)
	return nil
}

func (k *Keys) forget() {
	k.client.ClearToken()
	k.token = token{}
}
