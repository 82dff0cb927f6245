package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/maasconfig"
)

func (a *app) deployCommand() *cli.Command {
	return a.command(cli.Command{
		Name:  "deploy",
		Usage: "brings in a certificate from elsewhere: checks, stores, deploys and verifies it",
		Description: "From then on only time, names that the configuration changed since, or renew --force replace it. Where the configuration\n" +
			"has no CA it is watched, and maascert says in time that another one is needed.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "cert", Usage: "the certificate, PEM `FILE`; what follows it there is its chain"},
			&cli.StringFlag{Name: "key", Usage: "its private key, PEM `FILE`, without a passphrase"},
			&cli.StringFlag{Name: "chain", Usage: "what stands between it and the root, PEM `FILE`"},
			&cli.StringFlag{Name: "name", Usage: "the certificate called `NAME` in the configuration; needed where there are several"},
			&cli.BoolFlag{Name: "enable-tls", Usage: "allow the first enabling of TLS, which browsers do not forget (the same as --accept first-enable)"},
			acceptFlag(), waitFlag(),
		},
		Action: a.deploy,
	})
}

func (a *app) deploy(c *cli.Context) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	if c.Bool("enable-tls") {
		options.Accept[maasconfig.FirstEnable] = true
	}
	if c.String("cert") == "" || c.String("key") == "" {
		return hint.Add(errors.New("deploy: a certificate and its key are needed"), "maascert deploy --cert FILE --key FILE")
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	name, err := oneCertificate(config, "deploy", "name", c.String("name"))
	if err != nil {
		return err
	}
	bundle, err := a.readBundle(c.String("cert"), c.String("key"), c.String("chain"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	version, err := p.engine.BringIn(c.Context, p.certificate(name), bundle, options)
	if err != nil {
		return a.refused(name, "deploy", err)
	}
	leaf := bundle.Leaf()
	fmt.Fprintf(a.stdout, "%s: version %d is current: %s, until %s\n", name, version.Number, printable.Text(strings.Join(certstore.CertificateNames(leaf), ", ")), report.Time{Time: leaf.NotAfter})
	return a.passOver(c, p, name, options)
}

// readBundle reads a pair from files. No error repeats what stands in them.
func (a *app) readBundle(certFile, keyFile, chainFile string) (*certstore.Bundle, error) {
	var texts [3][]byte
	for i, flag := range []struct{ name, file string }{{"cert", certFile}, {"key", keyFile}, {"chain", chainFile}} {
		if flag.file == "" {
			continue
		}
		text, err := a.fsys.ReadFile(flag.file)
		if err != nil {
			return nil, fmt.Errorf("--%s: %w", flag.name, err)
		}
		texts[i] = text
	}
	bundle, err := certstore.Parse(texts[1], slices.Concat(texts[0], []byte("\n"), texts[2]))
	if err != nil {
		return nil, hint.Add(fmt.Errorf("deploy: %w", err), "--key is the private key, --cert the certificate that belongs to it, --chain what stands between that and the root, in this order")
	}
	return bundle, nil
}

func (a *app) rollbackCommand() *cli.Command {
	return a.command(cli.Command{
		Name:        "rollback",
		Usage:       "makes an earlier version current, and deploys and verifies it; renewal is held for a while",
		Description: "The hold ends with renew --force, and in the last tenth of the version's lifetime.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "cert", Usage: "the certificate called `NAME`; needed where there are several"},
			&cli.IntFlag{Name: "to", Usage: "the version with the number `VERSION` (default: the last one before that in use); maascert history lists them"},
			&cli.DurationFlag{Name: "hold", Value: usualHold, Usage: "renew by time not before `D` has passed"},
			acceptFlag(), waitFlag(),
		},
		Action: a.rollback,
	})
}

func (a *app) rollback(c *cli.Context) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	if c.Duration("hold") < 0 {
		return errors.New("--hold: a duration cannot be negative")
	}
	if c.IsSet("to") && c.Int("to") < 1 {
		return errors.New("--to: a version's number is 1 or more")
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	name, err := oneCertificate(config, "rollback", "cert", c.String("cert"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	version, err := p.engine.RollBack(c.Context, p.certificate(name), c.Int("to"), c.Duration("hold"), options)
	if err != nil {
		return a.refused(name, "rollback", err)
	}
	leaf := version.Bundle.Leaf()
	fmt.Fprintf(a.stdout, "%s: version %d is current again, until %s", name, version.Number, report.Time{Time: leaf.NotAfter})
	if end := lifecycle.HoldEnd(leaf, time.Now().Add(c.Duration("hold"))); end.After(time.Now()) {
		fmt.Fprintf(a.stdout, "; renewal by time is held until %s", report.Time{Time: end})
	}
	fmt.Fprintln(a.stdout)
	return a.passOver(c, p, name, options)
}
