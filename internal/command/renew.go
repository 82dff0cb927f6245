package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/maasconfig"
)

func (a *app) renewCommand() *cobra.Command {
	return a.command(spec{
		name: "renew", group: acting,
		short: "one pass: obtain what is due, deploy what is not served, verify",
		long: "With --dry-run the pass is rehearsed, issuance and deployment included, whether due or not; it prints the exact\n" +
			"command that would run and what a real pass would do, and changes nothing on disk, in the CA's issued\ncertificates, or in MAAS.",
		options: []option{
			switchOption("dry-run", "rehearse; change nothing"),
			a.certsOption(),
			switchOption("force", "obtain although nothing is due and despite a back-off; overrides no guard and no Retry-After"),
			enableOption(),
			a.acceptOption(maasconfig.Codes...), waitOption(), jsonOption(),
		},
		action: a.renew,
	})
}

func (a *app) renew(c *call) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	options.Certificates, options.Force, options.ByHand = c.list("cert"), c.isOn("force"), true
	if c.isOn("enable-tls") {
		options.Accept[maasconfig.FirstEnable] = true
	}
	p, isChosen, err := a.assembleChosen(c)
	if err != nil {
		return err
	}
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	for _, cert := range p.engine.Certificates {
		if options.Force && isChosen(cert.Name) && cert.Issuer == nil {
			return hint.Add(fmt.Errorf("--force: the configuration has no CA for %s", cert.Name), "maascert deploy --cert FILE --key FILE brings in a certificate from elsewhere")
		}
	}
	if c.isOn("dry-run") {
		return a.rehearse(c.Context, p, options, c.isOn("json"))
	}
	if options.Accept[maasconfig.KeysLost] {
		if err := certstore.AcceptLostKeys(c.Context, p.store); err != nil {
			return err
		}
	}
	results := a.pass(c.Context, p.engine, options)
	if a.shouldEnable(results, c.isOn("json")) {
		options.Accept[maasconfig.FirstEnable] = true
		results = a.passAgain(c, p, options, results)
	}
	written := a.write(report.NewRenewal(results), c.isOn("json"))
	a.complainAll(results)
	a.endPass(c.Context, p, results)
	if written != nil {
		return written
	}
	if !c.isOn("json") {
		a.printUnattended(c.Context, p, results)
	}
	return exitOf(results)
}

// passAgain makes another pass over the certificates that a first enabling stopped, to which a person has agreed. What the pass
// before obtained, for targets that did not refuse, is told, and not ordered once more.
func (a *app) passAgain(c *call, p *assembly, options lifecycle.Options, results []lifecycle.Result) []lifecycle.Result {
	for i, r := range results {
		if !isStoppedByFirstEnabling(r) {
			continue
		}
		again := options
		again.Certificates, again.Force = []string{r.Name}, options.Force && !r.Obtained
		if r.Obtained { // nobody is asked who wants JSON
			report.NewRenewed(r).Words(a.words)
		}
		results[i] = a.pass(c.Context, p.engine, again)[0]
		results[i].Changed = results[i].Changed || r.Changed
		results[i].Requests += r.Requests
	}
	return results
}

func isStoppedByFirstEnabling(r lifecycle.Result) bool {
	return slices.ContainsFunc(r.Troubles, func(t lifecycle.Trouble) bool {
		var refusal *maasconfig.Refusal
		return errors.As(t.Err, &refusal) && refusal.IsFirst
	})
}

// warnAll writes what is not as it should be and does not change an outcome.
func (a *app) warnAll(warnings []error) {
	for _, warning := range warnings {
		fmt.Fprintf(a.complaints, "maascert: warning: %s\n", printable.Error(warning))
	}
}

