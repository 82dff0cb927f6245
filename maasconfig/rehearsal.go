package maasconfig

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"fmt"
	"path/filepath"
	"sync"

	"maascert/certstore"
)

// Rehearsal is a MAAS target whose Deploy does everything but stage and tell: it asks the guards, shakes hands with the
// bundle in memory, and keeps the command that would have run. From then on its endpoints look as if they served the
// bundle. A rehearsal's bundle need not be trusted by anybody.
type Rehearsal struct {
	*MAAS

	mu       sync.Mutex
	commands [][]string
	bundle   *certstore.Bundle
}

var _ Target = (*Rehearsal)(nil)

// Rehearse makes a harmless twin of the target.
func (m *MAAS) Rehearse() *Rehearsal { return &Rehearsal{MAAS: m} }

// Commands are the argument lists that would have run. The stage's random folder stands as RANDOM.
func (r *Rehearsal) Commands() [][]string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.commands
}

// Tidy leaves the stages of killed runs to a real run.
func (r *Rehearsal) Tidy(context.Context) error { return nil }

// Probe sees what is really served until Deploy was called.
func (r *Rehearsal) Probe(ctx context.Context) []Served {
	served := r.MAAS.Probe(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bundle != nil {
		for i := range served {
			served[i] = Served{Address: served[i].Address, Certs: append([]*x509.Certificate{r.bundle.Leaf()}, r.bundle.Chain()...)}
		}
	}
	return served
}

// Judge takes the rehearsal's bundle for trusted: nobody but the rehearsal is ever served it.
func (r *Rehearsal) Judge(served Served, bundle *certstore.Bundle) Endpoint {
	e := r.MAAS.Judge(served, bundle)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.bundle != nil && e.State == Match && served.Certs[0].Equal(r.bundle.Leaf()) {
		e.Distrust = nil
	}
	return e
}

// Deploy rehearses.
func (r *Rehearsal) Deploy(ctx context.Context, d Deployment) (Outcome, error) {
	certs := append([]*x509.Certificate{d.Bundle.Leaf()}, d.Bundle.Chain()...)
	config := r.config
	config.Roots = x509.NewCertPool()
	config.Roots.AddCert(certs[len(certs)-1])
	trusting := New(config)
	ours := d.Ours
	d.Ours = false // with other roots nothing that is served is trusted, and its names count all the same
	if err := trusting.mayServe(ctx, d); err != nil {
		return Outcome{}, err
	}
	port, err := r.port(ctx, Want{Accept: d.Accept, Ours: ours, Port: d.Port})
	if err != nil {
		return Outcome{}, err
	}
	pair, err := tls.X509KeyPair(d.Bundle.FullChainPEM(), d.Bundle.KeyPEM())
	if err != nil {
		return Outcome{}, err
	}
	if err := trusting.handshakes(pair); err != nil {
		return Outcome{}, fmt.Errorf("rehearsing the handshake: %w", err)
	}
	here, err := r.installation(ctx)
	if err != nil {
		return Outcome{}, err
	}
	command := r.command(here, filepath.Join(here.StageDir, "RANDOM"), d.Bundle, port)
	r.mu.Lock()
	r.commands = append(r.commands, append([]string{command.Path}, command.Args...))
	r.bundle = d.Bundle
	r.mu.Unlock()
	return Outcome{Endpoints: Judged(r, r.Probe(ctx), d.Bundle), Tries: 1, Telling: Told}, nil
}
