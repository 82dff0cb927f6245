package command

import (
	"errors"
	"path/filepath"
	"strconv"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

func (a *app) showCommand() *cobra.Command {
	return a.command(spec{
		name: "show", group: looking, short: "a stored certificate: serial, fingerprint, issuer, all names, file, days left",
		options: []option{
			a.certOption("the certificate called `NAME`; needed where there are several"),
			a.completed("version", numberOption("version", "the version with the number `N` (default: the one in use); maascert history lists them"), a.versionNumbers),
			switchOption("pem", "print the certificate and its chain as PEM"), switchOption("text", "print all that is in the certificate"), jsonOption(),
		},
		action: a.showCertificate,
	})
}

func (a *app) showCertificate(c *call) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	if c.isOn("pem") && c.isOn("text") || c.isOn("json") && (c.isOn("pem") || c.isOn("text")) {
		return errors.New("show: --pem, --text and --json exclude each other")
	}
	name, err := oneCertificate(config, "show", "cert", c.text("cert"))
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	ledger, err := certstore.OpenLedger(c.Context, p.store, name)
	if err != nil {
		return a.refused(name, string(lifecycle.StageLook), err)
	}
	number := c.number("version")
	if number == 0 {
		number = ledger.Record().Current
	}
	if number == 0 {
		return a.refused(name, "show", hint.Add(errors.New("there is no certificate yet"), "maascert renew obtains one"))
	}
	version, err := ledger.Version(c.Context, number)
	if err != nil {
		return a.refused(name, "show", hint.Add(err, "maascert history lists those that are kept"))
	}
	switch {
	case c.isOn("pem"):
		_, err = a.stdout.Write(version.Bundle.FullChainPEM())
		return err
	case c.isOn("text"):
		report.WriteCertificateText(a.stdout, version.Bundle.Leaf())
		return nil
	}
	file := ""
	if number == ledger.Record().Current {
		file = filepath.Join(config.StateDir, "public", name+".pem")
	}
	doc := report.NewShown(name, version, number == ledger.Record().Current, file, a.now())
	if c.isOn("json") {
		return a.write(doc, true)
	}
	doc.Words(a.stdout)
	return nil
}

// versionNumbers completes the number of a version that is kept.
func (a *app) versionNumbers(c *call) []string {
	config, err := a.config(c)
	if err != nil {
		return nil
	}
	p := a.assemble(config)
	defer p.close()
	var all []string
	for _, cert := range config.Certificates {
		if asked := c.text("cert"); asked != "" && asked != cert.Name {
			continue
		}
		if ledger, err := certstore.OpenLedger(c.Context, p.store, cert.Name); err == nil {
			for _, version := range ledger.Versions() {
				all = append(all, strconv.Itoa(version.Number))
			}
		}
	}
	return all
}
