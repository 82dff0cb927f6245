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

	"github.com/urfave/cli/v2"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

type checkJSON struct {
	Schema int         `json:"schema"`
	Node   string      `json:"node"`
	OK     bool        `json:"ok"`
	Checks []checkItem `json:"checks"`
}

type checkItem struct {
	Code     string     `json:"code"`
	State    checkState `json:"state"`
	Summary  string     `json:"summary"`
	Evidence string     `json:"evidence"`
	Fix      string     `json:"fix"`
}

type checkState string

const (
	checkOK   checkState = "ok"
	checkWarn checkState = "warn"
	checkFail checkState = "fail"
)

func (a *app) checkCommand() *cli.Command {
	return a.command(cli.Command{
		Name: "check", Usage: "preflight: what a renewal needs, each with its evidence and what to do; changes nothing",
		Flags: []cli.Flag{jsonFlag()}, Action: a.check,
	})
}

func (a *app) check(c *cli.Context) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	ctx, cancel := context.WithTimeout(c.Context, time.Minute)
	defer cancel()
	doc := checkJSON{Schema: schema, Node: config.Node, OK: true, Checks: checks(ctx, p)}
	for _, item := range doc.Checks {
		doc.OK = doc.OK && item.State != checkFail
		if !c.Bool("json") {
			fmt.Fprintf(a.stdout, "%-4s  %-12s %s\n", item.State, item.Code, item.Summary)
			if item.State != checkOK && item.Fix != "" {
				fmt.Fprintf(a.stdout, "      %-12s fix: %s\n", "", item.Fix)
			}
		}
	}
	if c.Bool("json") {
		if err := writeJSON(a.stdout, doc); err != nil {
			return err
		}
	}
	return attentionUnless(doc.OK)
}

// checks asks everything that can be asked without changing anything.
func checks(ctx context.Context, p *assembly) []checkItem {
	items := []checkItem{
		item("config", "the configuration is valid", fmt.Sprintf("%d certificate(s)", len(p.config.Certificates)), nil),
		item("store", "the store can be written", p.config.Store.Path, p.store.Writable(ctx)),
		item("public", "the public certificates can be written", filepath.Join(p.config.StateDir, "public"),
			p.fsys.Writable(filepath.Join(p.config.StateDir, "public"))),
	}
	for _, name := range slices.Sorted(maps.Keys(p.clients)) {
		issuer := p.config.Issuers[name]
		items = append(items, checkCA(ctx, p, name, issuer)...)
		items = append(items, checkChallenges(ctx, p, name, issuer)...)
	}
	for _, cert := range p.engine.Certificates {
		view, err := p.engine.Look(ctx, cert)
		items = append(items, item("certificate", certificateWords(view), cert.Name, err))
		if err != nil {
			continue
		}
		for _, warning := range view.Warnings {
			items = append(items, warn("certificate", warning, cert.Name, ""))
		}
		if changes := newChangesJSON(view).String(); changes != "" {
			items = append(items, warn("changes", "the next certificate's names differ from those that are served: "+changes, cert.Name, "if that is not what you want, mend the certificate's names"))
		}
		for i := range cert.Targets {
			items = slices.Concat(items, checkGuards(ctx, p, view, cert, i), checkServed(view, cert.Targets[i], view.State.Targets[i]))
		}
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
func checkGuards(ctx context.Context, p *assembly, view lifecycle.View, cert lifecycle.Certificate, i int) []checkItem {
	var items []checkItem
	target, accept := cert.Targets[i], maasconfig.Accept{}
	for _, guard := range target.Guards(p.engine.Want(view, target, accept)) {
		evidence, err := guard.Ask(ctx)
		one := item(guard.Code, guard.Promise, evidence, err)
		if err != nil && guard.Advice || isFirstEnabling(err) && !view.State.WasTold(view.State.Targets[i]) {
			one.State = checkWarn
		}
		if err != nil || !guard.Advice {
			items = append(items, one)
		}
		if isFirstEnabling(err) {
			accept[maasconfig.FirstEnable] = true
			if evidence, err := guard.Ask(ctx); err != nil {
				items = append(items, item(guard.Code, "", evidence, err))
			}
		}
		if guard.First && err != nil {
			break
		}
	}
	return items
}

func item(code, summary, evidence string, err error) checkItem {
	i := checkItem{Code: code, State: checkOK, Evidence: evidence}
	if summary != "" {
		i.Summary = oneLine(errors.New(summary)) // parts of it may come from outside
	}
	if err != nil {
		i.State, i.Summary, i.Evidence, i.Fix = checkFail, oneLine(err), evidence, hint.Of(err)
	}
	return i
}

func isFirstEnabling(err error) bool {
	var refusal *maasconfig.Refusal
	return errors.As(err, &refusal) && refusal.Code == maasconfig.FirstEnable
}

func checkCA(ctx context.Context, p *assembly, name string, issuer config.Issuer) []checkItem {
	directory := issuer.Directory
	meta, err := p.clients[name].Requirements(ctx)
	items := []checkItem{item("directory", "the CA answers", directory, err)}
	if err != nil {
		return items
	}
	if issuer.Profile == "" && len(meta.Profiles) > 0 {
		items = append(items, item("profile", "the CA chooses among its profiles: "+strings.Join(slices.Sorted(maps.Keys(meta.Profiles)), ", "), directory, nil))
	}
	if issuer.Profile != "" {
		items = append(items, item("profile", "the CA has the profile", issuer.Profile, acme.CheckProfile(issuer.Profile, meta.Profiles)))
	}
	account, _, err := certstore.LoadAccount(ctx, p.store)
	if account.NextKey != "" {
		items = append(items, warn("account", "the account's key is being replaced, and not every CA has the new one", directory, "maascert account rollover goes on with that"))
	}
	items = append(items, item("account", accountWords(account, directory), account.Registrations[directory].URL, err))
	if at, registered := account.Registrations[directory]; registered {
		if at.Terms != "" && meta.Terms != "" && at.Terms != meta.Terms {
			items = append(items, warn("terms", "the CA's terms of service changed since the account was registered: "+meta.Terms, at.Terms, "read them"))
		}
		return items
	}
	if meta.ExternalAccount && issuer.External() == nil {
		items = append(items, item("external-account", "", directory,
			hint.Add(acme.ErrExternalAccount, "set acme.eab to what the CA's operator gave you")))
	}
	if meta.Terms != "" && !issuer.AcceptTerms {
		items = append(items, item("terms", "", meta.Terms, hint.Add(errors.New("the CA's terms of service are not accepted: "+meta.Terms),
			"read them, then set acme.accept_terms: true")))
	}
	return items
}

// checkChallenges gets ready, for a moment, to prove the names that a CA is asked for, and looks whether the proof can be
// seen and the CA may look for it.
func checkChallenges(ctx context.Context, p *assembly, issuer string, config config.Issuer) []checkItem {
	var names, ways []string
	for _, cert := range p.config.Certificates {
		if cert.Issuer == issuer {
			names = append(names, cert.Names...)
		}
	}
	for _, name := range names {
		ways = append(ways, config.ChallengeFor(name).String())
	}
	slices.Sort(ways)
	client, evidence := p.clients[issuer], strings.Join(slices.Compact(ways), ", ")
	unseen, err := client.CheckAnswers(ctx, names)
	summary := "challenges can be answered"
	if slices.ContainsFunc(names, func(name string) bool { return config.ChallengeFor(name).Type == "dns-01" }) {
		summary += "; whether the DNS provider takes records, only a rehearsal tells"
	}
	items := []checkItem{item("challenge", summary, evidence, err)}
	for _, name := range slices.Sorted(maps.Keys(unseen)) {
		fix := "the CA connects to port 80 of this name: lead it here, or answer there (maascert respond, maascert account snippet)"
		if !certstore.IsAddress(name) {
			fix += ", or prove it by dns-01"
		}
		items = append(items, warn("reachable", "the answer to a challenge is not seen at "+name+", port 80: "+unseen[name], name, fix))
	}
	asked := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return config.ChallengeFor(name).Type != "http-01" })
	if err == nil && len(unseen) == 0 && len(asked) > 0 {
		items = append(items, item("reachable", "the answer to a challenge is seen under every name", strings.Join(asked, ", "), nil))
	}
	forbidden, err := client.CheckCAA(ctx, names)
	if err != nil {
		return items // the directory's own check says it
	}
	for _, name := range slices.Sorted(maps.Keys(forbidden)) {
		items = append(items, warn("caa", forbidden[name], name, "dig CAA "+name+"; have the zone's CAA records allow this CA and this account, or its servers answer"))
	}
	return items
}

