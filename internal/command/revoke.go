package command

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

func (a *app) revokeCommand() *cli.Command {
	return a.command(cli.Command{
		Name:  "revoke",
		Usage: "obtains, deploys and verifies a replacement, then has the CA revoke the certificate that was in use",
		Description: "When the replacement fails, nothing is revoked yet; every later pass, the daemon's too, goes on with it.\n" +
			"With --first the CA is told at once: for a key that others have.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "cert", Usage: "the certificate called `NAME`; needed where there are several"},
			&cli.StringFlag{Name: "reason", Value: "superseded", Usage: "what the CA is told: `R` is one of " + strings.Join(reasons(), ", ")},
			&cli.BoolFlag{Name: "first", Usage: "revoke at once, before there is a replacement"},
			acceptFlag(), waitFlag(),
		},
		Action: a.revoke,
	})
}

func reasons() []string { return slices.Sorted(maps.Keys(acme.Reasons)) }

func (a *app) revoke(c *cli.Context) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	reason, ok := acme.Reasons[c.String("reason")]
	if !ok {
		return fmt.Errorf("--reason: %q is none of %s", c.String("reason"), strings.Join(reasons(), ", "))
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	name := c.String("cert")
	if name == "" && len(config.Certificates) == 1 {
		name = config.Certificates[0].Name
	}
	if name == "" {
		return hint.Add(errors.New("revoke: there are several certificates"), "name one: maascert revoke --cert NAME; the configuration has: %s", certificateList(config))
	}
	if config.Certificate(name).Name == "" {
		return hint.Add(fmt.Errorf("revoke: there is no certificate %q", name), "maascert revoke --cert NAME; the configuration has: %s", certificateList(config))
	}
	p := a.assemble(config)
	defer p.close()
	cert := p.engine.Certificates[slices.IndexFunc(p.engine.Certificates, func(cert lifecycle.Certificate) bool { return cert.Name == name })]
	version, err := p.engine.AskRevocation(c.Context, cert, reason, c.Bool("first"), options.Wait)
	if err != nil {
		a.complain(fmt.Errorf("%s: revoke: %w", name, err))
		if errors.Is(err, certstore.ErrLocked) || acme.IsRateLimited(err) {
			return outcome(exitNotNow)
		}
		return outcome(exitAttention)
	}
	if c.Bool("first") {
		fmt.Fprintf(a.stdout, "%s: the CA revoked version %d\n", name, version.Number)
	}
	options.Certificates, options.ByHand = []string{name}, true
	results := p.engine.Pass(c.Context, options)
	untold := p.writeDown(c.Context, passEnd{results: results})
	for _, r := range results {
		report.NewRenewed(r).Words(a.stdout)
	}
	a.complainAll(results)
	a.warnUntold(results, untold)
	return exitOf(results)
}
