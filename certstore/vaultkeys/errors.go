package vaultkeys

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// isCheckAndSet tells whether Vault refused to write over what is there.
func isCheckAndSet(err error) bool {
	refused, isRefused := errors.AsType[*api.ResponseError](err)
	return isRefused && refused.StatusCode == http.StatusBadRequest && strings.Contains(strings.Join(refused.Errors, " "), "check-and-set")
}

// scrubbed is what was answered without the secrets that were sent: whoever answers in Vault's place may give them back.
func (k *Keys) scrubbed(said string, secrets []string) string {
	k.mu.Lock()
	secrets = slices.Concat(k.sent, secrets)
	k.mu.Unlock()
	for _, secret := range secrets {
		if secret != "" {
			said = strings.ReplaceAll(said, secret, "…")
		}
	}
	return printable.Phrase(said)
}

// explain says in our words what failed: what Vault answered in one line, without what we sent, and what to do. secrets are what it was told
// besides.
func (k *Keys) explain(err error, secrets ...string) error {
	if err == nil {
		return nil
	}
	isLogin := errors.Is(err, errLogin)
	refused, isRefused := errors.AsType[*api.ResponseError](err)
	switch {
	case errors.Is(err, api.ErrSecretNotFound), isRefused && refused.StatusCode == http.StatusNotFound && !isLogin && len(refused.Errors) == 0:
		return fmt.Errorf("vault: %w", certstore.ErrNotFound)
	case !isRefused:
		return k.unreachable(err, secrets)
	}
	said := k.scrubbed(strings.Join(refused.Errors, "; "), secrets)
	switch why := fmt.Sprintf("Vault at %s answers %d (%s)", k.host(), refused.StatusCode, said); {
	case refused.StatusCode == http.StatusServiceUnavailable && strings.Contains(said, "sealed"):
		return hint.Add(fmt.Errorf("%w: Vault at %s is sealed", certstore.ErrKeysAway, k.host()), "unseal it there: vault operator unseal")
	case isLogin && refused.StatusCode < http.StatusInternalServerError:
		return hint.Add(fmt.Errorf("%w: the login by AppRole: %s", certstore.ErrKeysAway, why), "has the secret_id expired, or was it used up? Write a new one to store.seal's secret_id: vault write -f auth/%s/role/ROLE/secret-id", k.config.AppRole)
	case refused.StatusCode == http.StatusForbidden:
		return hint.Add(fmt.Errorf("%w: %s", certstore.ErrKeysAway, why), "the role's policy has to allow what examples/vault/policy.hcl does, at the same mount and path")
	case refused.StatusCode == http.StatusNotFound:
		return hint.Add(fmt.Errorf("%w: %s", certstore.ErrKeysAway, why), "is %s mounted there, as KV of version 2? vault secrets enable -version=2 -path=%s kv", k.config.Mount, k.config.Mount)
	case refused.StatusCode == http.StatusTooManyRequests || refused.StatusCode >= http.StatusInternalServerError:
		return fmt.Errorf("%w: %s", certstore.ErrKeysAway, why)
	default:
		return fmt.Errorf("vault: %s", why)
	}
}

// unreachable says that Vault gave no answer. What the library says names the URL of the request, which says no more than the address.
func (k *Keys) unreachable(err error, secrets []string) error {
	if failed, is := errors.AsType[*url.Error](err); is {
		err = failed.Err
	}
	if errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("%w: Vault at %s does not answer in time", certstore.ErrKeysAway, k.host())
	}
	return fmt.Errorf("%w: Vault at %s: %w", certstore.ErrKeysAway, k.host(), &printable.Tamed{Text: k.scrubbed(err.Error(), secrets), Err: err})
}
