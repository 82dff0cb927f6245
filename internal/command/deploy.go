package command

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/maasconfig"
)

func (a *app) deployCommand() *cobra.Command {
	return a.command(spec{
		name: "deploy", group: acting,
		short: "brings in a certificate from elsewhere: checks, stores, deploys and verifies it",
		long: "From then on only time, names that the configuration changed since, or renew --force replace it. Where the configuration\n" +
			"has no CA it is watched, and maascert says in time that another one is needed.",
		options: []option{
			textOption("cert", "", "the certificate, PEM `FILE`; what follows it there is its chain"),
			textOption("key", "", "its private key, PEM `FILE`, without a passphrase"),
			textOption("chain", "", "what stands between it and the root, PEM `FILE`"),
			a.completed("name", textOption("name", "", "the certificate called `NAME` in the configuration; needed where there are several"), a.certificateNames),
			enableOption(),
			a.acceptOption(maasconfig.Codes...), waitOption(),
		},
		action: a.deploy,
	})
}

func (a *app) deploy(c *call) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	if c.isOn("enable-tls") {
		options.Accept[maasconfig.FirstEnable] = true
	}
	if c.text("cert") == "" || c.text("key") == "" {
		return hint.Add(errors.New("deploy: a certificate and its key are needed"), "maascert deploy --cert FILE --key FILE")
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	name, err := oneCertificate(config, "deploy", "name", c.text("name"))
	if err != nil {
		return err
	}
	bundle, err := a.readBundle(c.text("cert"), c.text("key"), c.text("chain"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	version, err := p.engine.BringIn(c.Context, p.certificate(name), certstore.Version{Origin: certstore.FromDeploy, Bundle: bundle}, options)
	if err != nil {
		return a.refused(name, "deploy", err)
	}
	leaf := bundle.Leaf()
	fmt.Fprintf(a.words, "%s: version %d is current: %s, until %s\n", name, version.Number, printable.Text(strings.Join(certstore.CertificateNames(leaf), ", ")), report.Time{Time: leaf.NotAfter})
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

func (a *app) rollbackCommand() *cobra.Command {
	return a.command(spec{
		name: "rollback", group: acting,
		short: "makes an earlier version current, and deploys and verifies it; renewal is held for a while",
		long:  "The hold ends with renew --force, and in the last tenth of the version's lifetime.",
		options: []option{
			a.certOption("the certificate called `NAME`; needed where there are several"),
			numberOption("to", "the version with the number `VERSION` (default: the last one before that in use); maascert history lists them"),
			durationOption("hold", usualHold, "renew by time not before `D` has passed"),
			a.acceptOption(maasconfig.Codes...), waitOption(),
		},
		action: a.rollback,
	})
}

func (a *app) rollback(c *call) error {
	options, err := passOptions(c)
	if err != nil {
		return err
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	name, err := oneCertificate(config, "rollback", "cert", c.text("cert"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	if err := p.checkTwin(c.Context); err != nil {
		return err
	}
	version, err := p.engine.RollBack(c.Context, p.certificate(name), c.number("to"), c.duration("hold"), options)
	if err != nil {
		return a.refused(name, "rollback", err)
	}
	leaf := version.Bundle.Leaf()
	fmt.Fprintf(a.words, "%s: version %d is current again, until %s", name, version.Number, report.Time{Time: leaf.NotAfter})
	if end := lifecycle.HoldEnd(leaf, a.now().Add(c.duration("hold"))); end.After(a.now()) {
		fmt.Fprintf(a.words, "; renewal by time is held until %s", report.Time{Time: end})
	}
	fmt.Fprintln(a.words)
	return a.passOver(c, p, name, options)
}
