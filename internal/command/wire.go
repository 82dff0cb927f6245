package command

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"log/slog"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/robfig/cron/v3"

	"maascert/acme"
	"maascert/acme/challenge"
	"maascert/acme/providers"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/world"
	"maascert/maasconfig"
	"maascert/notify"
)

// assembly is a configuration put together.
type assembly struct {
	config    *config.Config
	fsys      world.FS
	store     certstore.Store
	clients   map[string]*acme.Client // by issuer
	solvers   *solvers
	standby   standby
	seen      *sightings
	reach     world.Dial                    // to whoever answers challenges; nil: the network
	observe   func(host string, status int) // requests to CAs; nil: nobody does
	maas      deployment
	now       func() time.Time
	sleep     func(context.Context, time.Duration) error // between two requests to a CA about the same
	log       *slog.Logger
	runner    world.Runner
	dial      world.Dial
	listening func(port int) []world.Listening
	engine    *lifecycle.Engine

	channels []notify.Channel
	teller   *lifecycle.Teller
	tellings []lifecycle.Telling // of the last pass
}

// assemble puts the real parts together. It touches nothing yet.
func (a *app) assemble(config *config.Config) *assembly {
	p := &assembly{config: config, fsys: a.fsys, dial: a.dial, reach: a.reach, observe: a.observe, now: a.now, sleep: a.sleep, log: a.log, runner: a.runner(), listening: a.listening, store: a.openStore(config)}
	p.maas = p.deployment(p.runner, a.dial)
	p.clients, p.solvers = map[string]*acme.Client{}, p.newSolvers()
	for name, issuer := range config.Issuers {
		p.clients[name] = acme.New(p.acme(issuer, p.store, p.solvers))
	}
	p.seen = &sightings{fsys: a.fsys, dir: filepath.Join(config.StateDir, "public")}
	p.engine = &lifecycle.Engine{
		Seen:   p.seen.latest,
		Period: period(config.Times()), Started: a.now(),
		Store: p.store, Public: public{a.fsys, filepath.Join(config.StateDir, "public")}, Node: config.Node, Now: a.now, Log: a.log, Revoke: p.revoke,
		Broken: (&pinned{fsys: a.fsys}).profiles,
	}
	for _, cert := range config.Certificates {
		issuer := config.Issuers[cert.Issuer]
		built := lifecycle.Certificate{
			Name: cert.Name, Keep: cert.Keep, Trust: certstore.Trust{Roots: issuer.IssuerRoots(), Now: a.now}, Means: meansOf(issuer, config.Resolvers),
			Wish:       certstore.Wish{Names: cert.Names, KeyType: cert.KeyType, Directory: issuer.Directory, Profile: issuer.Profile, Rule: cert.NamesFromMAAS.Rule()},
			Rehearsals: rehearsalsOf(config, issuer), Reissue: cert.NamesFromMAAS.Reissues(), RootsFile: p.rootsFile(cert.Name),
		}
		if namer := p.maas.namer(cert, issuer); namer != nil {
			built.Namer = namer
		}
		built.Timing.Before, built.Timing.Windows = cert.Timing()
		if config.MAAS.Align && p.servesMAAS(cert) && p.maas.api != nil {
			built.Aligner = &aligner{api: p.maas.api}
		}
		if client, ok := p.clients[cert.Issuer]; ok {
			built.Issuer = client
		}
		for _, name := range cert.Targets {
			built.Targets = append(built.Targets, config.Targets[name].Make(maasconfig.Parts{
				Name: name, ServerName: firstHost(cert.Names), Trust: built.Trust, MAAS: config.MAAS.HostSection, Regions: p.maas.hosts, StateDir: config.StateDir,
				FS: a.fsys, Runner: p.runner, Dial: a.dial, UID: os.Geteuid(),
			}))
		}
		p.engine.Certificates = append(p.engine.Certificates, built)
	}
	p.teller = p.newTeller(a)
	return p
}

// runner runs programs, and tells the log of each.
func (a *app) runner() world.Runner {
	if a.log == nil { // a shell asks what may come next
		return a.programs
	}
	return world.Logged{Runner: a.programs, Log: a.log}
}

// rootsFile is the path of the public file of what clients of a certificate are to trust.
func (p *assembly) rootsFile(cert string) string {
	return filepath.Join(p.config.StateDir, "public", cert+".roots.pem")
}

// period measures the time between two passes of a schedule.
func period(schedule cron.Schedule) time.Duration {
	first := schedule.Next(time.Now())
	return schedule.Next(first).Sub(first)
}

// meansOf identifies how a CA is asked and names are proven, down to the contents of the files that the configuration
// names: whoever mends one of them wants to see at once whether that helped. The hash tells no secret.
func meansOf(issuer config.Issuer, resolvers []string) string {
	// Plain values always marshal; what is not exported is added below.
	text, _ := json.Marshal([]any{issuer, resolvers})
	sum := sha256.New()
	fmt.Fprintf(sum, "%s %s %s", text, issuer.RootsPEM(), issuer.IssuerRootsPEM())
	if issuer.External() != nil {
		fmt.Fprintf(sum, " %s", issuer.External().HMAC)
	}
	for _, way := range issuer.Ways() {
		fmt.Fprintf(sum, " %v", way.DNS.SecretSettings()) // maps are printed in the order of their keys
	}
	return "sha256:" + hex.EncodeToString(sum.Sum(nil))
}

