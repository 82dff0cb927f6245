package report_test

import (
	"bytes"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/lifecycle"
	"maascert/internal/report"
)

func TestStatusTellsOfTheFleet(t *testing.T) {
	t.Parallel()
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	host := func(name string, change func(*certstore.Node)) certstore.Node {
		n := certstore.Node{
			Node: name, Version: "v1.2.0", LastPass: now.Add(-time.Hour), LastRun: now.Add(-time.Hour), OK: true, WishHash: "sha256:1", Wishes: map[string]string{"maas": "1"},
			Targets: []certstore.NodeTarget{
				{Certificate: "maas", Name: "maas", Type: "maas", Shared: true, Version: new(3)}, {Certificate: "maas", Name: "front", Type: "nginx", Version: new(3)},
			},
		}
		change(&n)
		return n
	}
	locks := map[string]report.Holder{"maas": report.NewHolder(certstore.Holder{Node: "region2", PID: 7, Since: now.Add(-time.Minute)})}
	doc := report.NewStatus("region1", []certstore.Node{
		host("region1", func(*certstore.Node) {}),
		host("region2", func(n *certstore.Node) {
			n.OK, n.Targets[1].Version, n.ClockSkewMS = false, new(2), 300_000
		}),
		host("region3", func(n *certstore.Node) {
			n.LastPass, n.LastRun, n.Version, n.Wishes, n.Targets[1].Version = now.Add(-time.Hour), now.Add(-48*time.Hour), "v1.1.0\x1b", map[string]string{"maas": "2"}, new(0)
		}),
		host("region4", func(n *certstore.Node) {
			n.LastRun, n.Targets[0].Version, n.Targets[1].Version = time.Time{}, nil, nil // as an earlier maascert says it
		}),
	}, locks, lifecycle.SilenceOf(12*time.Hour), now)
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
	require.NoError(t, err)
	doc.Add(lifecycle.Certificate{Name: "maas"}, lifecycle.View{State: lifecycle.State{Current: &certstore.Version{Number: 3, Bundle: bundle}}})
	require.Equal(t, report.Converge{Version: 3, Hosts: 1, Of: 2}, doc.Fleet.Converged["maas"])
	require.True(t, doc.Fleet.Nodes[2].Silent && doc.Fleet.Nodes[2].Differs && !doc.Fleet.Nodes[1].Silent)
	var words bytes.Buffer
	doc.Fleet.Words(&words, "region1", report.Screen{})
	require.Equal(t, `maas is being worked on by region2 (process 7) since 2026-11-26 11:59 UTC
4 hosts:
  1 of 2 found version 3 of maas wherever they look
  region1: well at its last pass, 2026-11-26 11:00 UTC; front served version 3
  region2: not well at its last pass, 2026-11-26 11:00 UTC; front served version 2
    its clock is 5m0s behind the CA's; there: timedatectl
  region3: well at its last pass, 2026-11-26 11:00 UTC; front did not serve maas as it should
    its daemon was not heard of since 2026-11-24 12:00 UTC; there: systemctl status maascert; if it left: maascert delete --node region3
    its configuration asks for other certificates than this host's
    it runs maascert v1.1.0, this host v1.2.0
  region4: well at its last pass, 2026-11-26 11:00 UTC
    no daemon has made a pass there yet; there: systemctl enable --now maascert
`, words.String())

	// A host that is silent is none of those that found anything, however short it is said.
	for _, name := range []string{"b", "c", "d"} {
		doc.Fleet.Converged[name] = report.Converge{Version: 1, Hosts: 2, Of: 2}
	}
	words.Reset()
	doc.Fleet.Words(&words, "region1", report.Screen{Columns: 120})
	require.Contains(t, words.String(), "  1 of 2 found version 3 of maas wherever they look\n  of 3 certificates each host that is heard of found the version in use wherever it looks\n")
}
