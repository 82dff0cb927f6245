package command

import (
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

// usualHold is how long renewal is held after a rollback.
const usualHold = 7 * 24 * time.Hour

func (a *app) historyCommand() *cobra.Command {
	return a.command(spec{
		name: "history", group: looking, short: "versions and attempts, newest first",
		options: []option{
			a.certsOption(), jsonOption(),
		},
		action: a.history,
	})
}

func (a *app) history(c *call) error {
	p, isChosen, err := a.assembleChosen(c)
	if err != nil {
		return err
	}
	defer p.close()
	doc, failed := report.NewHistory(), false
	for _, cert := range p.config.Certificates {
		if !isChosen(cert.Name) {
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
	return a.show(doc, c.isOn("json"), !failed)
}
