package command

import (
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

// usualHold is how long renewal is held after a rollback.
const usualHold = 7 * 24 * time.Hour

func (a *app) historyCommand() *cli.Command {
	return a.command(cli.Command{
		Name: "history", Usage: "versions and attempts, newest first",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "cert", Usage: "only the certificate called `NAME`"}, jsonFlag(),
		},
		Action: a.history,
	})
}

func (a *app) history(c *cli.Context) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	if only := c.String("cert"); only != "" {
		if _, err := oneCertificate(config, "history", "cert", only); err != nil {
			return err
		}
	}
	p := a.assemble(config)
	defer p.close()
	doc, failed := report.NewHistory(), false
	for _, cert := range config.Certificates {
		if only := c.String("cert"); only != "" && only != cert.Name {
			continue
		}
		ledger, err := certstore.OpenLedger(c.Context, p.store, cert.Name)
		if err != nil {
			a.complain(fmt.Errorf("%s: %s: %w", cert.Name, lifecycle.StageLook, err))
			failed = true
			continue
		}
		doc.Add(cert.Name, ledger.Record(), ledger.Versions())
	}
	return a.show(doc, c.Bool("json"), !failed)
}
