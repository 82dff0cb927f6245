package command

import (
	"crypto"
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
	"maascert/internal/printable"
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
			a.completed("version", numberOption("version", "the version with the number `N`; one that is not in use is just revoked; maascert history lists them"), a.versionNumbers),
			textOption("file", "", "a certificate that the CA issued to whomever, PEM `FILE`: it is just revoked"),
			textOption("key", "", "the private key of that certificate, PEM `FILE`; without it the ACME account asks"),
			switchOption("yes", "do not ask"), switchOption("dry-run", "say what would be done, and do nothing"),
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
	if c.text("file") != "" && (c.number("version") != 0 || c.isOn("first")) || c.text("key") != "" && c.text("file") == "" {
		return errors.New("revoke: --file, with --key or without, stands alone: a file is just revoked")
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
	if c.text("file") != "" {
		return a.revokeFile(c, p, name, reason)
	}
	wanted := lifecycle.Revoking{Version: c.number("version"), Reason: reason, First: c.isOn("first"), Wait: options.Wait}
	meant, isEarlier, err := p.engine.Revocable(c.Context, p.certificate(name), wanted)
	if err != nil {
		return a.refused(name, "revoke", err)
	}
	what := fmt.Sprintf("obtain, deploy and verify a replacement of version %d, then have the CA revoke that", meant.Number)
	switch {
	case isEarlier:
		what = fmt.Sprintf("have the CA revoke version %d, which is not in use", meant.Number)
	case wanted.First:
		what = fmt.Sprintf("have the CA revoke version %d at once, whatever is served, and replace it where it is in use", meant.Number)
	}
	if goesOn, err := a.mayRevoke(c, name, what); !goesOn {
		return err
	}
	wanted.Agreed = meant.Number
	version, isDone, err := p.engine.AskRevocation(c.Context, p.certificate(name), wanted)
	if err != nil {
		return a.refused(name, "revoke", err)
	}
	if isDone {
		fmt.Fprintf(a.words, "%s: the CA revoked version %d\n", name, version.Number)
	}
	if isEarlier {
		return nil
	}
	return a.passOver(c, p, name, options)
}

// mayRevoke asks a person, where there is one, whether to do something that nobody can take back, or only says that it would be done.
func (a *app) mayRevoke(c *call, name, what string) (bool, error) {
	what += fmt.Sprintf(" (%s)", c.text("reason"))
	if c.isOn("dry-run") {
		fmt.Fprintf(a.words, "%s: would %s\n", name, what)
		return false, nil
	}
	if !a.isTerminal() {
		return true, nil
	}
	err := a.confirm(c, fmt.Sprintf("%s: %s? Nobody can take that back.", name, what))
	return err == nil, err
}

// revokeFile has the CA of a certificate revoke another one, which it issued to whomever.
func (a *app) revokeFile(c *call, p *assembly, name string, reason uint) error {
	client := p.clients[p.config.Certificate(name).Issuer]
	if client == nil {
		return fmt.Errorf("revoke: the configuration has no CA for %s", name)
	}
	text, err := a.fsys.ReadFile(c.text("file"))
	if err != nil {
		return fmt.Errorf("--file: %w", err)
	}
	certs, err := certstore.ParseCertificates(text)
	if err == nil && len(certs) == 0 {
		err = errors.New("there is no certificate in it")
	}
	if err != nil {
		return fmt.Errorf("--file: %s: %w", c.text("file"), err)
	}
	var key crypto.Signer
	if file := c.text("key"); file != "" {
		text, err := a.fsys.ReadFile(file)
		if err == nil {
			key, err = certstore.ParseKey(text)
		}
		if err != nil {
			return fmt.Errorf("--key: %w", err)
		}
	}
	for _, cert := range p.config.Certificates {
		ledger, err := certstore.OpenLedger(c.Context, p.store, cert.Name)
		if err != nil {
			return a.refused(cert.Name, "revoke", err)
		}
		if version, isOurs := ledger.Versions()[certstore.Fingerprint(certs[0])]; isOurs {
			return hint.Add(fmt.Errorf("--file: this is version %d of %s", version.Number, cert.Name), "maascert revoke --cert %s --version %d", cert.Name, version.Number)
		}
	}
	about := printable.List(certstore.CertificateNames(certs[0]), 200)
	if goesOn, err := a.mayRevoke(c, name, fmt.Sprintf("have %s revoke the certificate for %s, until %s", client.Directory(), about, printable.Time(certs[0].NotAfter))); !goesOn {
		return err
	}
	if err := client.RevokeCertificate(c.Context, certs[0], key, reason); err != nil {
		return a.refused(name, "revoke", err)
	}
	fmt.Fprintf(a.words, "%s revoked the certificate for %s\n", client.Directory(), about)
	return nil
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
	results := a.pass(c.Context, p.engine, options)
	report.NewRenewal(results).Words(a.words)
	a.complainAll(results)
	a.endPass(c.Context, p, results)
	return exitOf(results)
}
