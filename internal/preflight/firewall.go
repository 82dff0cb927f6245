package preflight

import (
	"context"
	"errors"
	"fmt"
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
	open   passage = iota // everybody
	partly                // it depends on who asks, or on what cannot be told
	closed                // nobody
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
			items = append(items, report.Asked("firewall", fmt.Sprintf("the firewall lets everybody in to port %d, for %s", port.Number, port.For), evidence, nil))
		case partly:
			items = append(items, report.Asked("firewall", fmt.Sprintf("the firewall lets some in to port %d, for %s; whom, it decides by more than can be told here", port.Number, port.For), evidence, nil))
		case closed:
			items = append(items, report.Warning("firewall", fmt.Sprintf("the firewall lets nobody in to port %d, for %s", port.Number, port.For), evidence, filter.opening(port.Number)))
		}
	}
	return items
}

// filter is the packet filter in force: ufw where it is active, whose rules nftables shows only in part, else nftables. Nil: none.
func (h Host) filter(ctx context.Context) (filter, error) {
	if h.exists(ufwProgram) {
		text, err := h.show(ctx, ufwProgram, "status", "verbose")
		if err != nil {
			return nil, err
		}
		if strings.Contains(text, "Status: active") {
			return parseUFW(text), nil
		}
	}
	if !h.exists(nftProgram) {
		return nil, nil
	}
	rules, err := h.nftables(ctx)
	if err != nil || len(rules.bases) == 0 {
		return nil, err
	}
	return rules, nil
}

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
		return "", errors.New(program + " prints more than is read")
	}
	return string(result.Stdout), nil
}
