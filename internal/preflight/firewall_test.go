package preflight_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/internal/preflight"
)

const ufwStatus = `Status: active
Logging: on (low)
Default: deny (incoming), allow (outgoing), disabled (routed)
New profiles: skip

To                         Action      From
--                         ------      ----
22/tcp                     LIMIT IN    Anywhere                   # for (v6) OUT too
8081/tcp                   ALLOW IN    fd00::/8                  
fd00::1 8082/tcp           ALLOW IN    Anywhere                  
2222/tcp                   DENY IN     Anywhere (log)             # not for (v6) either
80/tcp                     ALLOW IN    10.0.0.0/8                
5241:5247/tcp              ALLOW IN    Anywhere                  
443,8443/tcp (Web Full)    ALLOW IN    Anywhere                  
5353/udp                   ALLOW IN    Anywhere                  
9000/tcp                   DENY IN     10.0.0.0/8                
9000/tcp                   ALLOW IN    Anywhere                  
10.0.0.5 9001/tcp          ALLOW IN    Anywhere                  
9002/tcp on eth0           ALLOW IN    Anywhere                  
9100                       REJECT IN   Anywhere                  
9200/tcp                   ALLOW OUT   Anywhere                  
9300/tcp (v6)              ALLOW IN    Anywhere (v6)             
`

func TestUFW(t *testing.T) {
	t.Parallel()
	const (
		open, partly, closed = "ok firewall: the firewall lets everybody in to port ", "ok firewall: the firewall lets some in to port ", "warn firewall: the firewall lets nobody in to port "
	)
	ask := func(status string, port int) string {
		h := host(t, map[string]string{"/usr/sbin/ufw": ""}, printed{"/usr/sbin/ufw status verbose": status})
		return said(h.CheckFirewall(t.Context(), []preflight.Port{{Number: port, For: "us"}}))
	}
	for port, words := range map[int]string{
		22: partly, 2222: closed, 8081: closed, 8082: closed, 80: partly, 5240: closed, 5244: open, 443: open, 5353: closed, 9000: partly, 9001: partly, 9002: partly, 9100: closed, 9200: closed, 9300: closed,
	} {
		require.Contains(t, ask(ufwStatus, port), words, "port %d", port)
	}
	require.Contains(t, ask(ufwStatus, 5240), "-> ufw prepend allow 5240/tcp")
	require.Contains(t, ask("Status: active\nDefault: allow (incoming), allow (outgoing)\n", 80), open)
	require.Empty(t, ask("Status: inactive\n", 80))
	require.Contains(t, ask("exit 1: ERROR: You need to be root to run this script\n", 80), "warn firewall: whether a firewall keeps people out is not known: /usr/sbin/ufw status verbose ends with 1: ERROR: You need to be root")
}

// Rules as nft prints them in JSON, of a table with one chain for what comes in.
func nftTable(policy, rules string) printed {
	const chain = `{"chain": {"family": "inet", "table": "filter", "name": "input", "handle": 1, "type": "filter", "hook": "input", "prio": 0, "policy": "`
	const other = `{"chain": {"family": "inet", "table": "filter", "name": "web", "handle": 2}}`
	base := chain + policy + `"}}`
	return printed{
		"/usr/sbin/nft -j list chains":            `{"nftables": [{"metainfo": {"json_schema_version": 1}}, ` + base + `, ` + other + `, {"chain": {"family": "ip6", "table": "six", "name": "input", "type": "filter", "hook": "input", "policy": "drop"}}]}`,
		"/usr/sbin/nft -j list table inet filter": `{"nftables": [{"table": {"family": "inet", "name": "filter"}}, {"set": {"family": "inet", "table": "filter", "name": "services", "type": "inet_service", "elem": [80, {"range": [440, 450]}, {"elem": {"val": 9}}]}}, ` + base + `, ` + other + rules + `]}`,
	}
}

func nftRule(chain, statements string) string {
	return `, {"rule": {"family": "inet", "table": "filter", "chain": "` + chain + `", "expr": [` + statements + `]}}`
}

func nftMatch(op, left, right string) string {
	return `{"match": {"op": "` + op + `", "left": ` + left + `, "right": ` + right + `}}, `
}

