package command

import (
	"context"
	"fmt"
	"time"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
	"maascert/maasconfig"
)

func (a *app) verifyCommand() *cobra.Command {
	return a.command(spec{
		name: "verify", group: looking, short: "handshakes with every endpoint now", action: a.verify,
		options: []option{
			durationOption("timeout", 0, "go on as long as `D` until every endpoint serves the certificate (default: look once)"), a.certsOption(), jsonOption(),
		},
	})
}

func (a *app) verify(c *call) error {
	p, isChosen, err := a.assembleChosen(c)
	if err != nil {
		return err
	}
	defer p.close()
	deadline := time.Now().Add(c.duration("timeout"))
	for pause := 100 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		doc, err := verifyOnce(c.Context, p, isChosen)
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
		return a.show(doc, c.isOn("json"), doc.Healthy)
	}
}

// verifyOnce looks at every endpoint once.
func verifyOnce(ctx context.Context, p *assembly, isChosen func(cert string) bool) (report.Verification, error) {
	doc := report.NewVerification(p.config.Node, p.now())
	for _, cert := range p.engine.Certificates {
		if !isChosen(cert.Name) {
			continue
		}
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
			endpoints := maasconfig.Judged(target.Probe(ctx), bundle, cert.Trust)
			lifecycle.NameVersions(endpoints, ledger.Versions())
			doc.Add(cert.Name, target.Info(), endpoints, ledger.Versions())
		}
	}
	return doc, nil
}
