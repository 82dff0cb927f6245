package command

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/world"
)

// What a pass leaves for others to see: the document of this host in the store, and public/status.json for whoever may
// read nothing else. Both are small, and written after each pass of run and renew.

// passEnd describes the end of a pass.
type passEnd struct {
	results  []lifecycle.Result
	byDaemon bool
	next     time.Time // of the daemon's next pass; zero: nobody knows
}

// writeDown writes down how a pass ended. A failure is a warning: the pass is over, and its own outcome counts.
func (p *assembly) writeDown(ctx context.Context, end passEnd) (warnings []error) {
	if len(end.results) == 0 {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), writeDownTime)
	defer cancel()
	now := time.Now().Round(0).UTC()
	if err := p.writeNode(ctx, end, now); err != nil {
		warnings = append(warnings, fmt.Errorf("what this host says of itself cannot be written: %w", err))
	}
	if err := p.writeStatus(end, now); err != nil {
		warnings = append(warnings, fmt.Errorf("public/status.json cannot be written: %w", err))
	}
	return warnings
}

// writeDownTime bounds that, also when the pass was interrupted.
const writeDownTime = 300 * time.Millisecond

func (p *assembly) writeNode(ctx context.Context, end passEnd, now time.Time) error {
	node, revision, err := certstore.LoadNode(ctx, p.store, p.config.Node)
	if err != nil {
		// It is written anew: nothing in it is worth more than that.
		node, revision = certstore.Node{V: 1}, ""
		if err := p.store.Delete(ctx, "nodes/"+p.config.Node); err != nil {
			return err
		}
	}
	node.Node, node.MachineID, node.Version = p.config.Node, machineID(p.fsys), version()
	wasOK := node.OK
	node.LastPass, node.OK = now, true
	if end.byDaemon {
		node.LastRun = now
	}
	lastOK := map[string]time.Time{}
	wishes := sha256.New()
	node.Targets = nil
	for _, cert := range p.engine.Certificates {
		fmt.Fprintf(wishes, "%s %s\n", cert.Name, cert.Wish.Hash())
		if at, ok := node.LastOK[cert.Name]; ok {
			lastOK[cert.Name] = at
		}
		for _, target := range cert.Targets {
			node.Targets = append(node.Targets, certstore.NodeTarget{Certificate: cert.Name, Name: target.Info().Name, Type: target.Info().Type})
		}
	}
	passed := map[string]bool{}
	for _, r := range end.results {
		passed[r.Name] = true
		if r.Healthy() {
			lastOK[r.Name] = now
		} else {
			node.OK = false
		}
	}
	for _, cert := range p.engine.Certificates { // one that this pass was not about counts as the last pass left it
		node.OK = node.OK && (passed[cert.Name] || wasOK)
	}
	node.LastOK, node.WishHash = lastOK, "sha256:"+hex.EncodeToString(wishes.Sum(nil))
	node.ClockSkewMS = 0
	for _, client := range p.clients {
		if skew, known := client.Skew(); known && skew.Abs() > (time.Duration(node.ClockSkewMS)*time.Millisecond).Abs() {
			node.ClockSkewMS = skew.Milliseconds()
		}
	}
	return certstore.SaveNode(ctx, p.store, node, revision)
}

// machineID is systemd's, or empty.
func machineID(fsys world.FS) string {
	text, err := fsys.ReadFile("/etc/machine-id")
	if id := strings.TrimSpace(string(text)); err == nil && len(id) == 32 {
		return id
	}
	return ""
}

// publicStatusJSON is public/status.json: what may be known to everybody on this host.
type publicStatusJSON struct {
	Schema       int                     `json:"schema"`
	Node         string                  `json:"node"`
	At           string                  `json:"at"`
	NextPass     *string                 `json:"next_pass"`
	StaleAfter   string                  `json:"stale_after"`
	Certificates []publicCertificateJSON `json:"certificates"`
}

type publicCertificateJSON struct {
	Name        string             `json:"name"`
	At          string             `json:"at"` // of the pass that found it so
	State       string             `json:"state"`
	Reason      string             `json:"reason"`
	Names       []string           `json:"names"`
	NotBefore   *string            `json:"not_before"`
	NotAfter    *string            `json:"not_after"`
	RenewAt     *string            `json:"renew_at"`
	Fingerprint string             `json:"fingerprint"`
	Version     int                `json:"version"`
	Roots       string             `json:"roots"` // path of what clients trust; empty: the system's
	LastFailure *publicFailureJSON `json:"last_failure"`
	Targets     []targetJSON       `json:"targets"`
}

type publicFailureJSON struct {
	Time  string `json:"time"`
	Stage string `json:"stage"`
}

// passTime bounds a pass with all its patience; after it the next one is missed.
const passTime = 30 * time.Minute

