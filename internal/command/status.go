package command

import (
	"context"
	"fmt"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

func (a *app) statusCommand() *cobra.Command {
	return a.command(spec{
		name: "status", group: looking, short: "what is stored, when it is renewed, what every endpoint serves", options: []option{a.certsOption(), jsonOption()}, action: a.status,
	})
}

func (a *app) status(c *call) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	isChosen, err := chosen(c, config)
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	now := a.now()
	nodes, err := certstore.LoadNodes(c.Context, p.store, now)
	doc := report.NewStatus(config.Node, nodes, p.holders(c.Context), p.engine.Period, now)
	said := ""
	if err != nil { // what every endpoint serves can be seen all the same
		a.complain(fmt.Errorf("%s: %w", lifecycle.StageLook, err))
		doc.Healthy, doc.Unattended, said = false, "", err.Error()
	}
	for _, cert := range p.engine.Certificates {
		if !isChosen(cert.Name) {
			continue
		}
		view, err := p.engine.Look(c.Context, cert)
		if err != nil {
			if err.Error() != said {
				a.complain(fmt.Errorf("%s: %s: %w", cert.Name, lifecycle.StageLook, err))
			}
			doc.Healthy = false
			if !view.Blind {
				continue
			}
		}
		doc.Add(cert, view)
	}
	doc.Draw(a.screen())
	return a.show(doc, c.isOn("json"), doc.Healthy)
}

// holders are who holds the locks of the certificates. Who cannot be found out is left out.
func (p *assembly) holders(ctx context.Context) map[string]report.Holder {
	held := map[string]report.Holder{}
	for _, cert := range p.engine.Certificates {
		if holder, err := p.store.Holder(ctx, cert.Name); err == nil && holder != nil {
			held[cert.Name] = report.NewHolder(*holder)
		}
	}
	return held
}