// rehearsalsOf says when renewals are rehearsed that an issuer makes. By itself that is done only where nobody is bothered by it: at a CA
// for dry runs, or at one of the deployment's own.
func rehearsalsOf(all *config.Config, issuer config.Issuer) lifecycle.Rehearsals {
	sum := sha256.Sum256(fmt.Appendf(nil, "%s %s", all.Digest(), meansOf(issuer, all.Resolvers)))
	schedule, isAuto := all.Rehearsals()
	hasHooks := slices.ContainsFunc(issuer.Ways(), func(way config.Challenge) bool { return way.HasHooks() })
	if hasHooks && !all.RehearseHooks { // what they do is for renewals alone
		schedule, isAuto = nil, false
	}
	return lifecycle.Rehearsals{
		Weekly: isAuto && (issuer.DryRun.Directory != "" || issuer.Root != ""), Schedule: schedule, Config: "sha256:" + hex.EncodeToString(sum[:]),
	}
}

// solvers are all ways to prove names that a configuration knows, each once: clients that answer on the same address
// share it.
type solvers struct {
	fsys      world.FS
	runner    world.Runner
	resolvers []string
	zone      providers.Zone  // MAAS's DNS; nil: it cannot be asked
	fleet     challenge.Fleet // nil: no other host shares the store

	mu    sync.Mutex
	all   map[string]challenge.Solver
	hooks map[string]*challenge.Hooks
}

func (p *assembly) newSolvers() *solvers {
	s := &solvers{fsys: p.fsys, runner: p.runner, resolvers: p.config.Resolvers, zone: p.maas.zone(), all: map[string]challenge.Solver{}, hooks: map[string]*challenge.Hooks{}}
	if p.config.Store.IsShared() {
		s.fleet = &acme.Fleet{Store: p.store, Node: p.config.Node, Now: p.now}
	}
	return s
}

func (s *solvers) solver(c config.Challenge) challenge.Solver {
	s.mu.Lock()
	defer s.mu.Unlock()
	// Maps are printed in the order of their keys.
	key := fmt.Sprint(c.Type, c.Listen, c.Webroot, c.DNS)
	switch {
	case s.all[key] != nil:
	case c.Type == "dns-01":
		s.all[key] = s.newDNS(c.DNS)
	case c.Webroot != "":
		s.all[key] = &challenge.Webroot{Dir: c.Webroot, FS: s.fsys}
	case c.Type == "tls-alpn-01":
		s.all[key] = &challenge.TLSResponder{Address: c.Listen, Fleet: s.fleet}
	default:
		s.all[key] = &challenge.Responder{Address: c.Listen, Fleet: s.fleet}
	}
	return s.all[key]
}

