package command

import (
	"context"
	"net"
	"net/netip"
	"slices"

	"maascert/acme/providers"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/maasconfig/maasapi"
)

// deployment is MAAS as its API tells of it, for all who want to know something of it.
type deployment struct {
	api   *maasapi.Client // nil: it is not asked
	hosts *maasconfig.RegionHosts
	url   func(ctx context.Context) (string, error) // MAAS's own
}

// deployment joins MAAS's API with those who ask it. It touches nothing yet.
func (p *assembly) deployment(runner world.Runner, dial world.Dial) deployment {
	maas := p.config.MAAS
	here := maas.Installation(p.config.StateDir, p.fsys, runner)
	d := deployment{url: func(ctx context.Context) (string, error) { return maasconfig.ReadMAASURL(ctx, here) }}
	if !maas.API.IsUsed() {
		return d
	}
	api, err := maasapi.New(maasapi.Config{
		URL: maas.API.URL, Key: maas.API.APIKey(), Trust: p.trustOfMAAS(), IsOurs: p.isOurs, Dial: dial,
	})
	if err != nil {
		return d // the configuration's check found no such URL
	}
	d.api = api
	d.hosts = &maasconfig.RegionHosts{
		Lister: api, Networks: maas.WantedNetworks(), MAASURL: d.url, Dial: dial,
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	}
	return d
}

// trustOfMAAS is what those trust who connect to MAAS: as the certificate says that MAAS serves.
func (p *assembly) trustOfMAAS() certstore.Trust {
	for _, cert := range p.config.Certificates {
		if p.servesMAAS(cert) {
			return certstore.Trust{Roots: p.config.Issuers[cert.Issuer].IssuerRoots()}
		}
	}
	return certstore.Trust{}
}

// servesMAAS tells whether a certificate is MAAS's.
func (p *assembly) servesMAAS(cert config.Certificate) bool {
	return slices.ContainsFunc(cert.Targets, func(target string) bool { return p.config.Targets[target].Type == maasconfig.UsualType })
}

// isOurs tells whether MAAS is known to serve a certificate: it is a version that is kept and that nobody wants revoked, or the one in the
// files of this host's region.
func (p *assembly) isOurs(ctx context.Context, fingerprint string) bool {
	for _, cert := range p.engine.Certificates {
		ledger, err := certstore.OpenLedger(ctx, p.store, cert.Name)
		if err != nil {
			continue // what cannot be read proves nothing
		}
		record := ledger.Record()
		if version, kept := ledger.Versions()[fingerprint]; kept {
			return record.Revocation(version.Number) == nil
		}
	}
	for _, cert := range p.engine.Certificates {
		for _, target := range cert.Targets {
			if target.Info().Type != maasconfig.UsualType {
				continue
			}
			if served, err := target.Backup(ctx); err == nil && served.Fingerprint() == fingerprint {
				return true
			}
		}
	}
	return false
}

// namer finds the names that a certificate has because MAAS has them; nil where its configuration has no such rule.
func (d deployment) namer(cert config.Certificate, issuer config.Issuer) *maasconfig.Names {
	if !cert.NamesFromMAAS.IsUsed() {
		return nil
	}
	names := &maasconfig.Names{Section: cert.NamesFromMAAS, MAASURL: d.url, Check: issuer.CheckName}
	if d.hosts != nil {
		names.Regions = d.hosts
	}
	return names
}

// zone is MAAS's DNS: records by its API, and the regions' own name servers.
type zone struct {
	*maasapi.Client
	*maasconfig.RegionHosts
}

var _ providers.Zone = zone{}

// zone is nil where MAAS's API is not asked.
func (d deployment) zone() providers.Zone {
	if d.api == nil {
		return nil
	}
	return zone{d.api, d.hosts}
}

// aligner has MAAS's own notice of expiry follow what is served.
type aligner struct{ api *maasapi.Client }

// Align has MAAS tell of the end so many days before.
func (a *aligner) Align(ctx context.Context, days int) error {
	_, err := a.api.AlignExpiryNotice(ctx, days)
	return hint.Add(err, "set maas.align_expiry_notice: false where MAAS's own notice is nobody's concern")
}
