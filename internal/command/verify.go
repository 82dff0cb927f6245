package command

import (
	"context"
	"fmt"
	"time"

	"github.com/urfave/cli/v2"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
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
		doc, err := verifyOnce(c.Context, p)
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
		return a.show(doc, c.Bool("json"), doc.Healthy)
	}
}

// verifyOnce looks at every endpoint once.
func verifyOnce(ctx context.Context, p *assembly) (report.Verification, error) {
	doc := report.NewVerification(p.config.Node, time.Now())
	for _, cert := range p.engine.Certificates {
		ledger, err := certstore.OpenLedger(ctx, p.store, cert.Name)
		if err != nil {
			return doc, err
		}
		var bundle *certstore.Bundle
		if number := ledger.Record().Current; number != 0 {
			version, err := ledger.Version(ctx, number)
			if err != nil {
				return doc, err
			}
			bundle = version.Bundle
		}
		record := ledger.Record()
		for _, target := range cert.Targets {
			target.Discover(ctx, record.Deployments[target.Info().Name].Regions)
			doc.Add(cert.Name, target.Info(), maasconfig.Judged(target.Probe(ctx), bundle, cert.Trust), ledger.Versions())
		}
	}
	return doc, nil
}
