package command

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/maasconfig"
)

func (a *app) verifyCommand() *cli.Command {
	return a.command(cli.Command{
		Name: "verify", Usage: "handshakes with every endpoint now", Action: a.verify,
		Flags: []cli.Flag{
			&cli.DurationFlag{Name: "timeout", Usage: "go on as long as `D` until every endpoint serves the certificate (default: look once)"}, jsonFlag(),
		},
	})
}

func (a *app) verify(c *cli.Context) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	deadline := time.Now().Add(c.Duration("timeout"))
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		doc, lines, err := a.verifyOnce(c.Context, p)
		if err != nil {
			a.complain(fmt.Errorf("%s: %w", lifecycle.StageLook, err))
			return outcome(exitAttention)
		}
		left := time.Until(deadline)
		if !doc.Healthy && left > 0 && c.Context.Err() == nil {
			select {
			case <-c.Context.Done():
			case <-time.After(min(pause, left)):
			}
			continue
		}
		if c.Bool("json") {
			if err := writeJSON(a.stdout, doc); err != nil {
				return err
			}
		} else {
			for _, line := range lines {
				fmt.Fprintln(a.stdout, line)
			}
		}
		return attentionUnless(doc.Healthy)
	}
}

func (a *app) verifyOnce(ctx context.Context, p *assembly) (verifyJSON, []string, error) {
	doc := verifyJSON{Schema: schema, Node: p.config.Node, At: rfc3339(time.Now()), Healthy: true, Targets: []targetJSON{}}
	var lines []string
	for _, cert := range p.engine.Certificates {
		ledger, err := certstore.OpenLedger(ctx, p.store, cert.Name)
		if err != nil {
			return doc, nil, err
		}
		var bundle *certstore.Bundle
		if number := ledger.Record().Current; number != 0 {
			version, err := ledger.Version(ctx, number)
			if err != nil {
				return doc, nil, err
			}
			bundle = version.Bundle
		}
		for _, target := range cert.Targets {
			endpoints := maasconfig.Judged(target.Probe(ctx), bundle, cert.Trust)
			doc.Healthy = doc.Healthy && len(endpoints) > 0
			doc.Targets = append(doc.Targets, targetJSON{
				Certificate: cert.Name, Name: target.Info().Name, Type: target.Info().Type, Endpoints: newEndpointsJSON(endpoints, ledger.Versions()),
			})
			for _, e := range endpoints {
				doc.Healthy = doc.Healthy && e.IsTrusted()
				lines = append(lines, fmt.Sprintf("%s: %s", cert.Name, e))
			}
		}
	}
	return doc, lines, nil
}
