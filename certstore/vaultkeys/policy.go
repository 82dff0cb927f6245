package vaultkeys

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"

	"maascert/internal/printable"
)

// needed is what the policy has to allow, by where: below data and below metadata of the path.
func (k *Keys) needed() map[string][]string {
	return map[string][]string{
		k.config.Mount + "/data/" + k.config.Path + "/check/check":     {"create", "read", "update"},
		k.config.Mount + "/metadata/" + k.config.Path + "/check/check": {"delete", "list", "read"},
	}
}

// excessive is what it need not allow, by where: what is beside the path, and what makes more of a role or a policy.
func (k *Keys) excessive() []string {
	return []string{
		k.config.Mount + "/data/" + k.config.Path + "-check", k.config.Mount + "/metadata/" + k.config.Path + "-check",
		k.config.Mount + "/data/check", k.config.Mount + "/metadata/check", k.config.Mount + "/config",
		k.config.Mount + "/delete/" + k.config.Path + "/check/check", k.config.Mount + "/undelete/" + k.config.Path + "/check/check", k.config.Mount + "/destroy/" + k.config.Path + "/check/check",
		"sys/mounts", "sys/mounts/check", "sys/auth/check", "sys/policies/acl/check", "sys/seal", "identity/entity",
		"auth/token/create", "auth/" + k.config.AppRole + "/role/check", "auth/" + k.config.AppRole + "/role/check/secret-id",
	}
}

// capabilities are what the token may do at some paths. Nothing is changed there.
func (k *Keys) capabilities(ctx context.Context, paths []string) (map[string][]string, error) {
	may := map[string][]string{}
	err := k.ask(ctx, nil, func(ctx context.Context) error {
		answer, err := k.client.Logical().WriteWithContext(ctx, "sys/capabilities-self", map[string]any{"paths": paths})
		switch {
		case isStatus(err, http.StatusForbidden):
			return errors.Join(errNoDefault, err)
		case err != nil && !isMissing(err):
			return err
		}
		if answer == nil {
			return errors.New("it does not say what the token may do")
		}
		for _, path := range paths {
			all, _ := answer.Data[path].([]any)
			for _, one := range all {
				if capability, _ := one.(string); capability != "deny" {
					may[path] = append(may[path], capability)
				}
			}
		}
		return nil
	})
	return may, err
}

// Ready tells without changing anything whether keys can be put, had, listed and deleted now: Vault is there, unsealed, lets us in, and the
// policy allows all of that.
func (k *Keys) Ready(ctx context.Context) error {
	if err := k.checkMount(ctx); err != nil {
		return err
	}
	needed := k.needed()
	may, err := k.capabilities(ctx, slices.Sorted(maps.Keys(needed)))
	if err != nil {
		return err
	}
	for _, path := range slices.Sorted(maps.Keys(needed)) {
		missing := slices.DeleteFunc(slices.Clone(needed[path]), func(capability string) bool {
			return slices.Contains(may[path], capability) || slices.Contains(may[path], "root")
		})
		if len(missing) > 0 {
			return k.away(fmt.Errorf("the policy does not allow to %s below %s", strings.Join(missing, ", "), strings.TrimSuffix(path, "/check/check")),
				"the role's policy has to allow what examples/vault/policy.hcl does, at mount %s and path %s", k.config.Mount, k.config.Path)
		}
	}
	return nil
}

// checkMount asks once whether the mount is there and keeps versions, which a policy says nothing of.
func (k *Keys) checkMount(ctx context.Context) error {
	if k.isMounted.Load() {
		return nil
	}
	err := k.ask(ctx, nil, func(ctx context.Context) error {
		answer, err := k.client.Logical().ReadWithContext(ctx, "sys/internal/ui/mounts/"+k.config.Mount)
		switch {
		case isStatus(err, http.StatusForbidden):
			return notSeen(err)
		case err != nil && !isMissing(err):
			return err
		}
		var options map[string]any
		if answer != nil {
			options, _ = answer.Data["options"].(map[string]any)
		}
		if answer == nil || answer.Data["type"] != "kv" || options["version"] != "2" {
			return errOldMount
		}
		return nil
	})
	k.isMounted.Store(err == nil)
	return err
}

// notSeen tells why the mount is not to be seen: Vault lets whoever has the policy default ask, and then says the same of a mount that is not
// there as of one in which a token may do nothing.
func notSeen(err error) error {
	refused, _ := errors.AsType[*refusal](err)
	if slices.ContainsFunc(refused.said, func(said string) bool { return strings.Contains(said, "preflight capability check") }) {
		return errors.Join(errNoMount, err)
	}
	return errors.Join(errNoDefault, err)
}

// Excess is what the policy allows beyond what is needed, as far as that is looked for: at places that should be out of reach, and at others.
func (k *Keys) Excess(ctx context.Context, others ...string) (allowed []string, err error) {
	needed := k.needed()
	paths := slices.Concat(slices.Sorted(maps.Keys(needed)), k.excessive(), others)
	may, err := k.capabilities(ctx, paths)
	for _, path := range paths {
		more := slices.DeleteFunc(may[path], func(capability string) bool { return slices.Contains(needed[path], capability) })
		if len(more) > 0 {
			allowed = append(allowed, fmt.Sprintf("%s (%s)", path, strings.Join(more, ", ")))
		}
	}
	if err != nil {
		return nil, err
	}
	policies, err := k.policies(ctx)
	if len(policies) > 1 {
		allowed = append(allowed, "whatever is in several policies: "+printable.Phrase(strings.Join(policies, ", ")))
	}
	return allowed, err
}

// policies are those of the token, but for Vault's own that every token has.
func (k *Keys) policies(ctx context.Context) (names []string, err error) {
	err = k.ask(ctx, nil, func(ctx context.Context) error {
		answer, err := k.client.Auth().Token().LookupSelfWithContext(ctx)
		if err != nil || answer == nil {
			return err
		}
		for _, kind := range []string{"policies", "identity_policies"} {
			all, _ := answer.Data[kind].([]any)
			for _, one := range all {
				if name, _ := one.(string); name != "default" && name != "" && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
		return nil
	})
	return names, err
}

// Certificate is Vault's own, as it was shown last; nil: none was seen.
func (k *Keys) Certificate() *x509.Certificate { return k.gate.shown.Load() }