func TestNftables(t *testing.T) {
	t.Parallel()
	const (
		open, partly, closed = "the firewall lets everybody in", "the firewall lets some in", "the firewall lets nobody in"
		unknown              = "whether the firewall lets people in"
		port                 = `{"payload": {"protocol": "tcp", "field": "dport"}}`
		accept, drop         = `{"accept": null}`, `{"counter": {"packets": 1, "bytes": 2}}, {"drop": null}`
	)
	input := func(statements ...string) (rules string) {
		for _, one := range statements {
			rules += nftRule("input", one)
		}
		return rules
	}
	everything := input(drop)
	for name, row := range map[string]struct{ policy, rules, want string }{
		"no rule, all let in":             {"accept", "", open},
		"no rule, nobody let in":          {"drop", "", closed},
		"the port":                        {"drop", input(nftMatch("==", port, "80") + accept), open},
		"another port":                    {"drop", input(nftMatch("==", port, "81") + accept), closed},
		"all but one port":                {"drop", input(nftMatch("!=", port, "81") + accept), open},
		"in a list":                       {"drop", input(nftMatch("==", port, `{"set": [22, {"range": [79, 81]}]}`) + accept), open},
		"in a named set":                  {"drop", input(nftMatch("==", port, `"@services"`) + accept), open},
		"in no named set":                 {"drop", input(nftMatch("==", port, `"@nosuch"`) + accept), partly},
		"kept out before it is let in":    {"accept", input(drop) + input(nftMatch("==", port, "80")+accept), closed},
		"of other protocols":              {"drop", input(nftMatch("==", `{"payload": {"protocol": "udp", "field": "dport"}}`, "80") + accept), closed},
		"of TCP":                          {"drop", input(nftMatch("==", `{"meta": {"key": "l4proto"}}`, `"tcp"`) + accept), open},
		"what is known already":           {"drop", input(nftMatch("in", `{"ct": {"key": "state"}}`, `["established", "related"]`) + accept), closed},
		"what is new":                     {"drop", input(nftMatch("in", `{"ct": {"key": "state"}}`, `["established", "new"]`) + accept), open},
		"what is not new":                 {"accept", input(nftMatch("!=", `{"ct": {"key": "state"}}`, `"new"`) + drop), open},
		"from this host":                  {"drop", input(nftMatch("==", `{"meta": {"key": "iifname"}}`, `"lo"`) + accept), closed},
		"not from this host":              {"accept", input(nftMatch("!=", `{"meta": {"key": "iifname"}}`, `"lo"`) + drop), closed},
		"by one interface":                {"drop", input(nftMatch("==", `{"meta": {"key": "iifname"}}`, `"eth0"`) + accept), partly},
		"from some":                       {"drop", input(nftMatch("==", `{"payload": {"protocol": "ip", "field": "saddr"}}`, `{"prefix": {"addr": "10.0.0.0", "len": 8}}`) + accept), partly},
		"not from some":                   {"accept", input(nftMatch("==", `{"payload": {"protocol": "ip", "field": "saddr"}}`, `"10.0.0.1"`) + drop), partly},
		"as many as there may be":         {"drop", input(nftMatch("==", port, "80") + `{"limit": {"rate": 10, "per": "second"}}, ` + accept), partly},
		"by an extension of iptables":     {"drop", input(`{"xt": {"type": "match", "name": "recent"}}, ` + accept), unknown},
		"iptables rejects the rest":       {"accept", input(nftMatch("==", port, "81")+accept, `{"xt": {"type": "target", "name": "REJECT"}}`), closed},
		"iptables only logs":              {"accept", input(`{"xt": {"type": "target", "name": "LOG"}}`), open},
		"iptables does something else":    {"accept", input(`{"xt": {"type": "target", "name": "CLUSTERIP"}}`), unknown},
		"a statement nobody knows":        {"accept", input(`{"queue": {"num": 1}}`), unknown},
		"by a map that has the rest":      {"accept", input(`{"vmap": {"key": ` + port + `, "data": {"set": [["*", {"drop": null}], [22, {"accept": null}]]}}}`), closed},
		"by a jump":                       {"drop", input(`{"jump": {"target": "web"}}`) + nftRule("web", nftMatch("==", port, "80")+accept), open},
		"by a jump, and back":             {"accept", input(`{"jump": {"target": "web"}}`, drop) + nftRule("web", nftMatch("==", port, "81")+accept), closed},
		"by a jump that leaves":           {"drop", input(`{"goto": {"target": "web"}}`, accept) + nftRule("web", `{"return": null}`), closed},
		"by a jump to itself":             {"drop", input(`{"jump": {"target": "input"}}`), unknown},
		"by a jump to nowhere":            {"drop", input(`{"jump": {"target": "nosuch"}}`), unknown},
		"by the state of the connection":  {"drop", input(`{"vmap": {"key": {"ct": {"key": "state"}}, "data": {"set": [["invalid", {"drop": null}], ["established", {"accept": null}]]}}}`, nftMatch("==", port, "80")+accept), open},
		"by a map of ports":               {"drop", input(`{"vmap": {"key": `+port+`, "data": {"set": [[22, {"accept": null}], [80, {"jump": {"target": "web"}}]]}}}`) + nftRule("web", accept), open},
		"by a named map":                  {"drop", input(`{"vmap": {"key": ` + port + `, "data": "@ports"}}`), unknown},
		"all but what comes before":       {"accept", input(nftMatch("==", port, "80")+accept) + everything, open},
		"what is rejected":                {"accept", input(nftMatch("==", port, "80") + `{"reject": {"type": "tcp reset"}}`), closed},
		"what is only counted and logged": {"drop", input(`{"log": {"prefix": "in"}}`), closed},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			h := host(t, map[string]string{"/usr/sbin/nft": ""}, nftTable(row.policy, row.rules))
			found := said(h.CheckFirewall(t.Context(), []preflight.Port{{Number: 80, For: "us"}}))
			require.Contains(t, found, row.want+" to port 80")
			require.Equal(t, row.want == closed || row.want == unknown, found != "" && found[:4] == "warn")
		})
	}
}

