package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
	"maascert/internal/world"
)

// What a pass leaves for others to see: the document of this host in the store, and public/status.json for whoever may
// read nothing else. Both are small, and written after each pass of run and renew.

// passEnd describes the end of a pass.
type passEnd struct {
	results  []lifecycle.Result
	byDaemon bool
	byTimer  bool          // systemd had it made, and will again
	next     time.Time     // of the daemon's next pass; zero: nobody knows
	board    *report.Board // that shows it; nil: there is none

	notifiers []certstore.NodeNotifier // how telling goes with each
}

// endPass ends a pass that a person made: people are told, and it is written down. What could not be is a warning, the latter only where
// the pass did not fail: then it is most likely for the same reason, and that has been said.
func (a *app) endPass(ctx context.Context, p *assembly, results []lifecycle.Result) {
	a.warnAll(p.tellByHand(ctx, results))
	// systemd gives whatever it starts an invocation ID.
	unwritten := p.writeDown(ctx, passEnd{results: results, byTimer: a.invocation() != "" && !a.isTerminal()})
	if !slices.ContainsFunc(results, func(r lifecycle.Result) bool { return len(r.Troubles) > 0 }) {
		a.warnAll(unwritten)
	}
}

// writeDown writes down how a pass ended. A failure is a warning: the pass is over, and its own outcome counts.
func (p *assembly) writeDown(ctx context.Context, end passEnd) (warnings []error) {
	if len(end.results) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeDownTime)
	defer cancel()
	now := p.now().Round(0).UTC()
	var err error
	if end.notifiers, err = p.writeNode(ctx, end, now); err != nil {
		warnings = append(warnings, fmt.Errorf("what this host says of itself cannot be written: %w", err))
	}
	doc := p.document(end, now)
	if err := p.writeStatus(doc); err != nil {
		warnings = append(warnings, fmt.Errorf("public/status.json cannot be written: %w", err))
	}
	if err := p.writeRoots(end); err != nil {
		warnings = append(warnings, fmt.Errorf("the public file of roots cannot be written: %w", err))
	}
	if path := p.config.Metrics.Textfile; path != "" {
		if err := writeTextfile(p.fsys, path, doc); err != nil {
			warnings = append(warnings, hint.Add(fmt.Errorf("metrics.textfile cannot be written: %w", err), "its folder must exist; the unit of a deb host wants it among ReadWritePaths="))
		}
	}
	if end.board != nil {
		end.board.Show(doc)
	}
	return warnings
}

// writeDownTime bounds that, also when the pass was interrupted.
const writeDownTime = 300 * time.Millisecond

// writeNode writes this host's document, and returns what it says of notifiers.
func (p *assembly) writeNode(ctx context.Context, end passEnd, now time.Time) (notifiers []certstore.NodeNotifier, err error) {
	tellings := p.tellings
	p.tellings = nil // which are counted once
	notifiers = p.notifiers(nil, tellings, now)
	return notifiers, certstore.UpdateNode(ctx, p.store, p.config.Node, func(node *certstore.Node) {
		p.describe(node, end, now)
		node.Notifiers = p.notifiers(node.Notifiers, tellings, now)
		notifiers = node.Notifiers
	})
}

// wished is the hash of what this host is known to wish of a certificate: of its configuration where the pass saw to it that that is followed, or
// that another host's is, and else what it was before, so that what is new is not forgotten.
func (end passEnd) wished(cert lifecycle.Certificate, node, before string) (hash string, is bool) {
	for _, r := range end.results {
		if r.Name == cert.Name && r.After.KnowsWish(node, cert.Wish) {
			return cert.Wish.Hash(), true
		}
	}
	return before, before != ""
}

// served is the version that every endpoint of a target served at the end of the pass, or of the last one that was about it.
func (end passEnd) served(cert, target string, before []certstore.NodeTarget) *int {
	for _, r := range end.results {
		if r.Name == cert {
			return r.After.Served(target)
		}
	}
	for _, t := range before {
		if t.Certificate == cert && t.Name == target {
			return t.Version
		}
	}
	return nil
}

// describe says how a pass ended, in what this host said before.
func (p *assembly) describe(node *certstore.Node, end passEnd, now time.Time) {
	node.MachineID, node.Version = machineID(p.fsys), version()
	wasOK := node.OK
	node.LastPass, node.OK = now, true
	if end.byDaemon || end.byTimer {
		node.LastRun, node.ByTimer = now, !end.byDaemon
	}
	p.describeWishes(node, end)
	lastOK, passed := map[string]time.Time{}, map[string]bool{}
	for _, cert := range p.engine.Certificates {
		if at, ok := node.LastOK[cert.Name]; ok {
			lastOK[cert.Name] = at
		}
	}
	for _, r := range end.results {
		passed[r.Name] = true
		if r.Healthy() {
			lastOK[r.Name] = now
		}
		node.OK = node.OK && r.IsWell()
		p.seen.saw(r.Name, r.After)
	}
	node.LastOK = lastOK
	latest := map[string]certstore.Seen{}
	for _, cert := range p.engine.Certificates {
		node.OK = node.OK && (passed[cert.Name] || wasOK) // one that this pass was not about counts as the last pass left it
		if seen := p.seen.latest(cert.Name).Newest(node.Latest[cert.Name]); seen.Highest > 0 {
			latest[cert.Name] = seen
		}
	}
	node.Latest = latest
	if skew, known := p.skew(); known { // else no CA was asked, and what one said last stays
		node.ClockSkewMS = skew.Milliseconds()
	}
}

