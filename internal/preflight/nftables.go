package preflight

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
)

// nftables are the chains that decide on what comes in, as nft prints them in JSON (libnftables-json(5)). What becomes of a connection is
// found by going through them with what is known of it; a rule that is about anything else may be meant or not.
type nftables struct {
	bases  []chainID // those that the kernel begins with, and that decide
	aside  []chainID // those that may lead a connection elsewhere before it comes to them
	chains map[chainID]*nftChain
	sets   map[chainID][]any

	walked map[chainID]outcome // what is known of the port that is asked about; undecided while it is found out
	blind  bool                // a rule that may be meant does what nobody here can tell
}

// chainID names a chain, or a set.
type chainID struct{ family, table, name string }

type nftChain struct {
	Family, Table, Name, Type, Hook, Policy string

	rules [][]map[string]any
}

type nftRule struct {
	Family, Table, Chain string
	Expr                 []map[string]any
}

type nftSet struct {
	Family, Table, Name string
	Elem                []any
}

type nftListing struct {
	Nftables []struct {
		Chain *nftChain
		Rule  *nftRule
		Set   *nftSet
	}
}

// nftables reads the tables in which something decides on what comes in, but for one.
func (h Host) nftables(ctx context.Context, leftOut chainID) (*nftables, error) {
	rules := &nftables{chains: map[chainID]*nftChain{}, sets: map[chainID][]any{}}
	listing, err := h.nft(ctx, "chains")
	if err != nil {
		return nil, err
	}
	read := map[chainID]bool{}
	for _, object := range listing.Nftables {
		chain := object.Chain
		if chain == nil {
			continue
		}
		id := chainID{chain.Family, chain.Table, chain.Name}
		if (chainID{family: chain.Family, table: chain.Table}) == leftOut {
			continue
		}
		switch isIPv4 := chain.Family == "ip" || chain.Family == "inet"; {
		case isIPv4 && chain.Type == "filter" && (chain.Hook == "input" || chain.Hook == "prerouting"):
			rules.bases = append(rules.bases, id)
		case isIPv4 && chain.Type == "nat" && chain.Hook == "prerouting", chain.Hook == "ingress":
			rules.aside = append(rules.aside, id)
		default:
			continue
		}
		table := chainID{family: chain.Family, table: chain.Table}
		if read[table] {
			continue
		}
		read[table] = true
		// One that is too long has chains of which nothing is known.
		within, err := h.nft(ctx, "table", chain.Family, chain.Table)
		if err != nil && !errors.Is(err, errTooLong) {
			return nil, err
		}
		rules.add(within)
	}
	return rules, nil
}

func (h Host) nft(ctx context.Context, what ...string) (listing nftListing, err error) {
	text, err := h.show(ctx, nftProgram, append([]string{"-j", "list"}, what...)...)
	if errors.Is(err, errTooLong) { // by sets with many elements, which can be left out: what is in them is not known then
		text, err = h.show(ctx, nftProgram, append([]string{"-j", "-t", "list"}, what...)...)
	}
	if err == nil {
		if err = json.Unmarshal([]byte(text), &listing); err != nil {
			err = fmt.Errorf("nft -j list %s: %w", what[0], err)
		}
	}
	return listing, err
}

func (n *nftables) add(listing nftListing) {
	for _, object := range listing.Nftables {
		if c := object.Chain; c != nil {
			n.chains[chainID{c.Family, c.Table, c.Name}] = c
		}
		if s := object.Set; s != nil && s.Elem != nil {
			n.sets[chainID{s.Family, s.Table, s.Name}] = s.Elem
		}
		if r := object.Rule; r != nil {
			if chain := n.chains[chainID{r.Family, r.Table, r.Chain}]; chain != nil {
				chain.rules = append(chain.rules, r.Expr)
			}
		}
	}
}

// outcome is a set of what may become of a connection in a chain.
type outcome uint8

const (
	accepted outcome = 1 << iota
	dropped
	returned  // to the chain that led here
	goingOn   // with the next rule
	undecided = accepted | dropped | returned
)

// maxJumps is how deep chains may lead to others; the kernel's own limit is the same.
const maxJumps = 16

func (n *nftables) passage(port int) passage {
	all := open
	for _, base := range n.bases {
		all = max(all, n.passageOf(base, port))
	}
	for _, base := range n.aside {
		if n.passageOf(base, port) != open {
			all = max(all, partly)
		}
	}
	return all
}

func (n *nftables) passageOf(base chainID, port int) passage {
	n.walked, n.blind = map[chainID]outcome{}, false
	chain := n.chains[base]
	if chain == nil { // it went away meanwhile, or is too long
		return unknown
	}
	end := n.walk(base, port, 0)
	if end&returned != 0 {
		end |= policies[chain.Policy]
	}
	switch {
	case end&dropped == 0:
		return open
	case end&accepted == 0:
		return closed
	case n.blind:
		return unknown
	default:
		return partly
	}
}