func TestAFirewallThatCannotBeRead(t *testing.T) {
	t.Parallel()
	ports := []preflight.Port{{Number: 80, For: "us"}}
	require.Empty(t, host(t, nil, nil).CheckFirewall(t.Context(), ports), "there is none")
	files := map[string]string{"/usr/sbin/nft": ""}
	for _, text := range []string{"exit 1: Operation not permitted (you must be root)\n", "{", `{"nftables": 1}`} {
		found := said(host(t, files, printed{"/usr/sbin/nft -j list chains": text}).CheckFirewall(t.Context(), ports))
		require.Contains(t, found, "warn firewall: whether a firewall keeps people out is not known: ", text)
	}
	require.Empty(t, host(t, files, printed{"/usr/sbin/nft -j list chains": `{"nftables": [{"metainfo": {}}]}`}).CheckFirewall(t.Context(), ports), "no chain decides anything")
}

// What leads a connection elsewhere, and what is not read, leaves it open who gets in.
func TestWhatIsAsideOfAFirewall(t *testing.T) {
	t.Parallel()
	ports := []preflight.Port{{Number: 80, For: "us"}}
	nat := printed{
		"/usr/sbin/nft -j list chains":       `{"nftables": [{"chain": {"family": "ip", "table": "nat", "name": "pre", "type": "nat", "hook": "prerouting", "policy": "accept"}}]}`,
		"/usr/sbin/nft -j list table ip nat": `{"nftables": [{"chain": {"family": "ip", "table": "nat", "name": "pre", "type": "nat", "hook": "prerouting", "policy": "accept"}}, {"rule": {"family": "ip", "table": "nat", "chain": "pre", "expr": [{"match": {"op": "==", "left": {"payload": {"protocol": "tcp", "field": "dport"}}, "right": 80}}, {"dnat": {"addr": "10.0.0.9"}}]}}]}`,
	}
	require.Contains(t, said(host(t, map[string]string{"/usr/sbin/nft": ""}, nat).CheckFirewall(t.Context(), ports)), "lets some in to port 80")
	require.Contains(t, said(host(t, map[string]string{"/usr/sbin/nft": ""}, nat).CheckFirewall(t.Context(), []preflight.Port{{Number: 81, For: "us"}})), "lets everybody in to port 81")
	require.Contains(t, said(host(t, map[string]string{"/proc/net/ip_tables_names": "filter\n"}, nil).CheckFirewall(t.Context(), ports)), "warn firewall: whether the firewall lets people in to port 80")
	both := nftTable("drop", "")
	both["/usr/sbin/ufw status verbose"] = "Status: active\nDefault: allow (incoming)\n"
	require.Contains(t, said(host(t, map[string]string{"/usr/sbin/ufw": "", "/usr/sbin/nft": ""}, both).CheckFirewall(t.Context(), ports)), "lets nobody in to port 80", "ufw is not all that decides")
}

// What a ruleset says may be anything: it is gone through in bounded time and without a panic.
func FuzzNftables(f *testing.F) {
	many := `{"nftables": [`
	for i := range 17 {
		many += fmt.Sprintf(`{"chain": {"family": "inet", "table": "filter", "name": "c%d", "type": "filter", "hook": "input"}}, `, i)
	}
	for i := range 16 {
		for range 8 {
			many += fmt.Sprintf(`{"rule": {"family": "inet", "table": "filter", "chain": "c%d", "expr": [{"xt": null}, {"jump": {"target": "c%d"}}]}}, `, i, i+1)
		}
	}
	many = strings.TrimSuffix(many, ", ") + "]}"
	f.Add(many, many)
	f.Add(`{"nftables": [{"chain": {"family": "inet", "table": "filter", "name": "input", "type": "filter", "hook": "input", "policy": "drop"}}]}`, `{"nftables": []}`)
	f.Fuzz(func(t *testing.T, chains, table string) {
		h := host(t, map[string]string{"/usr/sbin/nft": ""}, printed{"/usr/sbin/nft -j list chains": chains, "/usr/sbin/nft -j list table inet filter": table})
		h.CheckFirewall(t.Context(), []preflight.Port{{Number: 80, For: "us"}})
	})
}
