package command

import (
	"cmp"
	"context"
	"crypto/x509"
	"encoding/json"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/spf13/cobra"
	"golang.org/x/sync/errgroup"

	"maascert/certstore"
	"maascert/internal/config"
	"maascert/internal/hint"
	"maascert/internal/report"
	"maascert/maasconfig"
)

// monitorName is the command of monitoring systems, which have exit codes of their own.
const monitorName = "monitor"

// usualStatus is where a pass writes what everybody may know.
const usualStatus = config.UsualStateDir + "/public/status.json"

func (a *app) monitorCommand() *cobra.Command {
	return a.command(spec{
		name: monitorName, group: looking, short: "one line as monitoring plug-ins print it, with performance data; needs no configuration and no privileges",
		long: "It reads what the last pass wrote for everybody, and shakes hands with every endpoint itself. Degraded, waiting, overdue\n" +
			"and failed are WARNING; expired, missing, untrusted, an incomplete chain, no endpoint with a certificate, and a last pass\n" +
			"that is too long ago are CRITICAL. Its exit codes are 0 OK, 1 WARNING, 2 CRITICAL, 3 UNKNOWN (a mistake in usage too).",
		options: []option{
			textOption("status", usualStatus, "the `FILE` that the last pass wrote"),
			textOption("warn", "20%", "WARNING below `A` of the lifetime left, a share or a time such as 240h"),
			textOption("crit", "10%", "CRITICAL below `A` of the lifetime left"),
		},
		action: a.monitor,
	})
}

// monitored prints why nothing could be found out, and returns the exit code.
func (a *app) monitored(err error) int {
	var end outcome
	switch {
	case err == nil:
		return int(report.MonitorOK)
	case errors.As(err, &end) && end <= outcome(report.MonitorUnknown):
		return int(end)
	}
	unknown := report.Unmonitored(err)
	unknown.Words(a.stdout)
	if advice := hint.Of(err); advice != "" {
		fmt.Fprintf(a.stdout, "hint: %s\n", advice)
	}
	return int(unknown.Severity)
}

func (a *app) monitor(c *call) error {
	warn, err := certstore.ParseLeft(c.text("warn"))
	if err != nil {
		return fmt.Errorf("--warn: %w", err)
	}
	crit, err := certstore.ParseLeft(c.text("crit"))
	if err != nil {
		return fmt.Errorf("--crit: %w", err)
	}
	doc, err := a.readStatus(c.text("status"))
	if err != nil {
		return err
	}
	now := a.now()
	found := report.NewMonitoring(doc, now)
	for _, cert := range doc.Certificates {
		endpoints, err := a.monitorEndpoints(c.Context, c.text("status"), cert)
		if err != nil {
			return fmt.Errorf("%s: %w", cert.Name, err)
		}
		found.Add(cert, endpoints, warn, crit, now)
	}
	found.Words(a.stdout)
	return outcome(found.Severity)
}

func (a *app) readStatus(path string) (report.Public, error) {
	var doc report.Public
	text, err := a.fsys.ReadFile(path)
	if err == nil {
		err = json.Unmarshal(text, &doc)
	}
	if err == nil && doc.Schema != report.Schema {
		err = fmt.Errorf("%s: schema %d is not known; this maascert knows %d", path, doc.Schema, report.Schema)
	}
	return doc, hint.Add(err, "a pass writes it: has maascert ever run here, and is its state_dir another one (--status STATE_DIR/public/status.json)?")
}

// monitorEndpoints shakes hands with every endpoint of a certificate, side by side.
func (a *app) monitorEndpoints(ctx context.Context, status string, cert report.PublicCertificate) ([]maasconfig.Endpoint, error) {
	trust := certstore.Trust{Now: a.now}
	if cert.Roots != "" {
		text, err := a.fsys.ReadFile(cert.Roots)
		if err != nil {
			return nil, fmt.Errorf("what clients trust: %w", err)
		}
		trust.Roots = x509.NewCertPool()
		if !trust.Roots.AppendCertsFromPEM(text) {
			return nil, fmt.Errorf("what clients trust: %s holds no certificate", cert.Roots)
		}
	}
	// Without the public copy of the version in use, its fingerprint says all the same which one is served.
	text, _ := a.fsys.ReadFile(filepath.Join(filepath.Dir(status), filepath.Base(cert.Name)+".pem"))
	wanted, _ := cert.Wanted(text)
	var addresses []string
	for _, target := range cert.Targets {
		for _, endpoint := range target.Endpoints {
			addresses = append(addresses, endpoint.Address)
		}
	}
	endpoints := make([]maasconfig.Endpoint, len(addresses))
	var group errgroup.Group
	group.SetLimit(100)
	for i, address := range addresses {
		group.Go(func() error {
			served := maasconfig.Handshake(ctx, a.dial, address, firstHost(cert.Names))
			by := wanted
			if len(served.Certs) > 0 && len(by) == 0 && certstore.Fingerprint(served.Certs[0]) == cert.Fingerprint {
				by = served.Certs[:1]
			}
			endpoints[i] = maasconfig.JudgeByChain(served, by, trust)
			return nil
		})
	}
	return endpoints, cmp.Or(group.Wait(), ctx.Err())
}
