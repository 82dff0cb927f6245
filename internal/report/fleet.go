package report

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
)

// Fleet is the hosts that share a store; with a file store it is this host alone.
type Fleet struct {
	Lock      map[string]Holder   `json:"lock"` // by certificate
	Nodes     []Node              `json:"nodes"`
	Converged map[string]Converge `json:"converged,omitempty"` // by certificate
}

// Converge is how far hosts have come with the version of a certificate that is in use, as each that is heard of said after its last pass.
type Converge struct {
	Version int `json:"version"`
	Hosts   int `json:"hosts"` // all of whose targets served it, as far as they could be seen
	Of      int `json:"of"`    // that have targets for it, and saw any
}

// Holder is who holds a lock.
type Holder struct {
	Node  string `json:"node"` // empty when only the process is known
	PID   int    `json:"pid"`
	Since Time   `json:"since"`
}

// NewHolder documents who holds a lock.
func NewHolder(h certstore.Holder) Holder {
	return Holder{printable.Text(h.Node), h.PID, Time{h.Since}}
}

// Node is what one host said of its last pass, and what this one makes of it.
type Node struct {
	Node        string                 `json:"node"`
	MachineID   string                 `json:"machine_id"`
	Version     string                 `json:"version"`
	LastPass    Time                   `json:"last_pass"`
	OK          bool                   `json:"ok"`
	WishHash    string                 `json:"wish_hash"`
	ClockSkewMS int64                  `json:"clock_skew_ms"`
	Targets     []certstore.NodeTarget `json:"targets"`
	NoDaemon    bool                   `json:"no_daemon"` // none made a pass there yet
	Silent      bool                   `json:"silent"`    // its daemon should have made another pass since
	Differs     bool                   `json:"differs"`   // its configuration asks for other certificates than this host's

	lastRun time.Time // of its daemon
}

// clockPatience is by how much a host's clock may differ from the CA's before people are told.
const clockPatience = 10 * time.Second

// newFleet documents what hosts said.
func newFleet(own string, nodes []certstore.Node, locks map[string]Holder, silence lifecycle.Silence, now time.Time) Fleet {
	f := Fleet{Lock: locks, Nodes: []Node{}, Converged: map[string]Converge{}}
	var wishes map[string]string
	for _, n := range nodes {
		if n.Node == own {
			wishes = n.Wishes
		}
	}
	for _, n := range nodes {
		f.Nodes = append(f.Nodes, Node{
			Node: printable.Text(n.Node), MachineID: printable.Text(n.MachineID), Version: printable.Text(n.Version), LastPass: Time{n.LastPass}, OK: n.OK, WishHash: n.WishHash,
			ClockSkewMS: n.ClockSkewMS, Targets: n.Targets, lastRun: n.LastRun,
			NoDaemon: n.LastRun.IsZero(), Silent: !n.LastRun.IsZero() && now.Sub(n.LastRun) > silence.Of(n), Differs: len(wishes) > 0 && len(n.Wishes) > 0 && !maps.Equal(n.Wishes, wishes),
		})
	}
	return f
}

// converge counts the hosts that have come to the version of a certificate that is in use.
func (f *Fleet) converge(cert string, version int) {
	c := Converge{Version: version}
	for _, n := range f.Nodes {
		targets := slices.DeleteFunc(slices.Clone(n.Targets), func(t certstore.NodeTarget) bool { return t.Certificate != cert || t.Version == nil })
		if len(targets) == 0 || n.Silent { // of which nobody knows
			continue
		}
		c.Of++
		if !slices.ContainsFunc(targets, func(t certstore.NodeTarget) bool { return *t.Version != version }) {
			c.Hosts++
		}
	}
	if c.Of > 0 && version > 0 {
		f.Converged[cert] = c
	}
}

// mostConverged is of how many certificates a terminal shows one by one how far hosts have come.
const mostConverged = 3

// Words writes the document for people. A host that is alone is told of elsewhere.
func (f Fleet) Words(w io.Writer, own string, on Screen) {
	for _, cert := range slices.Sorted(maps.Keys(f.Lock)) {
		holder := f.Lock[cert]
		fmt.Fprintf(w, "%s is being worked on by %s (process %d) since %s\n", cert, cmp.Or(holder.Node, "another run"), holder.PID, holder.Since)
	}
	if len(f.Nodes) < 2 {
		return
	}
	fmt.Fprintf(w, "%d hosts:\n", len(f.Nodes))
	converged := 0
	for _, cert := range slices.Sorted(maps.Keys(f.Converged)) {
		c := f.Converged[cert]
		if on.isDrawnOn() && len(f.Converged) > mostConverged && c.Hosts == c.Of {
			converged++
			continue
		}
		fmt.Fprintf(w, "  %d of %d found version %d of %s wherever they look\n", c.Hosts, c.Of, c.Version, cert)
	}
	if converged > 0 {
		fmt.Fprintf(w, "  of %d certificates each host that is heard of found the version in use wherever it looks\n", converged)
	}
	version := ""
	for _, n := range f.Nodes {
		if n.Node == own {
			version = n.Version
		}
	}
	if on.isDrawnOn() {
		fmt.Fprintln(w)
		on.drawHosts(w, f.Nodes, version)
		fmt.Fprintln(w)
		return
	}
	for _, n := range f.Nodes {
		n.words(w, version)
	}
}

// words writes a line on a host, and one on each thing about it that somebody may have to look into.
func (n Node) words(w io.Writer, version string) {
	state := "well"
	if !n.OK {
		state = "not well"
	}
	fmt.Fprintf(w, "  %s: %s at its last pass, %s", n.Node, state, n.LastPass)
	if own := n.proxies(); own != "" {
		fmt.Fprintf(w, "; %s", own)
	}
	fmt.Fprintln(w)
	for _, trouble := range n.troubles(version) {
		fmt.Fprintf(w, "    %s\n", trouble)
	}
}

// troubles are what somebody may have to look into. version is that of maascert on this host; empty: it is not known.
func (n Node) troubles(version string) []string {
	var all []string
	add := func(format string, args ...any) { all = append(all, fmt.Sprintf(format, args...)) }
	if n.NoDaemon {
		add("no daemon has made a pass there yet; there: systemctl enable --now maascert")
	}
	if n.Silent {
		add("its daemon was not heard of since %s; there: systemctl status maascert; if it left: maascert delete --node %s", Time{n.lastRun}, n.Node)
	}
	if skew := time.Duration(n.ClockSkewMS) * time.Millisecond; skew.Abs() >= clockPatience {
		side := "behind"
		if skew < 0 {
			side = "ahead of"
		}
		add("its clock is %v %s the CA's; there: timedatectl", skew.Abs(), side)
	}
	if n.Differs {
		add("its configuration asks for other certificates than this host's")
	}
	if version != "" && n.Version != version {
		add("it runs maascert %s, this host %s", n.Version, version)
	}
	return all
}

// proxies are what the targets of the host alone served.
func (n Node) proxies() string {
	var all []string
	for _, t := range n.Targets {
		switch {
		case t.Shared, t.Version == nil:
		case *t.Version == 0:
			all = append(all, fmt.Sprintf("%s did not serve %s as it should", printable.Text(t.Name), printable.Text(t.Certificate)))
		default:
			all = append(all, fmt.Sprintf("%s served version %d", printable.Text(t.Name), *t.Version))
		}
	}
	return strings.Join(all, ", ")
}
