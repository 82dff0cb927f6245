package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/maasconfig"
)

func (a *app) checkCommand() *cobra.Command {
	return a.command(spec{
		name: "check", group: looking, short: "preflight: what a renewal needs, each with its evidence and what to do; changes nothing",
		options: []option{durationOption("hold", 0, "then answer challenges for `D`, as while a CA looks, so that one can look from where it is"), a.certsOption(), jsonOption()}, action: a.check,
	})
}

func (a *app) check(c *call) error {
	p, isChosen, err := a.assembleChosen(c)
	if err != nil {
		return err
	}
	defer p.close()
	doc := report.NewChecklist(p.config.Node, checks(c.Context, p, isChosen))
	shown := a.show(doc, c.isOn("json"), doc.OK)
	if hold := c.duration("hold"); hold > 0 {
		if err := a.holdAnswers(c.Context, p, isChosen, hold); err != nil {
			a.complain(fmt.Errorf("hold: %w", err))
			return outcome(exitAttention)
		}
	}
	return shown
}

// holdAnswers answers challenges for all names of some certificates for a while, and says where.
func (a *app) holdAnswers(ctx context.Context, p *assembly, isChosen func(cert string) bool, hold time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, hold)
	defer cancel()
	var group errgroup.Group
	for name, client := range p.clients {
		var names []string
		for _, cert := range p.engine.Certificates {
			if isChosen(cert.Name) && p.config.Certificate(cert.Name).Issuer == name {
				names = append(names, lookAt(ctx, p, cert).names()...)
			}
		}
		if len(names) == 0 {
			continue
		}
		group.Go(func() error {
			return client.HoldAnswers(ctx, names, func(address, answer string) {
				fmt.Fprintf(a.stderr, "for %v: curl -i %s\n  has to print %s\n", hold, address, answer)
			})
		})
	}
	return group.Wait()
}

// checkTime bounds the questions about what all certificates share, about one certificate, and about one target of it. Each has its
// own, so that one that takes all its time leaves the others theirs.
const checkTime = time.Minute

// checks asks everything that can be asked about some certificates without changing anything.
func checks(ctx context.Context, p *assembly, isChosen func(cert string) bool) []report.Item {
	var looks []look
	for _, cert := range p.engine.Certificates {
		if isChosen(cert.Name) {
			looks = append(looks, lookAt(ctx, p, cert))
		}
	}
	items := checkShared(ctx, p, looks)
	for _, one := range looks {
		items = slices.Concat(items, checkCertificate(ctx, p, one), checkForMAAS(ctx, p, one), checkFleet(ctx, p, one))
	}
	return items
}

// look is a certificate as it was found, or why it was not.
type look struct {
	cert lifecycle.Certificate
	view lifecycle.View
	err  error
}

func lookAt(ctx context.Context, p *assembly, cert lifecycle.Certificate) look {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	view, err := p.engine.Look(ctx, cert)
	return look{cert, view, err}
}

// names are those of the next certificate, and those that it may have, which nobody has proven yet.
func (l look) names() []string {
	added, _ := l.view.Drift()
	return slices.Concat(l.view.Plan.Names, added)
}

func checkShared(ctx context.Context, p *assembly, looks []look) []report.Item {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	items := []report.Item{
		report.Asked("config", "the configuration is valid", fmt.Sprintf("%d certificate(s)", len(p.config.Certificates)), nil),
		report.Asked("store", "the store can be written", p.config.Store.Place(), p.store.Writable(ctx)),
		report.Asked("public", "the public certificates can be written", filepath.Join(p.config.StateDir, "public"),
			hint.Add(p.fsys.Writable(filepath.Join(p.config.StateDir, "public")), "run maascert as root, or have that folder belong to its user")),
	}
	items = slices.Concat(items, checkLeftovers(ctx, p), checkHooks(p), checkVault(ctx, p), checkSecrets(p), checkNotifiers(p), checkAPI(ctx, p, looks), checkHost(ctx, p))
	for _, name := range slices.Sorted(maps.Keys(p.clients)) {
		var names []string
		isUsed := false
		for _, one := range looks {
			if p.config.Certificate(one.cert.Name).Issuer == name {
				names, isUsed = append(names, one.names()...), true
			}
		}
		if !isUsed && len(looks) < len(p.engine.Certificates) {
			continue
		}
		issuer := p.config.Issuers[name]
		items = append(items, checkCA(ctx, p, name, issuer)...)
		items = append(items, checkChallenges(ctx, p.clients[name], issuer, names)...)
	}
	return items
}