var policies = map[string]outcome{"accept": accepted, "drop": dropped, "": accepted}

// walk is what may become of a connection in a chain.
func (n *nftables) walk(id chainID, port, depth int) outcome {
	chain := n.chains[id]
	if chain == nil || depth > maxJumps {
		n.blind = true
		return undecided
	}
	if known, isKnown := n.walked[id]; isKnown {
		n.blind = n.blind || known == undecided
		return known
	}
	n.walked[id] = undecided // to a chain that leads back here
	var possible outcome
	for _, rule := range chain.rules {
		means, end := n.apply(id, rule, port, depth)
		if means == no {
			continue
		}
		possible |= end &^ goingOn
		if means == yes && end&goingOn == 0 {
			n.walked[id] = possible
			return possible
		}
	}
	n.walked[id] = possible | returned
	return possible | returned
}

// apply goes through the statements of a rule: does it mean a connection, and what becomes of that then?
func (n *nftables) apply(at chainID, rule []map[string]any, port, depth int) (means answer, end outcome) {
	means, end = yes, goingOn
	isBlind := false
	for _, statement := range rule {
		for name, body := range statement {
			switch name {
			case "match":
				means = min(means, n.matches(at, body, port))
			case "vmap":
				end = n.choose(at, body, port, depth)
				isBlind = isBlind || end == undecided|goingOn // as of a map whose entries are elsewhere
			case "counter", "log", "comment", "notrack", "mangle":
			case "limit", "quota", "ct count", "set", "map", "meter", "ct helper", "ct timeout", "flow":
				means = min(means, maybe)
			case "xt":
				if target := xtTarget(body); target != 0 {
					end, isBlind = target, isBlind || target&goingOn != 0 && target != goingOn
				} else {
					means, isBlind = min(means, maybe), true // what an extension of iptables compares
				}
			default:
				if end = n.verdict(at, name, body, port, depth); end == 0 {
					means, end, isBlind = min(means, maybe), undecided|goingOn, true // nobody knows what it does
				}
			}
		}
		if means == no {
			return no, 0
		}
	}
	n.blind = n.blind || isBlind && end != goingOn
	return means, end
}

// xtTarget is what an extension of iptables ends in, of which nft tells the name alone; 0: it ends nothing, it compares something.
func xtTarget(body any) outcome {
	extension := object(body)
	if extension["type"] != "target" {
		return 0
	}
	switch extension["name"] {
	case "ACCEPT":
		return accepted
	case "REJECT", "DROP":
		return dropped
	case "RETURN":
		return returned
	case "LOG", "NFLOG", "MARK", "CONNMARK", "TCPMSS", "AUDIT", "TRACE":
		return goingOn
	}
	return undecided | goingOn
}

// verdict is what a statement ends in; 0: it is no verdict.
func (n *nftables) verdict(at chainID, name string, body any, port, depth int) outcome {
	switch name {
	case "accept":
		return accepted
	case "drop", "reject", "dnat", "redirect", "tproxy": // or led elsewhere
		return dropped
	case "return":
		return returned
	case "continue":
		return goingOn
	case "jump", "goto":
		target, _ := body.(map[string]any)
		there, _ := target["target"].(string)
		end := n.walk(chainID{at.family, at.table, there}, port, depth+1)
		if name == "jump" && end&returned != 0 {
			end = end&^returned | goingOn
		}
		return end
	}
	return 0
}

// choose is what a map of verdicts leads to.
func (n *nftables) choose(at chainID, body any, port, depth int) outcome {
	vmap, _ := body.(map[string]any)
	data, _ := vmap["data"].(map[string]any)
	entries, isListed := data["set"].([]any)
	if !isListed {
		return undecided | goingOn
	}
	var possible outcome
	slices.SortStableFunc(entries, func(a, b any) int { return cmp.Compare(others(a), others(b)) })
	for _, entry := range entries {
		pair, _ := entry.([]any)
		if len(pair) != 2 {
			return undecided | goingOn
		}
		if pair[0] == "*" {
			for name, target := range object(pair[1]) {
				return possible | n.verdict(at, name, target, port, depth)
			}
		}
		means := n.matches(at, map[string]any{"op": "==", "left": vmap["key"], "right": pair[0]}, port)
		for name, target := range object(pair[1]) {
			verdict := n.verdict(at, name, target, port, depth)
			switch {
			case means == yes:
				return possible | verdict
			case means == maybe:
				possible |= verdict
			}
		}
	}
	return possible | goingOn
}