// printUnattended says, after something was made so by hand, when nothing will look after it.
func (a *app) printUnattended(ctx context.Context, p *assembly, results []lifecycle.Result) {
	if !slices.ContainsFunc(results, func(r lifecycle.Result) bool { return r.Changed && len(r.Troubles) == 0 }) {
		return
	}
	nodes, err := certstore.LoadNodes(ctx, p.store, a.now())
	if err != nil {
		return
	}
	if words := report.Unattended(nodes, lifecycle.SilenceOf(p.engine.Period, lifecycle.Views(results)...), a.now()); words != "" {
		fmt.Fprintln(a.words, words)
	}
}

// passOptions are those that all commands have that make a pass.
func passOptions(c *call) (lifecycle.Options, error) {
	options := lifecycle.Options{Wait: c.duration("wait"), Accept: maasconfig.Accept{}}
	for _, code := range c.list("accept") {
		if !slices.Contains(maasconfig.Codes, code) {
			return options, fmt.Errorf("--accept: there is no guard %q; there are: %s", code, strings.Join(maasconfig.Codes, ", "))
		}
		options.Accept[code] = true
	}
	if options.Wait < 0 {
		return options, errors.New("--wait: a duration cannot be negative")
	}
	return options, nil
}

// shouldEnable asks, on a terminal, whether to enable TLS for the first time, when that is what stopped a pass.
func (a *app) shouldEnable(results []lifecycle.Result, quiet bool) bool {
	stopped := slices.ContainsFunc(results, isStoppedByFirstEnabling)
	if !stopped || quiet || !a.isTerminal() {
		return false
	}
	fmt.Fprint(a.stderr, "MAAS does not serve TLS yet. Once it does, browsers refuse to go back to HTTP. Enable it now? [y/N] ")
	answer, err := bufio.NewReader(io.LimitReader(a.stdin, 100)).ReadString('\n')
	return err == nil && strings.EqualFold(strings.TrimSpace(answer), "y")
}

// complainAll writes what went wrong, each with its certificate and stage, and what is worth a warning.
func (a *app) complainAll(results []lifecycle.Result) {
	for _, r := range results {
		for _, warning := range slices.Concat(r.Warnings, r.After.Warnings) {
			fmt.Fprintf(a.complaints, "maascert: warning: %s: %s\n", r.Name, printable.Text(warning))
		}
		for _, t := range r.WorstAtEach() {
			a.complain(fmt.Errorf("%s: %s: %w", r.Name, t.Stage, t))
		}
	}
}

// exitOf is the worst of several certificates: something that could not be made so is worse than not now.
func exitOf(results []lifecycle.Result) error {
	code := exitOK
	for _, r := range results {
		switch {
		case r.Healthy():
		case !r.IsNotNow():
			code = exitAttention
		case code == exitOK:
			code = exitNotNow
		}
	}
	if code == exitOK {
		return nil
	}
	return outcome(code)
}

// rehearse looks at what a real pass would do, and then has the engine do it with harmless parts, whether due or not.
func (a *app) rehearse(ctx context.Context, p *assembly, options lifecycle.Options, asJSON bool) error {
	would, busy := map[string]lifecycle.View{}, map[string]bool{}
	for _, cert := range p.engine.Certificates {
		view, err := p.engine.LookFor(ctx, cert, options)
		if err != nil {
			a.complain(fmt.Errorf("%s: %s: %w", cert.Name, lifecycle.StageLook, err))
			return outcome(exitAttention)
		}
		would[cert.Name] = view
		busy[cert.Name] = view.State.Record.Order != nil || view.State.Record.Attempt != nil
	}
	r := p.rehearsal(busy)
	defer r.close()
	options.Force = true
	results := r.withRefusals(a.pass(ctx, r.engine, options))
	doc := report.NewRehearsal()
	for i, result := range results {
		results[i].After.Warnings = would[result.Name].Warnings // not those of what was rehearsed with
		var commands []world.Command
		var writes []string
		for _, target := range r.targets[result.Name] {
			commands, writes = append(commands, target.Commands()...), append(writes, target.Writes()...)
		}
		doc.Add(result, would[result.Name], r.level(result.Name), commands, writes)
	}
	if err := a.write(doc, asJSON); err != nil {
		return err
	}
	a.complainAll(results)
	return exitOf(results)
}
