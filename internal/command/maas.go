package command

import (
	"context"
	"crypto/x509"
	"net"
	"net/netip"
	"slices"
	"sync"
	"time"

	"maascert/acme/providers"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
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
		URL: maas.API.URL, Key: maas.API.APIKey, Trust: p.trustOfMAAS(), Known: p.known, Dial: dial,
		TLSPort: func(ctx context.Context) (int, bool) { return maasconfig.LocalTLSPort(ctx, here) }, MayBePlain: world.CheckListener, Log: p.log,
	})
	if err != nil {
		return d // the configuration's check found no such URL
	}
	d.api = api
	d.hosts = maasconfig.NewRegionHosts(maasconfig.RegionsConfig{
		Lister: api, Networks: maas.WantedNetworks(), MAASURL: d.url, Dial: dial, Now: p.now,
		IsHere: world.IsThisHost,
		Resolve: func(ctx context.Context, host string) ([]netip.Addr, error) {
			return net.DefaultResolver.LookupNetIP(ctx, "ip", host)
		},
	})
	return d
}

// trustOfMAAS is what those trust who connect to MAAS: as the certificate says that MAAS serves.
func (p *assembly) trustOfMAAS() certstore.Trust {
	for _, cert := range p.config.Certificates {
		if p.servesMAAS(cert) {
			return certstore.Trust{Roots: p.config.Issuers[cert.Issuer].IssuerRoots(), Now: p.now}
		}
	}
	return certstore.Trust{Now: p.now}
}

// servesMAAS tells whether a certificate is MAAS's.
func (p *assembly) servesMAAS(cert config.Certificate) bool {
	return slices.ContainsFunc(cert.Targets, func(target string) bool { return p.config.Targets[target].Type == maasconfig.UsualType })
}

// known tells whether MAAS is known to serve a certificate: the version in use of a certificate of its own, the one that every region was
// seen to serve last, or the one in the files of this host's region. One that somebody wants revoked is none of them, whatever else says so.
func (p *assembly) known(ctx context.Context, fingerprint string) maasapi.Knowledge {
	found := maasapi.Unknown
	for i, cert := range p.engine.Certificates {
		if !p.servesMAAS(p.config.Certificates[i]) {
			continue
		}
		backup := p.backup(ctx, cert)
		ledger, err := certstore.OpenLedger(ctx, p.store, cert.Name)
		switch {
		case err != nil && backup == fingerprint:
			found = maasapi.Ours
			continue
		case err != nil:
			return maasapi.Untold
		}
		record := ledger.Record()
		version, kept := ledger.Versions()[fingerprint]
		if kept && record.Revocation(version.Number) != nil {
			return maasapi.Revoked
		}
		isServed := kept && version.Number == record.Current
		for _, target := range cert.Targets {
			isServed = isServed || kept && target.Info().Type == maasconfig.UsualType && version.Number == record.Deployments[target.Info().Name].Verified
		}
		if isServed || backup == fingerprint {
			found = maasapi.Ours
		}
	}
	return found
}

// backup is the fingerprint of the certificate in the files of this host's region; empty where it cannot be read.
func (p *assembly) backup(ctx context.Context, cert lifecycle.Certificate) string {
	for _, target := range cert.Targets {
		if target.Info().Type != maasconfig.UsualType {
			continue
		}
		if served, err := target.Backup(ctx); err == nil {
			return served.Fingerprint()
		}
	}
	return ""
}

// pinned looks for profiles that a change of the root broke. Homes belong to whoever likes to hold it up, and may be on a server that does
// not answer: so it looks seldom, not for long, and not again while an earlier look hangs.
type pinned struct {
	fsys world.FS

	mu      sync.Mutex
	looking bool
	served  string // fingerprint of what the answer is about
	at      time.Time
	found   []maasconfig.Profile
}

const (
	pinnedTime = 2 * time.Second
	pinnedAge  = time.Hour
)

// profiles are those that were found last.
func (p *pinned) profiles(former []*x509.Certificate, served *certstore.Bundle, trust certstore.Trust) []maasconfig.Profile {
	p.mu.Lock()
	isFresh := p.served == served.Fingerprint() && trust.Time().Sub(p.at).Abs() < pinnedAge
	if isFresh || p.looking {
		defer p.mu.Unlock()
		return p.found
	}
	p.looking, p.served, p.at, p.found = true, served.Fingerprint(), trust.Time(), nil
	p.mu.Unlock()
	done := make(chan struct{})
	go func() {
		defer close(done)
		found := maasconfig.BrokenProfiles(p.fsys, former, served, trust)
		p.mu.Lock()
		defer p.mu.Unlock()
		p.looking, p.found = false, found
	}()
	select {
	case <-done:
	case <-time.After(pinnedTime):
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.found
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