// checkHooks tells that renewals are not rehearsed where programs are run around the answers.
func checkHooks(p *assembly) []report.Item {
	var items []report.Item
	for _, name := range slices.Sorted(maps.Keys(p.config.Issuers)) {
		hasHooks := slices.ContainsFunc(p.config.Issuers[name].Ways(), func(way config.Challenge) bool { return way.HasHooks() })
		if hasHooks && !p.config.RehearseHooks {
			items = append(items, report.Warning("rehearse", "the daemon does not rehearse renewals at this CA, because programs are run around its challenges", p.config.Issuers[name].Directory,
				"maascert renew --dry-run runs them; rehearse_hooks: true has the daemon do that too"))
		}
	}
	return items
}

// checkLeftovers finds certificates that the store keeps, key and all, and no configuration of this host names any more.
func checkLeftovers(ctx context.Context, p *assembly) []report.Item {
	// A store that cannot be read is told of elsewhere.
	kept, _ := p.store.List(ctx, "state")
	var items []report.Item
	for _, name := range kept {
		if p.config.Certificate(name).Name == "" {
			items = append(items, report.Warning("leftover", fmt.Sprintf("the store keeps a certificate %s, key and all, that this configuration does not name", name), name,
				"if it was renamed or is not wanted any more: maascert delete "+name))
		}
	}
	return items
}

func checkCertificate(ctx context.Context, p *assembly, l look) []report.Item {
	view, cert := l.view, l.cert
	items := []report.Item{report.Asked("certificate", certificateWords(view), cert.Name, l.err)}
	if l.err != nil {
		return items
	}
	if cert.Issuer == nil {
		items = append(items, report.Warning("issuer", "no CA is configured: what a person brings in is deployed and watched", cert.Name, "maascert deploy --cert FILE --key FILE; or name a CA in the section acme:"))
	}
	items = append(items, checkNames(view, cert)...)
	if doubt := view.LastingDoubt(); doubt != nil {
		items = append(items, report.Asked("doubt", "", cert.Name, doubt))
	}
	for _, trouble := range view.Troubles(cert) {
		if trouble.Stage == lifecycle.StageConfig {
			items = append(items, report.Asked("window", "", cert.Name, trouble.Err))
		}
	}
	for _, warning := range view.Warnings {
		items = append(items, report.Warning("certificate", warning, cert.Name, ""))
	}
	if changes := report.ChangesOf(view).String(); changes != "" {
		items = append(items, report.Warning("changes", "the next certificate's names differ from those that are served: "+changes, cert.Name, "if that is not what you want, mend the certificate's names"))
	}
	for i := range cert.Targets {
		about := slices.Concat(checkGuards(ctx, p, view, cert, i), checkServed(view, cert.Targets[i], view.State.Targets[i]))
		for j := range about {
			about[j].Target = cert.Targets[i].Info().Name
		}
		items = append(items, about...)
	}
	return items
}

func certificateWords(v lifecycle.View) string {
	switch {
	case v.State.Current != nil:
		return fmt.Sprintf("version %d can be read", v.Version())
	case v.State.Record.Current != 0:
		return fmt.Sprintf("version %d cannot be read; the next renewal orders another", v.State.Record.Current)
	default:
		return "there is none yet"
	}
}

