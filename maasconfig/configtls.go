package maasconfig

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
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

// Prepare finds the port, and makes ready the one call that has MAAS take a bundle. Each call makes every region's proxy
// reload.
func (m *MAAS) Prepare(ctx context.Context, bundle *certstore.Bundle, want Want) (Change, error) {
	port, err := m.port(ctx, want)
	if err != nil {
		return Change{}, err
	}
	here, err := m.installation(ctx)
	if err != nil {
		return Change{}, err
	}
	return Change{
		Commands: []world.Command{m.command(here, filepath.Join(here.StageDir, "RANDOM"), bundle, port)},
		Within:   m.config.VerifyTimeout,
		Settles:  nginxSettles,
		Make:     func(ctx context.Context) (Telling, error) { return m.apply(ctx, bundle, port) },
		Undo: func(ctx context.Context, previous *certstore.Bundle) error {
			_, err := m.apply(ctx, previous, port)
			return err
		},
		Deaf: hint.Add(errors.New("MAAS took the certificate twice, and no region changed anything"),
			"no region listens: look for \"Unhandled error in Deferred\" in regiond's log (a tls_cert_expiration setting with an empty value makes every region deaf), mend that, and restart regiond on every region"),
	}, nil
}

// nginxSettles is longer than nginx's workers with the old configuration answer beside the new ones while it reloads, so that
// one lucky look is no proof.
const nginxSettles = 300 * time.Millisecond

// apply stages a pair, reads it again, and runs config-tls. The stage is gone when it returns, whatever happened.
func (m *MAAS) apply(ctx context.Context, bundle *certstore.Bundle, port int) (telling Telling, err error) {
	here, err := m.installation(ctx)
	if err != nil {
		return NotTold, err
	}
	dir, wipe, err := m.stage(here.StageDir, bundle)
	if err != nil {
		return NotTold, hint.Add(fmt.Errorf("stage: %w", err), "maas.stage_dir must be a folder that root can write and the maas command can read")
	}
	defer func() { err = errors.Join(err, wipe()) }()
	if err := m.isStaged(dir, bundle); err != nil {
		return NotTold, err
	}
	if ctx.Err() != nil {
		return NotTold, context.Cause(ctx)
	}
	result, err := m.config.Runner.Run(ctx, m.command(here, dir, bundle, port))
	if m.config.Regions != nil {
		m.config.Regions.Forget()
	}
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
	{"Vault connection failed", "MAAS cannot reach the Vault that keeps its secrets: is it up, and does this host reach it and trust its certificate? maascert check looks; maas config-vault status"},
	{"Vault request failed", "the Vault that keeps MAAS's secrets refuses MAAS: is it sealed (vault status), has MAAS's secret_id expired, or was its policy changed? maas config-vault status"},
	{"not configured for this region", "MAAS keeps its secrets in Vault, and this region was never told how to log in there: sudo maas config-vault configure on this host; maas config-vault status"},
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

// isStaged tells whether a stage's files are the bundle that was tested.
func (m *MAAS) isStaged(dir string, bundle *certstore.Bundle) error {
	var text []byte
	for _, name := range []string{keyFile, leafFile, chainFile} {
		part, err := m.config.FS.ReadFile(filepath.Join(dir, name))
		if err != nil && (name != chainFile || !errors.Is(err, fs.ErrNotExist)) {
			return err
		}
		text = append(text, part...)
	}
	if !bytes.Equal(text, slices.Concat(bundle.KeyPEM(), bundle.FullChainPEM())) {
		return errors.New("the staged files are not what was written")
	}
	return nil
}
