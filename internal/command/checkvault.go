package command

import (
	"context"
	"fmt"
	"net/url"
	"strings"

	"maascert/certstore"
	"maascert/certstore/vaultkeys"
	"maascert/internal/hint"
	"maascert/internal/report"
	"maascert/maasconfig"
)

// checkVault looks at the Vault that keeps private keys: whether it takes and gives them, whether the policy allows that and nothing more, and
// until when its certificate lasts.
func checkVault(ctx context.Context, p *assembly) []report.Item {
	vault := p.config.Store.Seal.Vault
	if vault == nil {
		return nil
	}
	keys, err := vault.Open(p.dial, p.now)
	if err != nil {
		return []report.Item{report.Asked("keys", "", vault.Place(), err)}
	}
	defer keys.Close()
	// Whether Vault answers, and then whether it has the keys of this store, which another check tells when it cannot be read.
	err = keys.Ready(ctx)
	account, _, unread := certstore.LoadAccount(ctx, p.store)
	if err == nil && unread == nil {
		err = certstore.ReadyKeys(ctx, p.store)
	}
	if err == nil && unread == nil && account.Key != "" {
		_, err = account.Signer(ctx, p.store)
	}
	if err == nil && unread == nil {
		err = keysInUse(ctx, p)
	}
	items := []report.Item{report.Asked("keys", "Vault takes and gives private keys", vault.Place(), err)}
	if owner := certstore.OwnsKeys(ctx, p.store); err == nil && unread == nil && owner != nil {
		items[0] = report.Warning("keys", owner.Error(), vault.Place(), hint.Of(owner))
	}
	host, notHere := p.preflightHost(ctx)
	var theirs maasconfig.Regiond
	if notHere == nil {
		// Where it cannot be read another check says so.
		theirs, _ = maasconfig.ReadRegiond(p.fsys, host.MAAS)
	}
	if items[0].State != report.CheckFail {
		items = append(items, checkPolicy(ctx, vault, keys, theirs))
	}
	if shown := keys.Certificate(); shown != nil {
		items = append(items, host.Lasts("keys-tls", "the certificate of the Vault that keeps private keys", vault.Address, shown, "have Vault's administrator renew it: maascert does not touch it"))
	}
	return items
}

// keysInUse tells whether the private keys of the versions in use can be had, and are theirs.
func keysInUse(ctx context.Context, p *assembly) error {
	for _, cert := range p.engine.Certificates {
		record, _, err := certstore.LoadRecord(ctx, p.store, cert.Name)
		if err != nil || record.Current == 0 {
			continue // another check says what is wrong with it
		}
		version, err := certstore.LoadVersion(ctx, p.store, cert.Name, record.Current)
		if err != nil {
			continue
		}
		if _, err := version.Bundle.WithKey(ctx); err != nil {
			return err
		}
	}
	return nil
}

// checkPolicy tells whether the policy allows more than is needed, and whether keys are mixed up with MAAS's own secrets.
func checkPolicy(ctx context.Context, vault *vaultkeys.Section, keys *vaultkeys.Keys, theirs maasconfig.Regiond) report.Item {
	place := vault.Place()
	var others []string
	if theirs.Vault != "" && isSameHost(theirs.Vault, vault.Address) {
		if theirs.Mount() == vault.Mount && (isBelow(vault.Path, theirs.VaultPath) || isBelow(theirs.VaultPath, vault.Path)) {
			return report.Warning("keys-policy", fmt.Sprintf("maascert's keys and MAAS's own secrets lie in one another's path: %s and %s", vault.Path, theirs.VaultPath), place,
				"name another path in store.seal's vault, have the policy allow that alone, and bring the keys there: maascert store copy")
		}
		others = []string{theirs.Mount() + "/data/" + theirs.VaultPath + "/global/tls"}
	}
	excess, err := keys.Excess(ctx, others...)
	switch {
	case err != nil:
		return report.Asked("keys-policy", "", place, err)
	case len(excess) > 0:
		return report.Warning("keys-policy", "the role's policy allows more than is needed: "+strings.Join(excess, "; "), place, "vault policy write POLICY examples/vault/policy.hcl, with this mount and path; and give the role no other policy")
	}
	return report.Asked("keys-policy", "the role's policy allows what is needed, and nothing else that was asked for", place, nil)
}

func isSameHost(a, b string) bool {
	one, errA := url.Parse(a)
	other, errB := url.Parse(b)
	return errA == nil && errB == nil && strings.EqualFold(one.Host, other.Host)
}

// isBelow tells whether a path in Vault is another one, or below it.
func isBelow(path, other string) bool {
	return strings.HasPrefix(strings.Trim(path, "/")+"/", strings.TrimPrefix(strings.Trim(other, "/")+"/", "/"))
}
