package preflight

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/world"
)

// Port is a TCP port of this host to which somebody has to be able to connect.
type Port struct {
	Number int
	For    string // who, and what for
}

// passage says who may connect to a port, as far as a packet filter tells.
type passage int

const (
	open    passage = iota // everybody
	partly                 // it depends on who asks
	unknown                // it depends on what cannot be told here
	closed                 // nobody
)

// filter is a packet filter as it is now, for new TCP connections over IPv4 from elsewhere.
type filter interface {
	passage(port int) passage
	opening(port int) string // what lets everybody in
	String() string
}

// Where the programs are (Debian and Ubuntu).
const (
	ufwProgram = "/usr/sbin/ufw"
	nftProgram = "/usr/sbin/nft"
)

// CheckFirewall tells whether this host's packet filter lets connections in. Without one there is nothing to tell.
func (h Host) CheckFirewall(ctx context.Context, ports []Port) []report.Item {
	filter, err := h.filter(ctx)
	if err != nil {
		return []report.Item{report.Warning("firewall", "whether a firewall keeps people out is not known: "+printable.Error(err), "", hint.Of(err))}
	}
	if filter == nil {
		return nil
	}
	var items []report.Item
	for _, port := range ports {
		evidence := fmt.Sprintf("port %d: %v", port.Number, filter)
		switch filter.passage(port.Number) {
		case open:
			items = append(items, report.Asked("firewall", fmt.Sprintf("the firewall lets everybody in to port %d over IPv4, for %s", port.Number, port.For), evidence, nil))
		case partly:
			items = append(items, report.Asked("firewall", fmt.Sprintf("the firewall lets some in to port %d over IPv4, for %s; whom, it decides by who asks", port.Number, port.For), evidence, nil))
		case unknown:
			items = append(items, report.Warning("firewall", fmt.Sprintf("whether the firewall lets people in to port %d, for %s, cannot be told here", port.Number, port.For), evidence, "look at its rules (nft list ruleset, iptables -S), and try it from elsewhere: nc -vz HOST "+strconv.Itoa(port.Number)))
		case closed:
			items = append(items, report.Warning("firewall", fmt.Sprintf("the firewall lets nobody in to port %d over IPv4, for %s", port.Number, port.For), evidence, filter.opening(port.Number)))
		}
	}
	return items
}

// filter is the packet filter in force: ufw where it is active, whose rules nftables shows only in part, else nftables. Nil: none.
func (h Host) filter(ctx context.Context) (filter, error) {
	var all filters
	if h.exists(ufwProgram) {
		text, err := h.show(ctx, ufwProgram, "status", "verbose")
		if err != nil {
			return nil, err
		}
		if strings.Contains(text, "Status: active") {
			all = append(all, parseUFW(text))
		}
	}
	if h.exists(nftProgram) {
		leftOut := chainID{}
		if len(all) > 0 { // ufw's own rules are there as well, in a form that shows only a part of them
			leftOut = chainID{family: "ip", table: "filter"}
		}
		rules, err := h.nftables(ctx, leftOut)
		if err != nil {
			return nil, err
		}
		if len(rules.bases)+len(rules.aside) > 0 {
			all = append(all, rules)
		}
	}
	if legacy := strings.Fields(string(h.read("/proc/net/ip_tables_names"))); slices.Contains(legacy, "filter") {
		all = append(all, unread("iptables-legacy"))
	}
	if len(all) == 0 {
		return nil, nil
	}
	return all, nil
}

// filters are all those that a connection has to pass.
type filters []filter

func (f filters) passage(port int) passage {
	all := open
	for _, one := range f {
		all = max(all, one.passage(port))
	}
	return all
}

func (f filters) opening(port int) string {
	for _, one := range f {
		if one.passage(port) == closed {
			return one.opening(port)
		}
	}
	return ""
}

func (f filters) String() string {
	var names []string
	for _, one := range f {
		names = append(names, one.String())
	}
	return strings.Join(names, "; ")
}

// unread is a packet filter that is there, and of which nobody here knows the rules.
type unread string

func (unread) passage(int) passage { return unknown }
func (unread) opening(int) string  { return "" }
func (u unread) String() string    { return string(u) + ", whose rules are not read" }

var errTooLong = errors.New("prints more than is read")

// show is what a program prints.
func (h Host) show(ctx context.Context, program string, args ...string) (string, error) {
	result, err := h.Runner.Run(ctx, world.Command{Path: program, Args: args, Timeout: programTime})
	switch {
	case err != nil:
		return "", err
	case result.Exit != 0:
		said := strings.TrimSpace(string(result.Stderr) + string(result.Stdout))
		return "", hint.Add(fmt.Errorf("%s ends with %d: %s", world.Command{Path: program, Args: args}, result.Exit, printable.Phrase(said)), "run maascert as root")
	case len(result.Stdout) >= world.MaxOutput:
		return "", fmt.Errorf("%s %w", program, errTooLong)
	}
	return string(result.Stdout), nil
}