// checkGuards asks what a renewal would ask. A first enabling that nobody asked for yet is a warning, and what else it
// would meet is asked as well.
func checkGuards(ctx context.Context, p *assembly, view lifecycle.View, cert lifecycle.Certificate, i int) []report.Item {
	ctx, cancel := context.WithTimeout(ctx, checkTime)
	defer cancel()
	var items []report.Item
	target, accept := cert.Targets[i], maasconfig.Accept{}
	for _, guard := range target.Guards(p.engine.Want(view, target, accept)) {
		evidence, err := guard.Ask(ctx)
		one := report.Asked(guard.Code, guard.Promise, evidence, err)
		if err != nil && guard.Advice || isFirstEnabling(err) && !view.State.WasTold(view.State.Targets[i]) {
			one.State = report.CheckWarn
		}
		if err != nil || !guard.Advice {
			items = append(items, one)
		}
		if isFirstEnabling(err) {
			accept[maasconfig.FirstEnable] = true
			if evidence, err := guard.Ask(ctx); err != nil {
				items = append(items, report.Asked(guard.Code, "", evidence, err))
			}
		}
		if guard.First && err != nil {
			break
		}
	}
	return items
}

func isFirstEnabling(err error) bool {
	var refusal *maasconfig.Refusal
	return errors.As(err, &refusal) && refusal.Code == maasconfig.FirstEnable
}

func checkCA(ctx context.Context, p *assembly, name string, issuer config.Issuer) []report.Item {
	directory := issuer.Directory
	meta, err := p.clients[name].Requirements(ctx)
	items := []report.Item{report.Asked("directory", "the CA answers", directory, err)}
	if err != nil {
		return items
	}
	if issuer.Profile == "" && len(meta.Profiles) > 0 {
		items = append(items, report.Asked("profile", "the CA chooses among its profiles: "+strings.Join(slices.Sorted(maps.Keys(meta.Profiles)), ", "), directory, nil))
	}
	if issuer.Profile != "" {
		items = append(items, report.Asked("profile", "the CA has the profile", issuer.Profile, acme.CheckProfile(issuer.Profile, meta.Profiles)))
	}
	if skew, known := p.clients[name].Skew(); known && skew.Abs() >= clockPatience {
		words := fmt.Sprintf("this host's clock is %v behind the CA's", skew)
		if skew < 0 {
			words = fmt.Sprintf("this host's clock is %v ahead of the CA's", -skew)
		}
		item := report.Warning("clock", words, directory, "set the clock (timedatectl), or mend the CA's")
		if skew.Abs() > acme.MaxClock {
			item.State = report.CheckFail // nothing is ordered
		}
		items = append(items, item)
	}
	account, _, err := certstore.LoadAccount(ctx, p.store)
	if account.NextKey != "" {
		items = append(items, report.Warning("account", "the account's key is being replaced, and not every CA has the new one", directory, "maascert account rollover goes on with that"))
	}
	items = append(items, report.Asked("account", accountWords(account, directory), account.Registrations[directory].URL, err))
	if at, registered := account.Registrations[directory]; registered {
		if at.Terms != "" && meta.Terms != "" && at.Terms != meta.Terms {
			items = append(items, report.Warning("terms", "the CA's terms of service changed since the account was registered: "+meta.Terms, at.Terms, "read them"))
		}
		if at.Contact != "" && issuer.Email != "" && at.Contact != issuer.Email {
			items = append(items, report.Warning("contact", fmt.Sprintf("the CA was told of %s, and the configuration has %s", at.Contact, issuer.Email), directory, "maascert account update"))
		}
		return items
	}
	if meta.ExternalAccount && issuer.External() == nil {
		items = append(items, report.Asked("external-account", "", directory,
			hint.Add(acme.ErrExternalAccount, "set acme.eab to what the CA's operator gave you")))
	}
	if meta.Terms != "" && !issuer.AcceptTerms {
		items = append(items, report.Asked("terms", "", meta.Terms, hint.Add(errors.New("the CA's terms of service are not accepted: "+meta.Terms),
			"read them, then set acme.accept_terms: true")))
	}
	return items
}

// clockPatience is by how much a host's clock may differ from the CA's before check says so.
const clockPatience = 10 * time.Second