// describeWishes says what this host is configured for, and which versions its targets were seen to serve.
func (p *assembly) describeWishes(node *certstore.Node, end passEnd) {
	said, before := node.Wishes, node.Targets
	node.Wishes, node.Targets = map[string]string{}, nil
	wishes := sha256.New()
	for _, cert := range p.engine.Certificates {
		if hash, is := end.wished(cert, p.config.Node, said[cert.Name]); is {
			node.Wishes[cert.Name] = hash
		}
		fmt.Fprintf(wishes, "%s %s\n", cert.Name, cert.Wish.Hash())
		for _, target := range cert.Targets {
			info := target.Info()
			node.Targets = append(node.Targets, certstore.NodeTarget{
				Certificate: cert.Name, Name: info.Name, Type: info.Type, Shared: info.Shared, Version: end.served(cert.Name, info.Name, before),
			})
		}
	}
	node.WishHash = "sha256:" + hex.EncodeToString(wishes.Sum(nil))
}

// skew is by how much the clock of a CA that was asked was ahead of this host's, of several the one that differs most; false where none was
// asked.
func (p *assembly) skew() (largest time.Duration, known bool) {
	for _, client := range p.clients {
		if skew, isKnown := client.Skew(); isKnown {
			known = true
			if skew.Abs() > largest.Abs() {
				largest = skew
			}
		}
	}
	return largest, known
}

// checkTwin refuses to work under a name that another machine has: what they say of themselves would be one.
func (p *assembly) checkTwin(ctx context.Context) error {
	own := machineID(p.fsys)
	if !p.config.Store.IsShared() || own == "" {
		return nil
	}
	node, _, err := certstore.LoadNode(ctx, p.store, p.config.Node)
	// Whether the store can be read is said by whoever has to.
	if err != nil || node.MachineID == "" || node.MachineID == own || p.now().Sub(node.LastPass) >= certstore.NodeAge {
		return nil
	}
	return hint.Add(fmt.Errorf("two machines are called %s: this one (%s), and %s, which made a pass at %s", p.config.Node, own, printable.Phrase(node.MachineID), printable.Time(node.LastPass)),
		"node: another name for one of them; or, where that machine is gone: maascert delete --node %s --yes", p.config.Node)
}

// machineID is systemd's, or empty.
func machineID(fsys world.FS) string {
	text, err := fsys.ReadFile("/etc/machine-id")
	if id := strings.TrimSpace(string(text)); err == nil && len(id) == 32 {
		return id
	}
	return ""
}

// document is what may be known of the certificates, as the pass left them and, where it was not about one, as an earlier pass did.
func (p *assembly) document(end passEnd, now time.Time) report.Public {
	doc := report.NewPublic(p.config.Node, end.next, p.engine.Period, now)
	doc.AddNotifiers(end.notifiers)
	for _, cert := range p.engine.Certificates {
		for _, r := range end.results {
			if r.Name == cert.Name {
				doc.Add(cert, r, p.rootsPath(cert, r.After))
			}
		}
	}
	if before, err := p.fsys.ReadFile(p.statusFile()); err == nil { // else there is nothing to keep
		doc.KeepEarlier(before, func(cert string) bool { return p.config.Certificate(cert).Name != "" }, end.byDaemon)
	}
	return doc
}

// rootsPath is the path of what clients of a certificate are to trust; empty for the system's.
func (p *assembly) rootsPath(cert lifecycle.Certificate, view lifecycle.View) string {
	if len(p.roots(cert, view)) > 0 {
		return cert.RootsFile
	}
	if _, err := p.fsys.Stat(cert.RootsFile); view.Blind && err == nil {
		return cert.RootsFile // what was there, stays
	}
	return ""
}

// roots are what clients of a certificate are to trust; none for the system's, or where that is not known.
func (p *assembly) roots(cert lifecycle.Certificate, view lifecycle.View) []byte {
	if view.Blind {
		return nil
	}
	return view.RootsPEM(p.config.Issuers[p.config.Certificate(cert.Name).Issuer].IssuerRootsPEM())
}

func (p *assembly) statusFile() string {
	return filepath.Join(p.config.StateDir, "public", "status.json")
}

func (p *assembly) writeStatus(doc report.Public) error {
	dir := filepath.Dir(p.statusFile())
	if err := p.fsys.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	if err := p.fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	text, err := doc.Text()
	if err != nil {
		return err
	}
	return p.fsys.Replace(p.statusFile(), text, 0o644)
}

// writeRoots writes what clients are to trust. Where it is the system's roots, there is no such file.
func (p *assembly) writeRoots(end passEnd) error {
	var failures []error
	for _, cert := range p.engine.Certificates {
		for _, r := range end.results {
			roots := p.roots(cert, r.After)
			switch {
			case r.Name != cert.Name || r.After.Blind:
			case len(roots) > 0:
				failures = append(failures, replaceChanged(p.fsys, cert.RootsFile, roots))
			default:
				if err := p.fsys.Remove(cert.RootsFile); !errors.Is(err, fs.ErrNotExist) {
					failures = append(failures, err)
				}
			}
		}
	}
	return errors.Join(failures...)
}

// replaceChanged writes a public file unless it is as it should be already.
func replaceChanged(fsys world.FS, path string, text []byte) error {
	if have, err := fsys.ReadFile(path); err == nil && string(have) == string(text) {
		return nil
	}
	return fsys.Replace(path, text, 0o644)
}
