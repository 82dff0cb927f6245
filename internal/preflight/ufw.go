package preflight

import (
	"fmt"
	"net/netip"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// ufw are the rules of an active ufw: those of its users, in their order, and what becomes of whatever none of them is about.
type ufw struct {
	rules []ufwRule
	lets  bool // in what no rule is about
}

// ufwRule is one rule about incoming connections.
type ufwRule struct {
	ports  [][2]int // from, to; none: every port
	lets   bool
	isFor  bool // everybody, at every address of this host
	isTold bool // what it is about
}

// ufwRules are lines such as
//
//	5241:5247/tcp              ALLOW IN    Anywhere
//	80,443/tcp (Nginx Full)    LIMIT IN    10.0.0.0/8
var ufwRules = regexp.MustCompile(`^(.+?)\s+(ALLOW|LIMIT|DENY|REJECT)( IN| OUT| FWD)?\s+(.+?)\s*$`)

// ufwAside is what is said of a rule beside it: a comment, and that it is logged.
var ufwAside = regexp.MustCompile(` +# .*$| +\(log(-all)?\)`)

// ufwPorts begin such a line: the address of this host, where it is about one, ports, and an interface.
var ufwPorts = regexp.MustCompile(`^([\da-f.:/]+ )?([\d:,]+)(?:/(tcp|udp))?(?: \([^)]*\))?( on \S+)?$`)

// parseUFW reads what ufw status verbose prints. Rules for IPv6 are left out.
func parseUFW(text string) *ufw {
	rules := &ufw{}
	for line := range strings.Lines(text) {
		line = ufwAside.ReplaceAllString(strings.TrimSpace(line), "")
		if defaults, isDefault := strings.CutPrefix(line, "Default: "); isDefault {
			rules.lets = strings.HasPrefix(defaults, "allow (incoming)")
			continue
		}
		parts := ufwRules.FindStringSubmatch(line)
		if parts == nil || strings.HasSuffix(parts[1], "(v6)") || strings.HasSuffix(parts[4], "(v6)") || parts[3] == " OUT" || parts[3] == " FWD" {
			continue
		}
		rule := ufwRule{lets: parts[2] == "ALLOW" || parts[2] == "LIMIT", isFor: parts[4] == "Anywhere" && parts[2] != "LIMIT", isTold: true}
		if from, _, _ := strings.Cut(parts[4], " "); isIPv6(from) {
			continue
		}
		about := ufwPorts.FindStringSubmatch(parts[1])
		switch {
		case parts[1] == "Anywhere":
		case about == nil:
			rule.isTold = false
		case about[3] == "udp" || isIPv6(strings.TrimSpace(about[1])):
			continue
		default:
			rule.ports, rule.isFor = portRanges(about[2]), rule.isFor && about[1]+about[4] == ""
		}
		rules.rules = append(rules.rules, rule)
	}
	return rules
}

// isIPv6 tells whether a rule's text is an address of IPv6, or a network of it.
func isIPv6(text string) bool {
	bare, _, _ := strings.Cut(text, "/")
	address, err := netip.ParseAddr(bare)
	return err == nil && address.Is6()
}

// portRanges reads 80,443 and 5241:5247.
func portRanges(text string) [][2]int {
	var ranges [][2]int
	for one := range strings.SplitSeq(text, ",") {
		first, last, isRange := strings.Cut(one, ":")
		if !isRange {
			last = first
		}
		from, err := strconv.Atoi(first)
		to, lastErr := strconv.Atoi(last)
		if err == nil && lastErr == nil {
			ranges = append(ranges, [2]int{from, to})
		}
	}
	return ranges
}

// passage goes through the rules in their order, of which the first decides that is about a connection.
func (u *ufw) passage(port int) passage {
	letsSome, keepsSome := false, false
	end := func(lets bool) passage {
		switch {
		case lets && !keepsSome:
			return open
		case !lets && !letsSome:
			return closed
		}
		return partly
	}
	for _, rule := range u.rules {
		isAbout := len(rule.ports) == 0 || slices.ContainsFunc(rule.ports, func(r [2]int) bool { return r[0] <= port && port <= r[1] })
		switch {
		case rule.isTold && !isAbout:
		case rule.isTold && rule.isFor:
			return end(rule.lets)
		default:
			letsSome, keepsSome = letsSome || rule.lets, keepsSome || !rule.lets
		}
	}
	return end(u.lets)
}

func (u *ufw) opening(port int) string { return fmt.Sprintf("ufw prepend allow %d/tcp", port) }

func (u *ufw) String() string { return fmt.Sprintf("ufw is active, with %d rules", len(u.rules)) }