// around is what is run around the answers of a challenge; nil: nothing.
func (s *solvers) around(c config.Challenge) *challenge.Hooks {
	if !c.HasHooks() {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	key := fmt.Sprintf("%q %q", c.Before, c.After)
	if s.hooks[key] == nil {
		s.hooks[key] = &challenge.Hooks{Before: c.Before, After: c.After, Runner: s.runner}
	}
	return s.hooks[key]
}

func (s *solvers) newDNS(c providers.Section) *challenge.DNS {
	settings := providers.Settings(maps.Clone(c.SecretSettings()))
	maps.Copy(settings, c.Settings)
	secrets := slices.Collect(maps.Values(c.SecretSettings()))
	return &challenge.DNS{
		Resolvers: s.resolvers, Nameservers: c.Nameservers,
		Connect: func(ctx context.Context) (challenge.Records, error) {
			return providers.Connect(ctx, c.Provider, settings, secrets, providers.Parts{Runner: s.runner, Resolvers: s.resolvers, Zone: s.zone})
		},
	}
}

// acme is a client's configuration for a CA.
func (p *assembly) acme(issuer config.Issuer, store certstore.Store, known *solvers) acme.Config {
	return acme.Config{
		Directory: issuer.Directory, Roots: issuer.Roots(), IssuerRoots: issuer.IssuerRoots(), Dial: p.dial, Email: issuer.Email, AcceptTerms: issuer.AcceptTerms,
		External: issuer.External(), Profile: issuer.Profile, PreferredChain: issuer.PreferredChain,
		UserAgent: "maascert/" + version(), Store: store, Resolvers: p.config.Resolvers, Reach: p.reach, Observe: p.observe, Log: p.log, Now: p.now, Sleep: p.sleep,
		Solve:  func(name string) challenge.Solver { return known.solver(issuer.ChallengeFor(name)) },
		Around: func(name string) *challenge.Hooks { return known.around(issuer.ChallengeFor(name)) },
	}
}

// revoke has the CA that issued a version revoke it, which need not be the one that issues the next.
func (p *assembly) revoke(ctx context.Context, version certstore.Version, reason uint) error {
	for _, client := range p.clients {
		if client.Directory() == version.Directory {
			return client.Revoke(ctx, version, reason)
		}
	}
	return hint.Add(fmt.Errorf("it was issued by %s, which the configuration does not know", version.Directory), "add that CA under issuers")
}

// certificate is the one of a name that the configuration has.
func (p *assembly) certificate(name string) lifecycle.Certificate {
	return p.engine.Certificates[slices.IndexFunc(p.engine.Certificates, func(cert lifecycle.Certificate) bool { return cert.Name == name })]
}

func (p *assembly) close() {
	p.standby.end()
	for _, client := range p.clients {
		client.Close()
	}
	closeStore(p.store)
}

// rehearsal is the same engine made of harmless parts.
type rehearsal struct {
	engine  *lifecycle.Engine
	issuers map[string]*lifecycle.Rehearser
	targets map[string][]*maasconfig.Rehearsal
	clients []*acme.Client
}

// rehearsal makes the harmless twin. busy names the certificates that have an order under way.
func (p *assembly) rehearsal(busy map[string]bool) *rehearsal {
	store := certstore.NewOverlay(p.store)
	r := &rehearsal{issuers: map[string]*lifecycle.Rehearser{}, targets: map[string][]*maasconfig.Rehearsal{}}
	known := p.newSolvers()
	open := func(config acme.Config) *acme.Client {
		client := acme.New(config)
		r.clients = append(r.clients, client)
		return client
	}
	clients, dryRuns := map[string]*acme.Client{}, map[string]*acme.Client{}
	for name, issuer := range p.config.Issuers {
		clients[name] = open(p.acme(issuer, store, known))
		if d := issuer.DryRun; d.Directory != "" {
			config := p.acme(issuer, store, known)
			config.Directory, config.Roots, config.IssuerRoots, config.External = d.Directory, d.Roots(), nil, nil
			dryRuns[name] = open(config)
		}
	}
	engine := *p.engine
	engine.Store, engine.Public, engine.Certificates, engine.Rehearses = store, nil, nil, true
	engine.Revoke = func(context.Context, certstore.Version, uint) error { return nil }
	for _, cert := range p.engine.Certificates {
		name := p.config.Certificate(cert.Name).Issuer
		twin := cert
		twin.Targets = nil
		if client, ok := clients[name]; ok {
			issuer := &lifecycle.Rehearser{Client: client, DryRun: dryRuns[name], Now: p.now, Keep: busy[cert.Name]}
			twin.Issuer, r.issuers[cert.Name] = issuer, issuer
		}
		twin.Trust, twin.Aligner = certstore.Rehearsed(cert.Trust), nil
		for _, target := range cert.Targets {
			harmless := maasconfig.Rehearse(target)
			twin.Targets = append(twin.Targets, harmless)
			r.targets[cert.Name] = append(r.targets[cert.Name], harmless)
		}
		engine.Certificates = append(engine.Certificates, twin)
	}
	r.engine = &engine
	return r
}

// withRefusals are the results of a pass of the harmless engine, with what guards refused and was rehearsed all the same.
func (r *rehearsal) withRefusals(results []lifecycle.Result) []lifecycle.Result {
	for i := range results {
		for _, target := range r.targets[results[i].Name] {
			for _, err := range target.Refused() {
				results[i].Troubles = append(results[i].Troubles, lifecycle.Trouble{Target: target.Info().Name, Stage: lifecycle.StageGuard, Err: err})
			}
		}
	}
	return results
}

// level is how far the rehearsal of a certificate came with its CA; without a CA nobody is asked.
func (r *rehearsal) level(cert string) lifecycle.Level {
	if issuer, ok := r.issuers[cert]; ok && issuer.Level != "" {
		return issuer.Level
	}
	return lifecycle.Planned
}

func (r *rehearsal) close() {
	for _, client := range r.clients {
		client.Close()
	}
}

// firstHost is the first name that can be sent as SNI, or empty: an address cannot (RFC 6066 section 3).
func firstHost(names []string) string {
	for _, name := range names {
		if !certstore.IsAddress(name) {
			return name
		}
	}
	return ""
}

// public puts certificates where anybody on this host may read them.
type public struct {
	fsys world.FS
	dir  string
}

func (p public) IsPublished(cert string, chain []byte) bool {
	have, err := p.fsys.ReadFile(filepath.Join(p.dir, cert+".pem"))
	return err == nil && bytes.Equal(have, chain)
}

func (p public) Publish(cert string, chain []byte) error {
	if err := p.fsys.MkdirAll(filepath.Dir(p.dir), 0o711); err != nil {
		return err
	}
	if err := p.fsys.MkdirAll(p.dir, 0o755); err != nil {
		return err
	}
	if err := world.Sweep(p.fsys, p.dir); err != nil {
		return err
	}
	return p.fsys.Replace(filepath.Join(p.dir, cert+".pem"), chain, 0o644)
}
