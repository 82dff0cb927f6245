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
	"maascert/internal/config"
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
	name, err := oneCertificate(config, "revoke", "cert", c.String("cert"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	cert := p.certificate(name)
	version, err := p.engine.AskRevocation(c.Context, cert, reason, c.Bool("first"), options.Wait)
	if err != nil {
		return a.refused(name, "revoke", err)
	}
	if c.Bool("first") {
		fmt.Fprintf(a.stdout, "%s: the CA revoked version %d\n", name, version.Number)
	}
	return a.passOver(c, p, name, options)
}

// oneCertificate is the certificate that a command is for: the one that a flag names, or the only one.
func oneCertificate(config *config.Config, command, flag, name string) (string, error) {
	if name == "" && len(config.Certificates) == 1 {
		return config.Certificates[0].Name, nil
	}
	if name == "" {
		return "", hint.Add(fmt.Errorf("%s: there are several certificates", command), "name one: maascert %s --%s NAME; the configuration has: %s", command, flag, certificateList(config))
	}
	if config.Certificate(name).Name == "" {
		return "", hint.Add(fmt.Errorf("%s: there is no certificate %q", command, name), "maascert %s --%s NAME; the configuration has: %s", command, flag, certificateList(config))
	}
	return name, nil
}

// refused says why a command did nothing, and ends it.
func (a *app) refused(cert, command string, err error) error {
	a.complain(fmt.Errorf("%s: %s: %w", cert, command, err))
	if errors.Is(err, certstore.ErrLocked) || acme.IsRateLimited(err) {
		return outcome(exitNotNow)
	}
	return outcome(exitAttention)
}

// passOver makes a pass over one certificate, as a person who asked for it.
func (a *app) passOver(c *cli.Context, p *assembly, name string, options lifecycle.Options) error {
	options.Certificates, options.ByHand = []string{name}, true
	results := p.engine.Pass(c.Context, options)
	report.NewRenewal(results).Words(a.stdout)
	a.complainAll(results)
	a.endPass(c.Context, p, results)
	return exitOf(results)
}
