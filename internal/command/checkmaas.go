package command

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"maascert/acme/providers"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
	"maascert/maasconfig"
	"maascert/maasconfig/maasapi"
)

// checkAPI asks whether MAAS's API can be used as the configuration wants it.
func checkAPI(ctx context.Context, p *assembly, looks []look) []report.Item {
	if p.maas.api == nil {
		return nil
	}
	address := p.maas.api.URL()
	version, err := p.maas.api.Version(ctx)
	var user maasapi.User
	if err == nil {
		user, err = p.maas.api.User(ctx)
	}
	if err == nil && !user.IsAdmin {
		err = hint.Add(fmt.Errorf("the API key is %s's, who is no administrator: MAAS shows no regions and takes no records or notices from such", user.Name),
			"maas apikey --username ADMIN prints an administrator's")
	}
	items := []report.Item{report.Asked("api", "MAAS's API answers, and the key is an administrator's", fmt.Sprintf("%s, MAAS %s, as %s", address, version, user.Name), err)}
	if maasapi.IsPlain(address) {
		items = append(items, report.Warning("api", "while MAAS serves no TLS, the API key travels where others can read it", address, "ask this host's region ("+maasapi.UsualURL+"), or enable TLS"))
	}
	if err == nil {
		items = append(items, checkZones(ctx, p, looks, version)...)
	}
	return items
}

// checkZones asks whether MAAS's DNS can hold the records that prove names.
func checkZones(ctx context.Context, p *assembly, looks []look, version string) []report.Item {
	var proven []string
	for _, one := range looks {
		issuer := p.config.Issuers[p.config.Certificate(one.cert.Name).Issuer]
		for _, name := range one.names() {
			if way := issuer.ChallengeFor(name); way.Type == "dns-01" && way.DNS.Provider == providers.MAAS {
				proven = append(proven, name)
			}
		}
	}
	if len(proven) == 0 {
		return nil
	}
	var items []report.Item
	var domains []string
	for _, name := range proven {
		domain, err := p.maas.api.CheckZone(ctx, "_acme-challenge."+strings.TrimPrefix(name, "*."))
		if err != nil {
			items = append(items, report.Asked("zone", "", name, err))
			continue
		}
		domains = append(domains, domain)
	}
	slices.Sort(domains)
	if domains = slices.Compact(domains); len(items) == 0 {
		items = append(items, report.Asked("zone", "MAAS's DNS has the zones of names that it proves", strings.Join(domains, ", "), nil))
	}
	if v, err := maasconfig.ParseVersion(version); err == nil && v.AtLeast(3, 3) && !v.AtLeast(3, 7) {
		items = append(items, report.Warning("zone", fmt.Sprintf("MAAS %s publishes a new TXT record only when something else makes it reload its zones: orders by its DNS will time out", v),
			strings.Join(proven, ", "), "prove these names in another way, or upgrade to MAAS 3.7"))
	}
	return items
}

// checkNames says which names a certificate has because MAAS has them. What is wrong with them is among its warnings.
func checkNames(view lifecycle.View, cert lifecycle.Certificate) []report.Item {
	switch unnamed := view.Plan.Unnamed; {
	case cert.Namer == nil:
		return nil
	case unnamed != nil && view.State.Current == nil:
		return []report.Item{report.Asked("names", "", cert.Name, hint.Add(fmt.Errorf("nothing can be ordered before MAAS's names are known: %w", unnamed), "mend that, or set names, or take names_from_maas out"))}
	case view.State.Found.Doubt() != nil:
		return nil
	}
	return []report.Item{report.Asked("names", "MAAS tells which names there are", strings.Join(view.State.Found.Names, ", "), nil)}
}

// checkNotifiers tells whether those can be told who are to be told, as far as can be said without telling them. A systemd credential is
// there for the daemon alone.
func checkNotifiers(p *assembly) []report.Item {
	var items []report.Item
	for _, one := range p.config.Notify {
		item := report.Asked("notify", "what it needs is there; maascert notify test tries it", one.Usual().Name+" ("+one.Type+")", hint.Add(one.Ready(), "mend that; then: maascert notify test"))
		if item.State == report.CheckFail {
			item.State = report.CheckWarn // it keeps nothing from being renewed
		}
		items = append(items, item)
	}
	return items
}

// checkSecrets finds secrets that everybody on this host may read.
func checkSecrets(p *assembly) []report.Item {
	var items []report.Item
	for _, path := range p.config.SecretFiles() {
		info, err := p.fsys.Stat(path)
		if err == nil && info.Mode().Perm()&0o004 != 0 {
			items = append(items, report.Asked("secrets", "", path, hint.Add(errors.New("everybody on this host may read a secret: "+path), "chmod 0600 %s; and make another one: this one is known", path)))
		}
	}
	return items
}