// others tells, by 1, that an entry of a map is for whatever no other is for.
func others(entry any) int {
	if pair, isPair := entry.([]any); isPair && len(pair) > 0 && pair[0] == "*" {
		return 1
	}
	return 0
}

func object(value any) map[string]any {
	found, _ := value.(map[string]any)
	return found
}

// answer says whether a rule means a connection.
type answer int

const (
	no answer = iota
	maybe
	yes
)

// known is what is known of a connection, by what nft calls it.
var known = map[string][]string{
	"meta l4proto": {"tcp", "6"}, "meta nfproto": {"ipv4"}, "meta protocol": {"ip"}, "ip protocol": {"tcp", "6"}, "ct state": {"new"},
}

// foreign are protocols that the connection is not of.
var foreign = []string{"udp", "udplite", "icmp", "icmpv6", "igmp", "ip6", "sctp", "dccp", "esp", "ah", "comp", "arp"}

// matches compares what is known of a connection with what a rule asks for.
func (n *nftables) matches(at chainID, body any, port int) answer {
	match := object(body)
	left := object(match["left"])
	subject, protocol := "", ""
	for kind, of := range left {
		parts := object(of)
		protocol, _ = parts["protocol"].(string)
		field, _ := parts["field"].(string)
		key, _ := parts["key"].(string)
		subject = strings.TrimSpace(kind + " " + key)
		if kind == "payload" {
			subject = protocol + " " + field
		}
	}
	if slices.Contains(foreign, protocol) {
		return no
	}
	values := known[subject]
	switch subject {
	case "tcp dport", "th dport":
		values = []string{strconv.Itoa(port)}
	case "meta iifname", "meta iif":
		return fromElsewhere(match)
	}
	if values == nil {
		return maybe
	}
	found := n.holds(at, match["right"], values)
	switch op, _ := match["op"].(string); op {
	case "==", "in":
		return found
	case "!=":
		return yes - found
	default:
		return maybe
	}
}

// fromElsewhere answers for the interface that a connection comes in by, which is not the loopback.
func fromElsewhere(match map[string]any) answer {
	switch {
	case match["right"] != "lo":
		return maybe
	case match["op"] == "!=":
		return yes
	default:
		return no
	}
}

// holds tells whether what a rule compares with is, or has, one of some values.
func (n *nftables) holds(at chainID, right any, values []string) answer {
	switch right := right.(type) {
	case string:
		if name, isSet := strings.CutPrefix(right, "@"); isSet {
			if elements, isKnown := n.sets[chainID{at.family, at.table, name}]; isKnown {
				return n.anyHolds(at, elements, values)
			}
			return maybe
		}
		return answerOf(slices.Contains(values, right))
	case float64:
		return answerOf(slices.Contains(values, strconv.Itoa(int(right))))
	case []any:
		return n.anyHolds(at, right, values)
	case map[string]any:
		if set, isSet := right["set"].([]any); isSet {
			return n.anyHolds(at, set, values)
		}
		if element := object(right["elem"]); element != nil {
			return n.holds(at, element["val"], values)
		}
		if bounds, isRange := right["range"].([]any); isRange && len(bounds) == 2 {
			from, _ := bounds[0].(float64)
			to, _ := bounds[1].(float64)
			return answerOf(slices.ContainsFunc(values, func(value string) bool {
				number, err := strconv.Atoi(value)
				return err == nil && int(from) <= number && number <= int(to)
			}))
		}
	}
	return maybe
}

func (n *nftables) anyHolds(at chainID, elements []any, values []string) answer {
	found := no
	for _, element := range elements {
		found = max(found, n.holds(at, element, values))
	}
	return found
}

func answerOf(isSo bool) answer {
	if isSo {
		return yes
	}
	return no
}

// opening puts a rule before all others of the first chain that keeps people out.
func (n *nftables) opening(port int) string {
	for _, base := range n.bases {
		if n.passageOf(base, port) == closed {
			switch {
			case base.table == "firewalld":
				return fmt.Sprintf("firewall-cmd --permanent --add-port=%d/tcp && firewall-cmd --reload", port)
			case base.name == "INPUT": // iptables made it
				return fmt.Sprintf("iptables -I INPUT -p tcp --dport %d -j ACCEPT # and where this host keeps its rules for the next start", port)
			}
			return fmt.Sprintf("nft insert rule %s %s %s tcp dport %d accept # and in /etc/nftables.conf, for the next start", base.family, base.table, base.name, port)
		}
	}
	return ""
}

func (n *nftables) String() string {
	var names []string
	for _, base := range slices.Concat(n.bases, n.aside) {
		names = append(names, fmt.Sprintf("%s %s %s", base.family, base.table, base.name))
	}
	return "nftables: " + strings.Join(names, ", ")
}
