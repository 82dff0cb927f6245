package vaultkeys

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/url"
	"slices"
	"strings"

	"github.com/hashicorp/vault/api"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// isStatus tells whether Vault answered with an error of that status.
func isStatus(err error, status int) bool {
	refused, is := errors.AsType[*refusal](err)
	return is && refused.status == status
}

// isMissing tells whether Vault says that something is not there, which the gate lets nobody else say.
func isMissing(err error) bool {
	answered, is := errors.AsType[*api.ResponseError](err)
	return errors.Is(err, api.ErrSecretNotFound) || is && answered.StatusCode == http.StatusNotFound
}

// isCheckAndSet tells whether Vault refused to write over what is there.
func isCheckAndSet(err error) bool {
	refused, is := errors.AsType[*refusal](err)
	return is && refused.status == http.StatusBadRequest && slices.ContainsFunc(refused.said, func(said string) bool { return strings.Contains(said, "check-and-set") })
}

// errOldMount says that a key was written where no version of it is told.
var errOldMount = errors.New("the mount is no KV of version 2")

// errNoMount says that Vault lets nobody see the mount. Of a mount that is not there it says the same as of one that a policy says nothing of.
var errNoMount = errors.New("no such mount is to be seen")

// errNoDefault says that a token may not ask what every other may.
var errNoDefault = errors.New("the role's tokens may not ask what they are allowed to do")

// errShortLived says that a key which was written will be deleted by Vault itself.
var errShortLived = errors.New("the mount deletes by itself what is put there")

// explain says in our words what failed: what Vault answered in one line, without what it was told, and what to do.
func (k *Keys) explain(err error, secrets []string) error {
	refused, isRefused := errors.AsType[*refusal](err)
	login, isLogin := errors.AsType[loginError](err)
	switch {
	case err == nil, isCheckAndSet(err), errors.Is(err, certstore.ErrKeysAway), errors.Is(err, certstore.ErrNotFound):
		return err
	case isMissing(err) && !isLogin:
		return fmt.Errorf("vault: %w", certstore.ErrNotFound)
	case errors.Is(err, errOldMount):
		return k.away(errOldMount, "vault secrets enable -version=2 -path=%s kv, or name another mount", k.config.Mount)
	case errors.Is(err, errNoMount):
		return k.away(fmt.Errorf("there is no mount %s, or the policy allows nothing there", k.config.Mount),
			"vault secrets enable -version=2 -path=%s kv; and the role's policy has to allow what examples/vault/policy.hcl does, at that mount and path %s", k.config.Mount, k.config.Path)
	case errors.Is(err, errNoDefault):
		return k.away(errNoDefault, "is the role without Vault's policy default (token_no_default_policy)? Then its own policy needs the last paths of examples/vault/policy.hcl too")
	case errors.Is(err, errShortLived):
		return k.away(errShortLived, "vault write %s/config delete_version_after=0s, or name another mount", k.config.Mount)
	case isRefused:
		return k.explainRefusal(refused, isLogin, secrets)
	case isMissing(err):
		return k.away(errors.New("it does not know how to log in by AppRole"), "is the method enabled there? vault auth enable -path=%s approle", k.config.AppRole)
	case isLogin:
		err = login.error
	}
	return k.unreachable(err, secrets)
}

// away says that keys cannot be had, why, and what to do.
func (k *Keys) away(why error, remedy string, args ...any) error {
	err := fmt.Errorf("%w: Vault at %s: %w", certstore.ErrKeysAway, k.host(), why)
	if remedy == "" {
		return err
	}
	return hint.Add(err, remedy, args...)
}

func isTimeout(err error) bool {
	failed, is := errors.AsType[net.Error](err)
	return errors.Is(err, context.DeadlineExceeded) || is && failed.Timeout()
}

// errHangs says that Vault takes what is asked and gives no answer.
var errHangs = errors.New("it does not answer in time")

// hangsRemedy is what to do then.
const hangsRemedy = "is it overloaded, or without its storage? There: vault status"

// fewUses is what to ask where tokens do not last.
const fewUses = "does the role make tokens for a few uses only (token_num_uses), or for seconds (token_ttl)?"

func (k *Keys) explainRefusal(refused *refusal, isLogin bool, secrets []string) error {
	all := strings.Join(refused.said, "; ")
	said := fmt.Errorf("it answers %d: %s", refused.status, k.shown(all, secrets))
	switch {
	case refused.status == http.StatusServiceUnavailable && strings.Contains(all, "sealed"):
		return k.away(errors.New("it is sealed"), "unseal it there: vault operator unseal")
	case isLogin && (refused.status == http.StatusBadRequest || refused.status == http.StatusForbidden):
		return k.away(fmt.Errorf("the login by AppRole: %w", said), "has the secret_id expired, or was it used up? Write another one to where store.seal's secret_id is read from: vault write -f auth/%s/role/ROLE/secret-id", k.config.AppRole)
	case isLogin && refused.status == http.StatusNotFound:
		return k.away(fmt.Errorf("the login by AppRole: %w", said), "is the method enabled there? vault auth enable -path=%s approle", k.config.AppRole)
	case strings.Contains(all, "invalid token"):
		return k.away(said, "%s", fewUses)
	case refused.status == http.StatusForbidden:
		return k.away(said, "the role's policy has to allow what examples/vault/policy.hcl does, at mount %s and path %s", k.config.Mount, k.config.Path)
	case refused.status == http.StatusNotFound:
		return k.away(said, "is %s mounted there, as KV of version 2? vault secrets enable -version=2 -path=%s kv", k.config.Mount, k.config.Mount)
	default:
		return k.away(said, "")
	}
}

// unreachable says that Vault gave no answer, or none that can be understood. What is said of that names the address and no secret.
func (k *Keys) unreachable(err error, secrets []string) error {
	if odd, is := errors.AsType[*stranger](err); is {
		return k.away(odd, "is store.seal's address that of Vault itself, or of who passes requests on to the active one?")
	}
	if failed, is := errors.AsType[*url.Error](err); is {
		err = failed.Err
	}
	if isTimeout(err) {
		return k.away(errHangs, hangsRemedy)
	}
	return k.away(&printable.Tamed{Text: k.shown(err.Error(), secrets), Err: err}, "")
}

// longestShown is how many bytes of what Vault says are looked at, and leastSecret how many of a secret's make it one.
const (
	longestShown = 2000
	leastSecret  = 8
)

// shown is what was answered, in one line. An answer that has a part of a secret in it is not shown at all.
func (k *Keys) shown(said string, secrets []string) string {
	said = said[:min(len(said), longestShown)]
	k.mu.Lock()
	secrets = slices.Concat(secrets, k.sent, []string{k.token.text})
	k.mu.Unlock()
	for _, secret := range secrets {
		for at := 0; at+leastSecret <= len(secret); at++ {
			if strings.Contains(said, secret[at:at+leastSecret]) {
				return "words that are not shown, because they hold a part of a secret"
			}
		}
	}
	return printable.Phrase(said)
}
