//go:build e2e

package e2e

import (
	"encoding/json"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/fleettest"
)

// Debian's ufw and nftables: what they keep out is seen, and what check says to do about it lets it in.
func TestFirewalls(t *testing.T) {
	require.Zero(t, os.Geteuid(), "namespaces need root")
	isInside, err := fleettest.Enter(t.Context(), "-test.run", "^TestFirewalls$", "-test.v", "-test.timeout", "5m")
	require.NoError(t, err)
	if !isInside {
		return
	}
	program(t, "nft")
	program(t, "ufw")
	addAddresses(t)
	step := startStepCA(t, startResolver(t))
	h := newRegionHost(t)
	h.must("maascert init --yes --directory " + step.directory + " " + strings.Join(step.options, " ") + " --name maas.example.internal")
	h.must("maascert renew --enable-tls")
	firewall := func() (found map[string]item) {
		said, _ := h.sh("maascert check --json", "")
		var doc struct{ Checks []item }
		require.NoError(t, json.Unmarshal([]byte(said), &doc), said)
		found = map[string]item{}
		for _, one := range doc.Checks {
			if one.Code == "firewall" {
				port, _, _ := strings.Cut(strings.TrimPrefix(one.Evidence, "port "), ":")
				found[port] = one
			}
		}
		return found
	}
	require.Empty(t, firewall(), "nobody decides anything")
	for name, row := range map[string]struct{ up, down string }{
		"nftables": {`nft -f - <<'END'
table inet filter {
	set services { type inet_service; elements = { 22 } }
	chain input {
		type filter hook input priority filter; policy drop;
		iifname "lo" accept
		ct state vmap { established : accept, related : accept, invalid : drop }
		tcp dport @services accept
		ip protocol icmp accept
	}
}
END`, "nft flush ruleset"},
		"ufw": {"ufw --force enable >/dev/null && ufw allow 22/tcp", "ufw --force reset >/dev/null; nft flush ruleset"},
	} {
		t.Run(name, func(t *testing.T) {
			h.must(row.up)
			defer h.must(row.down)
			closed := firewall()
			require.Equal(t, "warn", closed["80"].State, closed)
			require.Equal(t, "warn", closed["5443"].State, closed)
			for _, port := range []string{"80", "5443"} {
				h.must(closed[port].Fix)
			}
			opened := firewall()
			require.Equal(t, "ok", opened["80"].State, opened)
			require.Equal(t, "ok", opened["5443"].State, opened)
		})
	}
}

// item is one check, as its document has it.
type item struct{ Code, State, Summary, Evidence, Fix string }
