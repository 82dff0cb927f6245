package command

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strconv"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/preflight"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/maasconfig"
)

// preflightHost is this host, to be looked at. An error says that there is no MAAS on it.
func (p *assembly) preflightHost(ctx context.Context) (preflight.Host, error) {
	here := p.config.MAAS.Installation(p.config.StateDir, p.fsys, p.runner)
	found, err := maasconfig.Detect(ctx, here)
	host := preflight.Host{Files: p.fsys, Runner: p.runner, Dial: p.dial, Listening: p.listening, Now: p.now, UID: os.Geteuid(), MAAS: found}
	host.Port, host.PortKnown = maasconfig.LocalTLSPort(ctx, here)
	return host, err
}

// checkHost looks at this host, and at what MAAS on it needs. Where no MAAS is, that is said by its target's own checks.
func checkHost(ctx context.Context, p *assembly) []report.Item {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	host, notHere := p.preflightHost(ctx)
	items := slices.Concat(checkOwnFiles(p), host.CheckManagers(), host.CheckFirewall(ctx, p.ports(host, notHere == nil)))
	if notHere != nil || !slices.ContainsFunc(p.config.Certificates, p.servesMAAS) {
		return items
	}
	items = slices.Concat(items, host.CheckStage(), host.CheckModes(), host.CheckLeftKeys(), host.CheckClusterCertificates(), host.CheckPorts())
	if conf, err := maasconfig.ReadRegiond(p.fsys, host.MAAS); err == nil {
		items = slices.Concat(items, host.CheckDatabase(ctx, conf), host.CheckVault(ctx, conf))
	} else if host.MAAS.Kind != "" {
		items = append(items, report.Warning("database", "where MAAS's database is, is not known: "+err.Error(), host.MAAS.RegiondConf(), "run maascert as root"))
	}
	return slices.Concat(items, host.CheckHardening(ctx))
}

// ports are those of this host to which others have to connect, each once; MAAS's own where it is here (MAAS fact 2.6).
func (p *assembly) ports(host preflight.Host, isMAASHere bool) (ports []preflight.Port) {
	add := func(number int, for_ string) {
		if number != 0 && !slices.ContainsFunc(ports, func(one preflight.Port) bool { return one.Number == number }) {
			ports = append(ports, preflight.Port{Number: number, For: for_})
		}
	}
	for _, cert := range p.config.Certificates {
		for _, way := range p.config.Issuers[cert.Issuer].Ways() {
			switch {
			case way.Type == "dns-01" || way.Type == "" || len(way.Before) > 0: // which may open it
			case way.Type == "tls-alpn-01":
				add(443, "the CA's look at names (tls-alpn-01)")
			default:
				add(80, "the CA's look at names (http-01)")
			}
		}
		for _, name := range cert.Targets {
			isMAAS := p.config.Targets[name].Type == maasconfig.UsualType
			if isMAAS && !isMAASHere {
				continue
			}
			if isMAAS {
				add(5240, "racks and machines")
			}
			for _, port := range p.config.Targets[name].LocalPorts(host.Port) {
				add(port, "whoever asks what "+name+" serves")
			}
		}
	}
	return ports
}

// checkOwnFiles tells whether the daemon would take the configuration and what it names.
func checkOwnFiles(p *assembly) []report.Item {
	for _, one := range entrusted(p.config.File(), p.config, p.runner) {
		if err := world.Replaceable(one.path, os.Geteuid()); err != nil {
			return []report.Item{report.Asked("own-files", "", one.path, hint.Add(fmt.Errorf("the daemon will not start: %s is not safe: %w", one.what, err), "%s", ownFix(err, one.path)))}
		}
	}
	return []report.Item{report.Asked("own-files", "nobody else may write what the daemon reads and runs", p.config.File(), nil)}
}

// ownFix is what makes a path safe that is not. A folder above it may be somebody's own, and stays his.
func ownFix(err error, path string) string {
	var unsafe *world.UnsafeError
	switch {
	case !errors.As(err, &unsafe) || unsafe.Path != path:
		return "put it into a folder that only root may write, such as /etc/maascert, and name it there in the configuration"
	case isMissing(path):
		return "make it, as root: in such a folder whoever comes first may"
	case unsafe.IsForeign:
		return "look at what is in it, which somebody else may have written; then put a copy of root's in its place"
	}
	return world.Command{Path: "chmod", Args: []string{"go-w", path}}.String() + " # and look at what is in it, which others could change"
}

func isMissing(path string) bool {
	_, err := os.Lstat(path)
	return errors.Is(err, os.ErrNotExist)
}

// checkForMAAS looks at what the certificate of a MAAS is, is to be, and leads to.
func checkForMAAS(ctx context.Context, p *assembly, l look) []report.Item {
	configured := p.config.Certificate(l.cert.Name)
	if l.err != nil || !p.servesMAAS(configured) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	host, notHere := p.preflightHost(ctx)
	var items []report.Item
	if notHere == nil {
		_, windows := configured.Timing()
		about := preflight.Certificate{KeyType: l.cert.Wish.KeyType, HasWindow: len(windows) > 0}
		if served := servedByMAAS(l); served != nil {
			about.Served = served.Certs[0]
		}
		items = host.CheckVersion(about)
	}
	wanted := preflight.Wanted{Names: l.names(), TLS: true}
	if address, err := p.maas.url(ctx); err == nil {
		wanted.MAASURL = address
	}
	if p.maas.hosts != nil {
		// Which regions there are is asked, and doubted, elsewhere.
		wanted.Regions, _ = p.maas.hosts.Regions(ctx)
	}
	items = append(items, host.CheckNames(ctx, wanted, challenge.NewView(p.config.Resolvers, nil))...)
	return append(items, checkExpiryNotice(ctx, p, l)...)
}

// servedByMAAS is what a region was seen to serve, this host's own where it was asked; nil: nothing.
func servedByMAAS(l look) *maasconfig.Served {
	var found *maasconfig.Served
	for i, target := range l.cert.Targets {
		for _, e := range l.view.State.Targets[i].Endpoints {
			host, _, _ := net.SplitHostPort(e.Address)
			if target.Info().Type == maasconfig.UsualType && len(e.Certs) > 0 && (found == nil || world.IsThisHost(host)) {
				found = &e.Served
			}
		}
	}
	return found
}

// checkExpiryNotice tells whether MAAS's own notice of the certificate's end would come before a renewal in time (MAAS fact 3.1).
func checkExpiryNotice(ctx context.Context, p *assembly, l look) []report.Item {
	if p.maas.api == nil || l.view.State.Current == nil {
		return nil
	}
	days, err := p.maas.api.ExpiryNotice(ctx)
	switch {
	case err != nil:
		return nil // the API's own check says it
	case days == 0:
		return []report.Item{report.Asked("expiry-notice", "MAAS's own notice of expiry is off", p.maas.api.URL(), nil)}
	case l.view.NoticeIsEarly(days):
		return []report.Item{report.Warning("expiry-notice", fmt.Sprintf("MAAS tells its administrators %d days before the end that the certificate expires, which is before it is renewed in its time", days),
			p.maas.api.URL(), "set align_expiry_notice: true in the section maas:, then: maascert renew")}
	}
	return []report.Item{report.Asked("expiry-notice", "MAAS's own notice of expiry comes only when a renewal is late", strconv.Itoa(days)+" days before the end", nil)}
}
