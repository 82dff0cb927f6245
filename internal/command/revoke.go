package command

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/acme"
	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
	"maascert/maasconfig"
)

func (a *app) revokeCommand() *cobra.Command {
	return a.command(spec{
		name: "revoke", group: acting,
		short: "obtains, deploys and verifies a replacement, then has the CA revoke the certificate that was in use",
		long: "When the replacement fails, nothing is revoked yet; every later pass, the daemon's too, goes on with it.\n" +
			"With --first the CA is told at once: for a key that others have.",
		options: []option{
			a.certOption("the certificate called `NAME`; needed where there are several"),
			a.completed("reason", textOption("reason", "superseded", "what the CA is told: `R` is one of "+strings.Join(reasons(), ", ")), oneOf(reasons()...)),
			switchOption("first", "revoke at once, before there is a replacement"),
			a.acceptOption(maasconfig.Codes...), waitOption(),
		},
		action: a.revoke,
	})
}

func reasons() []string { return slices.Sorted(maps.Keys(acme.Reasons)) }

func (a *app) revoke(c *call) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	reason, ok := acme.Reasons[c.text("reason")]
	if !ok {
		return fmt.Errorf("--reason: %q is none of %s", c.text("reason"), strings.Join(reasons(), ", "))
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	name, err := oneCertificate(config, "revoke", "cert", c.text("cert"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	cert := p.certificate(name)
	version, err := p.engine.AskRevocation(c.Context, cert, reason, c.isOn("first"), options.Wait)
	if err != nil {
		return a.refused(name, "revoke", err)
	}
	if c.isOn("first") {
		fmt.Fprintf(a.words, "%s: the CA revoked version %d\n", name, version.Number)
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
func (a *app) passOver(c *call, p *assembly, name string, options lifecycle.Options) error {
	options.Certificates, options.ByHand = []string{name}, true
	results := p.engine.Pass(c.Context, options)
	report.NewRenewal(results).Words(a.words)
	a.complainAll(results)
	a.endPass(c.Context, p, results)
	return exitOf(results)
}