func warn(code, summary, evidence, fix string) checkItem {
	return checkItem{Code: code, State: checkWarn, Summary: oneLine(errors.New(summary)), Evidence: evidence, Fix: fix}
}

func accountWords(account certstore.Account, directory string) string {
	if _, ok := account.Registrations[directory]; ok {
		return "the ACME account is registered"
	}
	return "the ACME account is made by the first renewal"
}

// checkServed judges what every endpoint serves. Before a certificate of ours was ever served there, what is there now is
// only told; after that anything else needs attention.
func checkServed(view lifecycle.View, target maasconfig.Target, t lifecycle.TargetState) []checkItem {
	var items []checkItem
	var good []string
	ours := view.State.Current != nil && view.State.WasTold(t)
	for _, e := range t.Endpoints {
		one := checkItem{Code: "endpoints", State: checkFail, Summary: line(e.String()), Evidence: line(e.Observed())}
		switch {
		case e.IsTrusted():
			good = append(good, e.Address)
			continue
		case e.State == maasconfig.Unknown:
			one.Fix = "is this region up, and is the port open from here?"
		case e.State == maasconfig.None && ours:
			one.Fix = "TLS is off there: was it switched off (maas config-tls disable), or does nginx not run?"
		case ours:
			one.Fix = "maascert renew brings ours there, unless somebody's good certificate is everywhere: that takes --force; where it is ours and not trusted, check acme.issuer_root"
		default:
			one.State, one.Fix = checkOK, ""
		}
		if !ours && e.State == maasconfig.Unknown {
			one.State = checkWarn
		}
		if !ours && len(e.Certs) > 0 && e.Distrust != nil {
			one.State, one.Summary = checkWarn, line(fmt.Sprintf("%s, and clients do not trust it: %v", e, e.Distrust))
		}
		items = append(items, one)
	}
	if len(good) > 0 {
		items = append(items, item("endpoints", "the certificate is served and trusted", strings.Join(good, ", "), nil))
	}
	if unseen := target.Info().Unseen; unseen != nil {
		items = append(items, warn("endpoints", unseen.Error(), "", hint.Of(unseen)))
	}
	return items
}
