package providers

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"time"

	"maascert/acme/challenge"
)

// MAAS is the provider that puts records into MAAS's own DNS.
const MAAS = "maas"

// Zone is MAAS's DNS, as far as it is needed here.
type Zone interface {
	// PutTXT puts a record beside others of its name, unless it is there.
	PutTXT(ctx context.Context, fqdn, value string) error
	// RemoveTXT takes a record away, also one that another process put there. None is no error.
	RemoveTXT(ctx context.Context, fqdn, value string) error
	// Nameservers are those of all regions, as host:port: each publishes a record by itself, sooner or later. all is whether there are no
	// others.
	Nameservers(ctx context.Context) (servers []string, all bool, err error)
}

// maasPatience is how long a region may take: from 3.7 on each looks once a minute (MAAS fact 4.5).
const maasPatience = 180 * time.Second

// maasPoll is how long to wait for regions that cannot be asked: a little longer than they do between two looks.
const maasPoll = 70 * time.Second

// maasRecords are TXT records in MAAS's DNS.
type maasRecords struct {
	zone     Zone
	patience time.Duration
	turns    chan struct{} // each call takes one
}

// maasCalls is how many records regiond, which is no fast server, is given at the same time.
const maasCalls = 4

var _ challenge.Published = (*maasRecords)(nil)

func newMAAS(settings Settings, parts Parts) (challenge.Records, error) {
	if parts.Zone == nil {
		return nil, errors.New("maas: MAAS's API is not configured")
	}
	m := &maasRecords{zone: parts.Zone, patience: maasPatience, turns: make(chan struct{}, maasCalls)}
	for name, text := range settings {
		seconds, err := strconv.Atoi(text)
		if name != "MAAS_PROPAGATION_TIMEOUT" || err != nil || seconds < 1 {
			return nil, fmt.Errorf("maas: the only setting is MAAS_PROPAGATION_TIMEOUT, in seconds; not %s=%s", name, text)
		}
		m.patience = time.Duration(seconds) * time.Second
	}
	return m, nil
}

func (m *maasRecords) Patience() time.Duration { return m.patience }

func (m *maasRecords) Nameservers(ctx context.Context) (servers []string, others time.Duration, err error) {
	servers, all, err := m.zone.Nameservers(ctx)
	if !all {
		others = min(maasPoll, m.patience)
	}
	return servers, others, err
}

func (m *maasRecords) Put(ctx context.Context, txt challenge.TXT) error {
	return m.call(ctx, txt, m.zone.PutTXT)
}

func (m *maasRecords) Remove(ctx context.Context, txt challenge.TXT) error {
	return m.call(ctx, txt, m.zone.RemoveTXT)
}

func (m *maasRecords) call(ctx context.Context, txt challenge.TXT, do func(ctx context.Context, fqdn, value string) error) error {
	select {
	case m.turns <- struct{}{}:
		defer func() { <-m.turns }()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	return do(ctx, txt.FQDN, txt.Value)
}