// checkChallenges gets ready, for a moment, to prove the names that a CA is asked for, and looks whether the proof can be
// seen and the CA may look for it.
func checkChallenges(ctx context.Context, client *acme.Client, config config.Issuer, names []string) []report.Item {
	var ways []string
	for _, name := range names {
		ways = append(ways, config.ChallengeFor(name).String())
	}
	slices.Sort(ways)
	evidence := strings.Join(slices.Compact(ways), ", ")
	unseen, err := client.CheckAnswers(ctx, names)
	summary := "challenges can be answered"
	if slices.ContainsFunc(names, func(name string) bool { return config.ChallengeFor(name).Type == "dns-01" }) {
		summary += "; whether the DNS provider takes records, only a rehearsal tells"
	}
	items := []report.Item{report.Asked("challenge", summary, evidence, err)}
	for _, name := range slices.Sorted(maps.Keys(unseen)) {
		fix := "the CA connects to port 80 of this name: lead it here, or answer there (maascert respond, maascert account snippet)"
		if !certstore.IsAddress(name) {
			fix += ", or prove it by dns-01"
		}
		items = append(items, report.Warning("reachable", "the answer to a challenge is not seen at "+name+", port 80: "+unseen[name], name, fix))
	}
	asked := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return config.ChallengeFor(name).Type != "http-01" })
	if err == nil && len(unseen) == 0 && len(asked) > 0 {
		items = append(items, report.Asked("reachable", "the answer to a challenge is seen under every name", strings.Join(asked, ", "), nil))
	}
	forbidden, err := client.CheckCAA(ctx, names)
	if err != nil {
		return items // the directory's own check says it
	}
	for _, name := range slices.Sorted(maps.Keys(forbidden)) {
		items = append(items, report.Warning("caa", forbidden[name], name, "dig CAA "+name+"; have the zone's CAA records allow this CA and this account, or its servers answer"))
	}
	return items
}

func accountWords(account certstore.Account, directory string) string {
	if _, ok := account.Registrations[directory]; ok {
		return "the ACME account is registered"
	}
	return "the ACME account is made by the first renewal"
}

// checkServed judges what every endpoint serves. Before a certificate of ours was ever served there, what is there now is
// only told; after that anything else needs attention.
func checkServed(view lifecycle.View, target maasconfig.Target, t lifecycle.TargetState) []report.Item {
	var items []report.Item
	var good []string
	ours := view.State.Current != nil && view.State.WasTold(t)
	for _, e := range t.Endpoints {
		one := report.Item{Code: "endpoints", State: report.CheckFail, Summary: printable.Text(e.String()), Evidence: printable.Text(e.Observed())}
		switch {
		case e.IsTrusted():
			good = append(good, e.Address)
			continue
		case !target.Info().Shared && (e.State == maasconfig.Unknown || ours && (e.State == maasconfig.None || e.Fleeting != nil)):
			one.Fix = e.Served.Remedy
		case e.State == maasconfig.Unknown:
			one.Fix = "is this region up, and is the port open from here?"
		case e.State == maasconfig.None && ours:
			one.Fix = "TLS is off there: was it switched off (maas config-tls disable), or does nginx not run?"
		case ours:
			one.Fix = "maascert renew brings ours there, unless somebody's good certificate is everywhere: that takes --accept foreign; where it is ours and not trusted, check acme.issuer_root"
		default:
			one.State, one.Fix = report.CheckOK, ""
		}
		if !ours && e.State == maasconfig.Unknown {
			one.State = report.CheckWarn
		}
		if !ours && len(e.Certs) > 0 && e.Distrust != nil {
			one.State, one.Summary = report.CheckWarn, printable.Text(fmt.Sprintf("%s, and clients do not trust it: %v", e, e.Distrust))
		}
		items = append(items, one)
	}
	if len(good) > 0 {
		items = append(items, report.Asked("endpoints", fmt.Sprintf("clients trust what they get from %d of %d endpoints", len(good), len(t.Endpoints)), strings.Join(good, ", "), nil))
	}
	if unseen := target.Info().Unseen; unseen != nil {
		items = append(items, report.Warning("endpoints", unseen.Error(), "", hint.Of(unseen)))
	}
	return items
}
