package command

import (
	"context"
	"fmt"
	"strings"
	"time"

	"github.com/urfave/cli/v2"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
)

func (a *app) statusCommand() *cli.Command {
	return a.command(cli.Command{
		Name: "status", Usage: "what is stored, when it is renewed, what every endpoint serves", Flags: []cli.Flag{jsonFlag()}, Action: a.status,
	})
}

func (a *app) status(c *cli.Context) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	p := a.assemble(config)
	defer p.close()
	now := time.Now()
	nodes, err := certstore.LoadNodes(c.Context, p.store, now)
	if err != nil {
		a.complain(fmt.Errorf("%s: %w", lifecycle.StageLook, err))
		return outcome(exitAttention)
	}
	doc := statusJSON{
		Schema: schema, Node: config.Node, At: rfc3339(now), Healthy: true, Unattended: p.unattended(nodes, now),
		Fleet: fleetJSON{Lock: p.holders(c.Context), Nodes: newNodesJSON(nodes)}, Certificates: []certificateJSON{},
	}
	if last, ok := latest(nodes); ok {
		doc.LastPass = &lastPassJSON{rfc3339(last.LastPass), last.Node}
	}
	failed := false
	for _, cert := range p.engine.Certificates {
		view, err := p.engine.Look(c.Context, cert)
		if err != nil {
			a.complain(fmt.Errorf("%s: %s: %w", cert.Name, lifecycle.StageLook, err))
			failed = true
			continue
		}
		one := newCertificateJSON(cert, view)
		doc.Certificates = append(doc.Certificates, one)
		doc.Healthy = doc.Healthy && view.Summary.IsHealthy()
		if !c.Bool("json") {
			a.printStatus(one, view)
		}
	}
	doc.Healthy = doc.Healthy && !failed
	if c.Bool("json") {
		if err := writeJSON(a.stdout, doc); err != nil {
			return err
		}
		return attentionUnless(doc.Healthy)
	}
	if last, ok := latest(nodes); ok {
		fmt.Fprintf(a.stdout, "last pass %s by %s\n", day(last.LastPass), last.Node)
	}
	if doc.Unattended != "" {
		fmt.Fprintln(a.stdout, doc.Unattended)
	}
	return attentionUnless(doc.Healthy)
}

// holders are who holds the locks of the certificates. Who cannot be found out is left out.
func (p *assembly) holders(ctx context.Context) map[string]holderJSON {
	held := map[string]holderJSON{}
	for _, cert := range p.engine.Certificates {
		if holder, err := p.store.Holder(ctx, cert.Name); err == nil && holder != nil {
			held[cert.Name] = holderJSON{line(holder.Node), holder.PID, stamp(holder.Since)}
		}
	}
	return held
}

func (a *app) printStatus(one certificateJSON, v lifecycle.View) {
	fmt.Fprintf(a.stdout, "%s: %s (%s)\n", one.Name, one.State, one.Reason)
	if current := v.State.Current; current != nil {
		leaf := current.Bundle.Leaf()
		fmt.Fprintf(a.stdout, "  version %d, %s, issued by %s\n  names: %s\n  valid from %s until %s, renewal %s\n",
			current.Number, one.KeyType, one.Issuer, strings.Join(certstore.CertificateNames(leaf), ", "), day(leaf.NotBefore), day(leaf.NotAfter), day(v.Plan.RenewAt))
	} else {
		fmt.Fprintf(a.stdout, "  no certificate yet; wanted: %s\n", strings.Join(one.Names, ", "))
	}
	if v.State.Window != nil && v.State.Window.Explanation != "" {
		fmt.Fprintf(a.stdout, "  the CA explains its renewal window: %s\n", v.State.Window.Explanation)
	}
	if !v.Plan.Wait.IsZero() {
		fmt.Fprintf(a.stdout, "  next attempt %s after %d failures\n", day(v.Plan.Wait), one.Failures)
	}
	if v.Plan.Differ {
		fmt.Fprintln(a.stdout, "  this host's configuration differs from the one that is followed")
	}
	if changes := one.Changes.String(); changes != "" {
		fmt.Fprintf(a.stdout, "  changes: %s\n", changes)
	}
	if v.State.Account != nil {
		fmt.Fprintf(a.stdout, "  %s\n", oneLine(v.State.Account))
		if h := hint.Of(v.State.Account); h != "" {
			fmt.Fprintf(a.stdout, "  hint: %s\n", line(h))
		}
	}
	for _, warning := range v.Warnings {
		fmt.Fprintf(a.stdout, "  warning: %s\n", line(warning))
	}
	a.printEndpoints(v)
	for _, trouble := range one.Troubles[min(len(one.Troubles), 1):] { // the first is the last failure
		fmt.Fprintf(a.stdout, "  %s failed too: %s (%s)\n", trouble.Target, trouble.Error, trouble.Stage)
		if trouble.Hint != "" {
			fmt.Fprintf(a.stdout, "  hint: %s\n", trouble.Hint)
		}
	}
	if last := one.LastFailure; last != nil {
		fmt.Fprintf(a.stdout, "  last failure: %s (%s, at %s)\n", last.Error, last.Stage, last.Time)
		if last.Hint != "" {
			fmt.Fprintf(a.stdout, "  hint: %s\n", last.Hint)
		}
	}
}