func (p *assembly) writeStatus(end passEnd, now time.Time) error {
	dir := filepath.Join(p.config.StateDir, "public")
	stale := now.Add(p.engine.Period + passTime)
	if !end.next.IsZero() {
		stale = end.next.Add(passTime)
	}
	doc := publicStatusJSON{
		Schema: schema, Node: p.config.Node, At: rfc3339(now), NextPass: stamp(end.next), StaleAfter: rfc3339(stale), Certificates: []publicCertificateJSON{},
	}
	if err := p.fsys.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
		return err
	}
	if err := p.fsys.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	passed := map[string]lifecycle.Result{}
	for _, r := range end.results {
		passed[r.Name] = r
	}
	p.keepEarlier(dir, passed, &doc, end)
	for _, cert := range p.engine.Certificates {
		r, ok := passed[cert.Name]
		if !ok {
			continue
		}
		full := newCertificateJSON(cert, r.After)
		one := publicCertificateJSON{
			Name: full.Name, At: rfc3339(now), State: full.State, Reason: full.Reason, Names: full.Names, NotBefore: full.NotBefore, NotAfter: full.NotAfter,
			RenewAt: full.RenewAt, Fingerprint: full.Fingerprint, Version: full.Version, Targets: full.Targets,
		}
		for i := range one.Targets {
			for j := range one.Targets[i].Endpoints {
				one.Targets[i].Endpoints[j].Error = "" // what it says is for those who may read the rest
			}
		}
		if failure := full.LastFailure; failure != nil {
			one.LastFailure = &publicFailureJSON{failure.Time, failure.Stage}
		}
		roots := p.config.Issuers[p.config.Certificate(cert.Name).Issuer].IssuerRootsPEM()
		if len(roots) > 0 {
			one.Roots = filepath.Join(dir, cert.Name+".roots.pem")
			if err := replaceChanged(p.fsys, one.Roots, roots); err != nil {
				return err
			}
		}
		doc.Certificates = append(doc.Certificates, one)
	}
	slices.SortFunc(doc.Certificates, func(a, b publicCertificateJSON) int { return strings.Compare(a.Name, b.Name) })
	text, err := json.MarshalIndent(doc, "", " ")
	if err != nil {
		return err
	}
	return p.fsys.Replace(filepath.Join(dir, "status.json"), append(text, '\n'), 0o644)
}

// keepEarlier keeps what an earlier pass said of the certificates that this one was not about, and with it when that is too
// old to be believed; and when the daemon makes its next pass, of which a person's pass knows nothing.
func (p *assembly) keepEarlier(dir string, passed map[string]lifecycle.Result, doc *publicStatusJSON, end passEnd) {
	var before publicStatusJSON
	text, err := p.fsys.ReadFile(filepath.Join(dir, "status.json"))
	if err != nil || json.Unmarshal(text, &before) != nil {
		return // there is nothing to keep
	}
	others := slices.DeleteFunc(before.Certificates, func(one publicCertificateJSON) bool {
		_, again := passed[one.Name]
		return again || p.config.Certificate(one.Name).Name == ""
	})
	doc.Certificates = append(doc.Certificates, others...)
	// Times in one form and zone compare as text.
	if len(others) > 0 && before.StaleAfter < doc.StaleAfter {
		doc.StaleAfter = before.StaleAfter
	}
	if !end.byDaemon && before.NextPass != nil && *before.NextPass > doc.At {
		doc.NextPass = before.NextPass
	}
}

// replaceChanged writes a public file unless it is as it should be already.
func replaceChanged(fsys world.FS, path string, text []byte) error {
	if have, err := fsys.ReadFile(path); err == nil && string(have) == string(text) {
		return nil
	}
	return fsys.Replace(path, text, 0o644)
}

// latest is the document of the host that made the last pass, if any did.
func latest(nodes []certstore.Node) (last certstore.Node, ok bool) {
	for _, node := range nodes {
		if !ok || node.LastPass.After(last.LastPass) {
			last, ok = node, true
		}
	}
	return last, ok
}

// unattended says so when no daemon looks after the certificates, as far as its own words tell.
func (p *assembly) unattended(nodes []certstore.Node, now time.Time) string {
	var lastRun time.Time
	for _, node := range nodes {
		if node.LastRun.After(lastRun) && !node.LastRun.After(now.Add(time.Minute)) {
			lastRun = node.LastRun
		}
	}
	switch patience := 2*p.engine.Period + passTime; {
	case lastRun.IsZero():
		return "nothing renews this by itself yet, as far as is known: sudo systemctl enable --now maascert"
	case now.Sub(lastRun) > patience:
		return fmt.Sprintf("the daemon has not looked since %s: systemctl status maascert", day(lastRun))
	default:
		return ""
	}
}
