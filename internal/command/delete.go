package command

import (
	"bufio"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

func (a *app) deleteCommand() *cobra.Command {
	return a.command(spec{
		name: "delete", group: acting, args: "NAME", short: "forgets a certificate that no configuration names any more, key and all; or a host that left",
		long: "It is refused while an endpoint serves the certificate, or a host that was heard of within 30 days names it.",
		options: []option{
			textOption("node", "", "forget the host called `HOST` instead of a certificate"),
			switchOption("yes", "do not ask"),
			waitOption(),
		},
		action: a.delete,
	})
}

func (a *app) delete(c *call) error {
	name, host := c.arg(), c.text("node")
	if len(c.Args) > 1 || (name == "") == (host == "") {
		return hint.Add(errors.New("delete: name one certificate, or one host"), "maascert delete NAME, or maascert delete --node HOST")
	}
	config, err := a.config(c)
	if err != nil {
		return err
	}
	if certstore.CheckName(name+host) != nil || strings.Contains(name+host, "/") {
		return fmt.Errorf("delete: %q names nothing", name+host)
	}
	p := a.assemble(config)
	defer p.close()
	if host != "" {
		err = a.deleteNode(c, p, host)
	} else {
		err = a.deleteCertificate(c, p, name)
	}
	var end outcome
	if err == nil || errors.As(err, &end) {
		return err
	}
	a.complain(err)
	if errors.Is(err, certstore.ErrLocked) {
		return outcome(exitNotNow)
	}
	return outcome(exitAttention)
}

// deleteNode forgets what a host said of itself.
func (a *app) deleteNode(c *call, p *assembly, host string) error {
	node, revision, err := certstore.LoadNode(c.Context, p.store, host)
	switch {
	case err == nil && revision == "":
		return fmt.Errorf("delete: no host %q was ever heard of", host)
	case err == nil && host == p.config.Node && node.MachineID == machineID(p.fsys):
		return fmt.Errorf("delete: %s is this host", host)
	}
	if err := a.confirm(c, fmt.Sprintf("Forget the host %s, last heard of %s?", host, printable.Time(node.LastPass))); err != nil {
		return err
	}
	if err := errors.Join(p.store.Delete(c.Context, "nodes/"+host), p.store.Delete(c.Context, "answers/"+host)); err != nil {
		return err
	}
	fmt.Fprintf(a.words, "%s is forgotten; should it make a pass, it is there again\n", host)
	return nil
}

// deleteCertificate forgets a certificate, under its lock, when nobody uses it.
func (a *app) deleteCertificate(c *call, p *assembly, name string) error {
	if p.config.Certificate(name).Name != "" {
		return hint.Add(fmt.Errorf("delete: the configuration names %s", name), "take it out of certificates first")
	}
	held, err := certstore.LockWithin(c.Context, p.store, name, c.duration("wait"))
	if err != nil {
		return err
	}
	defer held.Unlock()
	ledger, err := certstore.OpenLedger(c.Context, held, name)
	if err != nil {
		return err
	}
	names, err := documentsOf(c.Context, held, []string{name})
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(names, func(document string) bool {
		return document != "state/"+name && !strings.HasPrefix(document, "versions/"+name+"/")
	})
	if err := certstore.ReadyKeys(c.Context, held); err != nil {
		return err
	}
	sweep := func() error { // what an earlier try left
		return errors.Join(certstore.SweepKeys(c.Context, held, "versions/"+name, false), certstore.SweepKeys(c.Context, held, "state/"+name, false))
	}
	if len(names) == 0 {
		return cmp.Or(sweep(), fmt.Errorf("delete: the store has no certificate %q", name))
	}
	if err := errors.Join(p.namedElsewhere(c.Context, name), p.servedHere(c.Context, ledger.Versions())); err != nil {
		return err
	}
	if err := a.confirm(c, fmt.Sprintf("Forget the certificate %s, its %d versions and their keys?", name, len(ledger.Versions()))); err != nil {
		return err
	}
	for _, document := range names {
		if err := held.Delete(c.Context, document); err != nil {
			return err
		}
	}
	left := []error{sweep()}
	for _, public := range []string{name + ".pem", name + ".roots.pem"} {
		if err := p.fsys.Remove(filepath.Join(p.config.StateDir, "public", public)); !errors.Is(err, fs.ErrNotExist) {
			left = append(left, err)
		}
	}
	fmt.Fprintf(a.words, "%s is forgotten: %d versions, keys and all\n", name, len(ledger.Versions()))
	return errors.Join(left...)
}

// namedElsewhere finds a host whose configuration named a certificate lately.
func (p *assembly) namedElsewhere(ctx context.Context, name string) error {
	nodes, err := certstore.LoadNodes(ctx, p.store, p.now())
	if err != nil {
		return err
	}
	for _, node := range nodes {
		names := slices.ContainsFunc(node.Targets, func(target certstore.NodeTarget) bool { return target.Certificate == name })
		if names && node.Node != p.config.Node {
			return hint.Add(fmt.Errorf("delete: %s was configured at %s when that made its last pass, %s", name, printable.Phrase(node.Node), printable.Time(node.LastPass)),
				"take it out of that host's configuration and have it make a pass; or, where the host is gone: maascert delete --node %s", printable.Phrase(node.Node))
		}
	}
	return nil
}

// servedHere finds an endpoint of this configuration that serves one of some versions.
func (p *assembly) servedHere(ctx context.Context, versions map[string]certstore.VersionInfo) error {
	for _, cert := range p.engine.Certificates {
		view, err := p.engine.Look(ctx, cert)
		if err != nil {
			return err
		}
		for _, target := range view.State.Targets {
			for _, endpoint := range target.Endpoints {
				if version, is := versions[endpoint.Fingerprint()]; is {
					return hint.Add(fmt.Errorf("delete: %s serves version %d of it", endpoint.Address, version.Number), "have another certificate served there first: maascert renew")
				}
			}
		}
	}
	return nil
}

// confirm asks a person, where there is one; elsewhere nothing is forgotten without --yes.
func (a *app) confirm(c *call, question string) error {
	if c.isOn("yes") {
		return nil
	}
	if !a.isTerminal() {
		return hint.Add(errors.New(c.name()+": nobody is there to be asked"), "--yes answers")
	}
	fmt.Fprintf(a.stderr, "%s [y/N] ", question)
	answer, err := bufio.NewReader(io.LimitReader(a.stdin, 100)).ReadString('\n')
	if err != nil || !strings.EqualFold(strings.TrimSpace(answer), "y") {
		return outcome(exitAttention)
	}
	return nil
}
