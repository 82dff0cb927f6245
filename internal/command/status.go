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
	p, isChosen, err := a.assembleChosen(c)
	if err != nil {
		return err
	}
	defer p.close()
	now := a.now()
	nodes, unread := certstore.LoadNodes(c.Context, p.store, now)
	said := ""
	if unread != nil { // what every endpoint serves can be seen all the same
		a.complain(fmt.Errorf("%s: %w", lifecycle.StageLook, unread))
		said = unread.Error()
	}
	isSeen := true
	var seen []lifecycle.Certificate
	var views []lifecycle.View
	for _, cert := range p.engine.Certificates {
		if !isChosen(cert.Name) {
			continue
		}
		view, err := p.engine.Look(c.Context, cert)
		if err != nil {
			if err.Error() != said {
				a.complain(fmt.Errorf("%s: %s: %w", cert.Name, lifecycle.StageLook, err))
			}
			isSeen = false
			if !view.Blind {
				continue
			}
		}
		seen, views = append(seen, cert), append(views, view)
	}
	doc := report.NewStatus(p.config.Node, nodes, p.holders(c.Context), lifecycle.SilenceOf(p.engine.Period, views...), now)
	doc.Healthy = isSeen && unread == nil
	if unread != nil {
		doc.Unattended = ""
	}
	for i, cert := range seen {
		doc.Add(cert, views[i])
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
