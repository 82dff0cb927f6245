package maasconfig

import (
	"bytes"
	"context"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Deploy has MAAS take a bundle and looks at every endpoint until each serves it or the time is up. When no endpoint's
// answer changes for a while, it tells MAAS once more, for the laggards. When every endpoint was seen to refuse the
// bundle, it puts the previous pair back.
func (m *MAAS) Deploy(ctx context.Context, d Deployment) (Outcome, error) {
	var outcome Outcome
	if leaf := d.Bundle.Leaf(); isStaging(leaf) {
		return outcome, fmt.Errorf("the certificate is a test certificate (%s)", leaf.Issuer)
	}
	if err := m.mayServe(ctx, d); err != nil {
		return outcome, err
	}
	port, err := m.port(ctx, Want{Accept: d.Accept, Ours: d.Ours, Port: d.Port})
	if err != nil {
		return outcome, err
	}
	before := Judged(m, m.Probe(ctx), d.Bundle)
	var deadline time.Time
	for outcome.Tries < d.Tries {
		if err := d.BeforeTry(); err != nil {
			return outcome, err
		}
		outcome.Endpoints = nil
		telling, err := m.apply(ctx, d.Bundle, port, m.selfTest)
		if outcome.Tries == 0 {
			outcome.Telling = telling // a second call that fails takes nothing back
		}
		if err != nil {
			return outcome, err
		}
		if outcome.Tries++; deadline.IsZero() {
			deadline = time.Now().Add(m.patience(d))
		}
		quiet := time.Duration(0)
		if outcome.Tries < d.Tries {
			quiet = min(silence, m.patience(d)/2)
		}
		if outcome.Endpoints, err = m.verify(ctx, d, deadline, quiet); err != nil || Serving(outcome.Endpoints) {
			return outcome, err
		}
		if time.Until(deadline) <= 0 {
			break
		}
	}
	nobody := m.deaf(before, outcome)
	if !everyoneRefused(outcome.Endpoints) || d.Previous == nil || !d.Previous.Leaf().NotAfter.After(m.config.Now()) {
		return outcome, nobody
	}
	// It was served before, whoever trusted it: there is nothing to test.
	outcome.Endpoints = nil
	if _, err := m.apply(ctx, d.Previous, port, func(string) error { return nil }); err != nil {
		return outcome, fmt.Errorf("putting the previous certificate back: %w", err)
	}
	outcome.RolledBack = true
	outcome.Endpoints = Judged(m, m.Probe(ctx), d.Bundle)
	if nobody != nil {
		nobody = hint.Add(fmt.Errorf("%w; the one before it was put back", nobody), "%s", hint.Of(nobody))
	}
	return outcome, nobody
}

// silence is how long no endpoint's answer changes before MAAS is told again: a region may take two minutes (MAAS fact
// 2.4), and telling it again meanwhile helps nothing.
const silence = 150 * time.Second

// patience bounds the wait for endpoints, from the end of the first call on.
func (m *MAAS) patience(d Deployment) time.Duration {
	if d.Within > 0 {
		return min(d.Within, m.config.VerifyTimeout)
	}
	return m.config.VerifyTimeout
}

// deaf says so when MAAS was told twice and nothing changed anywhere: then it is not this certificate.
func (m *MAAS) deaf(before []Endpoint, outcome Outcome) error {
	if outcome.Tries < 2 || len(before) != len(outcome.Endpoints) {
		return nil
	}
	for i, e := range outcome.Endpoints {
		if e.IsServing() || e.State == Unknown || e.Observed() != before[i].Observed() {
			return nil
		}
	}
	return hint.Add(fmt.Errorf("MAAS took the certificate twice, and no region changed anything (%s)", Troubles(outcome.Endpoints)),
		"no region listens: look for \"Unhandled error in Deferred\" in regiond's log (a tls_cert_expiration setting with an empty value makes every region deaf), mend that, and restart regiond on every region")
}

// everyoneRefused tells whether every endpoint was seen to serve something else or nothing. One that cannot be asked
// proves nothing.
func everyoneRefused(endpoints []Endpoint) bool {
	return len(endpoints) > 0 && !slices.ContainsFunc(endpoints, func(e Endpoint) bool { return e.State != Other && e.State != None })
}

// mayServe are the guards that need the bundle. MAAS itself checks next to nothing (MAAS observation 6).
func (m *MAAS) mayServe(ctx context.Context, d Deployment) error {
	leaf, now := d.Bundle.Leaf(), m.config.Now()
	if !leaf.NotAfter.After(now) {
		return fmt.Errorf("the certificate expired at %s", leaf.NotAfter.UTC().Format(time.RFC3339))
	}
	if err := m.trusted(leaf, d.Bundle.Chain()); err != nil {
		return hint.Add(fmt.Errorf("clients would not trust the certificate: %w", err), "set acme.issuer_root to the root that clients trust")
	}
	if err := keyLoads(d.Bundle.KeyType(), m.here(ctx).Version); err != nil {
		return err
	}
	return m.namesLost(ctx, Want{Names: certstore.CertificateNames(leaf), Earlier: d.Earlier, Accept: d.Accept, Ours: d.Ours})
}

// isStaging knows Let's Encrypt's test CA by its name, should somebody trust its root.
func isStaging(leaf *x509.Certificate) bool {
	return strings.Contains(leaf.Issuer.String(), "(STAGING)") || strings.HasPrefix(leaf.Issuer.CommonName, "Fake LE")
}

// apply stages a pair, tests it with the very files, and runs config-tls. The stage is gone when it returns, whatever
// happened.
func (m *MAAS) apply(ctx context.Context, bundle *certstore.Bundle, port int, test func(dir string) error) (telling Telling, err error) {
	here, err := m.installation(ctx)
	if err != nil {
		return NotTold, err
	}
	dir, wipe, err := m.stage(here.StageDir, bundle)
	if err != nil {
		return NotTold, hint.Add(fmt.Errorf("stage: %w", err), "maas.stage_dir must be a folder that root can write and the maas command can read")
	}
	defer func() { err = errors.Join(err, wipe()) }()
	if err := test(dir); err != nil {
		return NotTold, fmt.Errorf("a handshake with the staged files: %w", err)
	}
	if ctx.Err() != nil {
		return NotTold, context.Cause(ctx)
	}
	result, err := m.config.Runner.Run(ctx, m.command(here, dir, bundle, port))
	if err != nil {
		return Unsure, hint.Add(fmt.Errorf("config-tls: %w", err), "is MAAS well? %s; then: maascert renew", here.Status())
	}
	if result.Exit != 0 {
		words := lastWords(result)
		advice, known := adviceFor(words)
		if !known {
			advice = "is MAAS well? " + here.Status() + "; then: maascert renew"
		}
		return NotTold, hint.Add(fmt.Errorf("MAAS was not told: config-tls: %s", words), "%s", advice)
	}
	return Told, nil
}

// command is the one call that changes MAAS. The key comes first; a chain in the certificate's file would be lost
// (MAAS fact 1.4); without --yes it would ask for ever.
func (m *MAAS) command(here Installation, dir string, bundle *certstore.Bundle, port int) world.Command {
	args := []string{"config-tls", "enable", filepath.Join(dir, keyFile), filepath.Join(dir, leafFile)}
	if len(bundle.Chain()) > 0 {
		args = append(args, "--cacert", filepath.Join(dir, chainFile))
	}
	args = append(args, "--port", strconv.Itoa(port), "--yes")
	return world.Command{Path: here.Command, Args: args, Timeout: m.config.Timeout}
}

// lastWords cuts the error out of MAAS's long help text (MAAS fact 1.3): the last paragraph, in one line.
func lastWords(result world.Result) string {
	text := bytes.TrimSpace(result.Stderr)
	if at := bytes.LastIndex(text, []byte("\n\n")); at >= 0 {
		text = text[at:]
	}
	words := strings.Join(strings.Fields(string(text)), " ")
	if words == "" {
		words = "no message"
	}
	const longest = 300
	return fmt.Sprintf("%s (exit %d)", printable.Line(words, longest), result.Exit)
}

// advice translates MAAS's words into what to do about them; the first that fits counts.
var advice = []struct{ part, what string }{
	{"as root", "run maascert as root"},
	{"connection to server", "MAAS's database cannot be reached from this host; is PostgreSQL up?"},
	{"Vault", "check Vault: maas config-vault status"},
	{"Permission denied", "the maas command cannot read the stage; with the snap it must lie below /var/snap/maas/common"},
	{"No such file or directory", "the maas command cannot see the stage; with the snap it must lie below /var/snap/maas/common"},
	{"takes 2 positional", "this MAAS loads only RSA keys: set key_type: rsa3072"},
	{"invalid choice", "this host has no region controller: run maascert on a region host"},
	{"Private key can't have", "the key must not have a passphrase"},
	{"keytype", "set key_type: rsa3072"},
	{"Private and public keys", "the key and the certificate do not belong together"},
	{"Invalid PEM material", "the staged files were damaged; is the stage's disk full?"},
	{"the following arguments", "this MAAS does not know config-tls as 3.2 and later do"},
	{"unrecognized arguments", "this MAAS does not know config-tls as 3.2 and later do"},
}

func adviceFor(words string) (what string, known bool) {
	for _, one := range advice {
		if strings.Contains(words, one.part) {
			return one.what, true
		}
	}
	return "", false
}

// settleTime is between the two looks in a row that must find a bundle served. When nginx reloads, workers with the old
// configuration answer beside the new ones for a moment, so one look may be lucky.
const settleTime = 300 * time.Millisecond

// verify looks at every endpoint until each serves the bundle at two looks in a row, the deadline has come, or no answer
// has changed for so long (0: that does not count).
func (m *MAAS) verify(ctx context.Context, d Deployment, deadline time.Time, quiet time.Duration) ([]Endpoint, error) {
	served := false
	changed, tell := time.Now(), time.Now().Add(firstWord)
	answers := ""
	for pause := 50 * time.Millisecond; ; pause = min(2*pause, 2*time.Second) {
		endpoints := Judged(m, m.Probe(ctx), d.Bundle)
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if now := fmt.Sprint(laggardsOf(endpoints)); now != answers {
			answers, changed = now, time.Now()
		}
		left := time.Until(deadline)
		again := served && Serving(endpoints)
		if again || left <= 0 || quiet > 0 && time.Since(changed) >= quiet {
			return endpoints, nil
		}
		if served = Serving(endpoints); served {
			pause = settleTime
		} else if d.Waiting != nil && time.Now().After(tell) {
			d.Waiting(fmt.Sprintf("waiting up to %v more: %s", left.Round(time.Second), Troubles(endpoints)))
			tell = time.Now().Add(nextWord)
		}
		select {
		case <-ctx.Done():
			return endpoints, context.Cause(ctx)
		case <-time.After(min(pause, left)):
		}
	}
}

// firstWord and nextWord are when it is said what is waited for.
const (
	firstWord = 10 * time.Second
	nextWord  = 30 * time.Second
)

func laggardsOf(endpoints []Endpoint) []string {
	var answers []string
	for _, e := range endpoints {
		if !e.IsServing() {
			answers = append(answers, e.Address+" "+e.Observed())
		}
	}
	return answers
}

// Judged compares what a target's endpoints served with a bundle.
func Judged(target Target, served []Served, bundle *certstore.Bundle) []Endpoint {
	endpoints := make([]Endpoint, len(served))
	for i, s := range served {
		endpoints[i] = target.Judge(s, bundle)
	}
	return endpoints
}

// The files of a stage.
const (
	keyFile   = "key.pem"
	leafFile  = "cert.pem"
	chainFile = "chain.pem"
)

// stage writes a pair where MAAS can read it, into a folder of its own that is locked while we live.
func (m *MAAS) stage(root string, bundle *certstore.Bundle) (dir string, wipe func() error, err error) {
	fsys := m.config.FS
	if err := errors.Join(fsys.MkdirAll(filepath.Dir(root), 0o711), fsys.MkdirAll(root, 0o700)); err != nil {
		return "", nil, err
	}
	if err := world.Private(fsys, root, m.config.UID); err != nil {
		return "", nil, err
	}
	dir = filepath.Join(root, rand.Text())
	// Whoever wipes holds this lock, so a stage is never seen before it is locked itself.
	unlock, err := m.lockRoot(root)
	if err != nil {
		return "", nil, err
	}
	err = fsys.MkdirAll(dir, 0o700)
	var release func() error
	if err == nil {
		release, err = fsys.TryLock(dir)
	}
	if err = errors.Join(err, unlock()); err != nil {
		return "", nil, errors.Join(err, fsys.RemoveAll(dir))
	}
	wipe = func() error { return errors.Join(fsys.RemoveAll(dir), release()) }
	files := map[string][]byte{keyFile: bundle.KeyPEM(), leafFile: bundle.LeafPEM()}
	if len(bundle.Chain()) > 0 {
		files[chainFile] = bundle.ChainPEM()
	}
	for name, text := range files {
		if err := fsys.Create(filepath.Join(dir, name), text, 0o600); err != nil {
			return "", nil, errors.Join(err, wipe())
		}
	}
	return dir, wipe, nil
}

// lockRoot takes the lock of the folder that holds the stages; others have it only for a moment.
func (m *MAAS) lockRoot(root string) (unlock func() error, err error) {
	for range 1000 {
		unlock, err = m.config.FS.TryLock(root)
		if !errors.Is(err, world.ErrLocked) {
			break
		}
		time.Sleep(time.Millisecond)
	}
	return unlock, err
}

// stages are called as rand.Text calls them.
var stages = regexp.MustCompile(`^[A-Z2-7]{26}$`)

// Tidy wipes the stages of runs that were killed: those whose lock nobody holds. It touches nothing that does not look
// like a stage of ours in every respect, should somebody have pointed stage_dir at a folder with other things in it.
func (m *MAAS) Tidy(context.Context) error {
	var errs []error
	for _, root := range m.config.Stages {
		errs = append(errs, m.tidy(root))
	}
	return errors.Join(errs...)
}

func (m *MAAS) tidy(root string) error {
	fsys := m.config.FS
	entries, err := fsys.ReadDir(root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	entries = slices.DeleteFunc(entries, func(e fs.DirEntry) bool {
		return !e.IsDir() || !stages.MatchString(e.Name()) || world.Private(fsys, filepath.Join(root, e.Name()), m.config.UID) != nil
	})
	if len(entries) == 0 {
		return nil
	}
	unlock, err := m.lockRoot(root)
	if err != nil {
		return err
	}
	for _, entry := range entries {
		dir := filepath.Join(root, entry.Name())
		if release, lockErr := fsys.TryLock(dir); lockErr == nil {
			err = errors.Join(err, fsys.RemoveAll(dir), release())
		}
	}
	return errors.Join(err, unlock())
}

// selfTest serves the staged files to a client that trusts what our clients trust, under every name.
func (m *MAAS) selfTest(dir string) error {
	read := func(name string) []byte {
		text, err := m.config.FS.ReadFile(filepath.Join(dir, name))
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		return text
	}
	pair, err := tls.X509KeyPair(append(read(leafFile), read(chainFile)...), read(keyFile))
	if err != nil {
		return err
	}
	return m.handshakes(pair)
}

func (m *MAAS) handshakes(pair tls.Certificate) error {
	leaf, err := x509.ParseCertificate(pair.Certificate[0])
	if err != nil {
		return err
	}
	for _, name := range certstore.CertificateNames(leaf) {
		if err := m.handshakeAs(strings.Replace(name, "*", "any", 1), pair, certstore.VerificationTime(leaf, m.config.Now())); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	return nil
}

func (m *MAAS) handshakeAs(name string, pair tls.Certificate, now time.Time) error {
	clock := func() time.Time { return now }
	near, far := net.Pipe()
	server := tls.Server(far, &tls.Config{
		Certificates: []tls.Certificate{pair}, MinVersion: tls.VersionTLS12, Time: clock,
		SessionTicketsDisabled: true, // they would be sent after the handshake, to a client that has gone
	})
	client := tls.Client(near, &tls.Config{ServerName: name, RootCAs: m.config.Roots, MinVersion: tls.VersionTLS12, Time: clock})
	done := make(chan error, 1)
	go func() {
		err := server.Handshake()
		done <- errors.Join(err, far.Close())
	}()
	err := errors.Join(client.Handshake(), near.Close())
	return errors.Join(err, <-done)
}
