package maasconfig

import (
	"bytes"
	"cmp"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Files is a service that reads its certificate from files: a proxy before MAAS, or any other.
type Files struct {
	keys  FilesSection
	parts Parts
	kind  service
}

var _ Target = (*Files)(nil)

// Info says that each host has its own.
func (f *Files) Info() Info {
	return Info{Name: f.parts.Name, Type: f.kind.name, Logs: f.kind.logs}
}

// Discover has nothing to find: endpoints are configured.
func (f *Files) Discover(context.Context, map[string]string) {}

// Probe shakes hands with every endpoint, and looks whether the files hold what is served: a service serves what it read at its
// start, whatever lies in its files since then.
func (f *Files) Probe(ctx context.Context) []Served {
	held, err := f.held(ctx)
	return sideBySide(f.keys.Endpoints, func(endpoint string) Served {
		host, port := splitEndpoint(endpoint)
		served := Handshake(ctx, f.parts.Dial, net.JoinHostPort(host, cmp.Or(port, "443")), f.parts.ServerName)
		served.Remedy = f.remedy()
		var unsafe *errUnsafe
		switch {
		case errors.Is(err, fs.ErrPermission): // we may not look
		case errors.As(err, &unsafe):
			served.Fleeting = fmt.Errorf("its files cannot be kept: %w", err)
		case err != nil:
			served.Fleeting = fmt.Errorf("its files cannot be loaded at its next start: %w", err)
		case len(served.Certs) > 0 && !served.Certs[0].Equal(held.Leaf()):
			served.Fleeting = fmt.Errorf("its files hold another certificate (%s), which it serves from its next start on", short(held.Fingerprint()))
		}
		return served
	})
}

// Backup reads the pair from the files.
func (f *Files) Backup(context.Context) (*certstore.Bundle, error) {
	k := f.keys
	key, err := f.read(cmp.Or(k.PEM, k.Key))
	if err != nil {
		return nil, err
	}
	var certs []byte
	switch {
	case k.Fullchain != "":
		certs, err = f.read(k.Fullchain)
	case k.PEM != "":
		certs = certificateBlocks(key)
	default:
		if certs, err = f.read(k.Cert); err == nil && k.Chain != "" {
			var chain []byte
			chain, err = f.read(k.Chain)
			certs = slices.Concat(certs, []byte("\n"), chain)
		}
	}
	if err != nil {
		return nil, err
	}
	return certstore.Parse(key, certs)
}

// remedy is what to do about an endpoint that does not serve what it should.
func (f *Files) remedy() string {
	return fmt.Sprintf("does the service run there, and does its configuration name the files of targets.%s? Then: maascert renew", f.parts.Name)
}

// held is the pair that all of the files together hold, each of them whole.
func (f *Files) held(ctx context.Context) (*certstore.Bundle, error) {
	bundle, err := f.Backup(ctx)
	if err != nil {
		return nil, err
	}
	for _, one := range f.keys.paths() {
		text, err := f.read(one.path)
		if err == nil {
			err = one.isOf(text, bundle)
		}
		if err != nil {
			return nil, err
		}
	}
	return bundle, nil
}

// The widest modes: who may read a certificate need not be able to read its key.
const (
	widestKeyMode  fs.FileMode = 0o640
	widestCertMode fs.FileMode = 0o644
)

// swap is what the files have to be for a bundle; their owners and modes stay as they are where the configuration says nothing,
// and are never wider than above.
func (f *Files) swap(bundle *certstore.Bundle) (swap, error) {
	s := swap{fsys: f.parts.FS}
	for _, one := range f.keys.paths() {
		perm, widest := fs.FileMode(0o600), widestKeyMode
		if !one.holdsKey {
			perm, widest = widestCertMode, widestCertMode
		}
		before := world.Owner{UID: f.parts.UID, GID: -1}
		switch info, err := f.parts.FS.Lstat(one.path); {
		case err == nil:
			before, perm = world.OwnerOf(info), info.Mode().Perm()&widest
		case !errors.Is(err, fs.ErrNotExist):
			return s, err
		}
		if one.holdsKey && f.keys.Mode != "" {
			perm = f.keys.mode()
		}
		owner, err := f.owner(before)
		if err != nil {
			return s, err
		}
		s.files = append(s.files, file{one.path, one.content(bundle), perm, owner})
	}
	return s, nil
}

// certificateBlocks are a PEM text without its key.
func certificateBlocks(text []byte) []byte {
	var certs []byte
	for block, rest := pem.Decode(text); block != nil; block, rest = pem.Decode(rest) {
		if block.Type == "CERTIFICATE" {
			certs = append(certs, pem.EncodeToMemory(block)...)
		}
	}
	return certs
}

// Prepare makes ready to write the files, test the service's configuration with them, and have it read them. To undo it the files
// get the bytes that they had, if those are of the pair that was served.
func (f *Files) Prepare(ctx context.Context, bundle *certstore.Bundle, _ Want) (Change, error) {
	s, err := f.swap(bundle)
	if err != nil {
		return Change{}, err
	}
	before, paths := map[string][]byte{}, []string{}
	for _, one := range s.files {
		paths = append(paths, one.path)
		if text, err := f.read(one.path); err == nil {
			before[one.path] = text
		}
	}
	held, unheld := f.held(ctx)
	var commands []world.Command
	for _, args := range [][]string{f.keys.Test, f.keys.Reload} {
		if len(args) > 0 {
			commands = append(commands, f.command(args))
		}
	}
	return Change{
		Commands: commands, Writes: paths, Within: f.keys.VerifyTimeout, Settles: f.kind.settles,
		Make: func(ctx context.Context) (Telling, error) { return f.bring(ctx, bundle, nil) },
		Undo: func(ctx context.Context, previous *certstore.Bundle) error {
			if unheld != nil || held.Fingerprint() != previous.Fingerprint() {
				clear(before)
			}
			_, err := f.bring(ctx, previous, before)
			return err
		},
	}, nil
}

// bring has the service serve a bundle, in the very bytes that are given, as far as they are. On an error the files are as they were
// before, if the service could load those, and one that was not told keeps what it serves. When something is undone the files stay
// undone, whatever the service says.
func (f *Files) bring(ctx context.Context, bundle *certstore.Bundle, undone map[string][]byte) (Telling, error) {
	unlock, err := f.lock(ctx)
	if err != nil {
		return NotTold, err
	}
	// It dies with us at the latest.
	defer func() { _ = unlock() }()
	s, err := f.ready(bundle)
	if err != nil {
		return NotTold, err
	}
	keep := undone != nil || f.isBroken()
	for i, one := range s.files {
		if text, ok := undone[one.path]; ok {
			s.files[i].data = text
		}
	}
	if err := s.bring(); err != nil {
		return NotTold, writing(err)
	}
	telling := NotTold
	if _, err = f.run(ctx, "the configuration test", f.keys.Test); err == nil {
		telling, err = f.run(ctx, "the reload", f.keys.Reload)
		if err != nil && keep && forbidden(err.Error(), "") == "" {
			err = hint.Again(err, "the files are there; start the service; then: maascert renew")
		}
	}
	switch {
	case err == nil:
		return Told, s.forget()
	case keep && ctx.Err() == nil:
		return telling, errors.Join(err, s.forget()) // there is nothing to go back to
	default:
		return telling, errors.Join(err, s.back())
	}
}

// isBroken tells whether no service could load what the files hold: one is missing, or a key and a certificate do not belong together.
// What cannot be read is not known to be so.
func (f *Files) isBroken() bool {
	texts := map[string][]byte{}
	for _, one := range f.keys.paths() {
		text, err := f.read(one.path)
		if err != nil {
			return errors.Is(err, fs.ErrNotExist)
		}
		texts[one.key] = text
	}
	for _, key := range []string{"pem", "key"} {
		for _, cert := range []string{"pem", "fullchain", "cert"} {
			if texts[key] == nil || texts[cert] == nil {
				continue
			}
			if _, err := tls.X509KeyPair(texts[cert], texts[key]); err != nil {
				return true
			}
		}
	}
	return false
}

// ready makes sure, under the lock, that the files may be written and that no earlier swap is open.
func (f *Files) ready(bundle *certstore.Bundle) (swap, error) {
	if err := f.areSafe(); err != nil {
		return swap{}, err
	}
	s, err := f.swap(bundle)
	if err != nil {
		return s, err
	}
	open, err := s.isOpen()
	if open && err == nil { // somebody was killed
		if err = s.back(); err == nil {
			s, err = f.swap(bundle)
		}
	}
	return s, writing(err)
}

// run runs one of the service's own commands, if there is one.
func (f *Files) run(ctx context.Context, what string, args []string) (Telling, error) {
	if ctx.Err() != nil {
		return NotTold, context.Cause(ctx)
	}
	if len(args) == 0 {
		return Told, nil
	}
	command := f.command(args)
	result, err := f.parts.Runner.Run(ctx, command)
	if err != nil {
		return Unsure, hint.Add(fmt.Errorf("%s: %s: %w", what, command, err), "run it by hand as root: it has to end by itself within %v", f.keys.Timeout)
	}
	if result.Exit == 0 {
		return Told, nil
	}
	words := printable.Line(string(bytes.TrimSpace(slices.Concat(result.Stderr, []byte("\n"), result.Stdout))), printable.Word)
	if words == "" {
		words = "no message"
	}
	err = fmt.Errorf("%s: %s: %s (exit %d)", what, command, words, result.Exit)
	if advice := forbidden(words, f.keys.paths()[0].path); advice != "" {
		return NotTold, hint.Add(err, "%s", advice)
	}
	return NotTold, hint.Add(err, "run it by hand as root and mend what it says; then: maascert renew")
}

// forbidden says what to do where a security module may keep a service from its files; empty where nothing speaks for that.
func forbidden(words, path string) string {
	if strings.Contains(words, "Read-only file system") {
		return readOnly
	}
	for _, sign := range []string{"Permission denied", "permission denied", "avc:", "apparmor"} {
		if strings.Contains(words, sign) {
			return fmt.Sprintf("owner and mode have to let the service read it; so have SELinux (restorecon -v %s) and AppArmor (journalctl -k | grep -i denied)", path)
		}
	}
	return ""
}

// readOnly is what to do where a unit keeps files from being written.
const readOnly = "in the daemon's unit: systemctl edit maascert, and add the folder to ReadWritePaths= below [Service]; else remount it"

// writing adds what to do about a file that cannot be written.
func writing(err error) error {
	switch {
	case errors.Is(err, syscall.EROFS):
		return hint.Add(err, readOnly)
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return hint.Add(err, "free some space there; then: maascert renew")
	case errors.Is(err, fs.ErrPermission):
		return hint.Add(err, "run maascert as root; SELinux and AppArmor may forbid it too: journalctl -k | grep -i denied")
	default:
		return err
	}
}

func (f *Files) command(args []string) world.Command {
	return world.Command{Path: args[0], Args: args[1:], Timeout: f.keys.Timeout}
}

// lockPath is the file that stands for these files among runs on this host. It lies where nobody else can take hold of it.
func (f *Files) lockPath() string {
	sum := sha256.Sum256([]byte(f.keys.paths()[0].path))
	return filepath.Join(f.parts.StateDir, "files", hex.EncodeToString(sum[:8]))
}

// lock keeps other runs from these files.
func (f *Files) lock(ctx context.Context) (unlock func() error, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, 2*f.keys.Timeout, errors.New("another run has these files and does not end"))
	defer cancel()
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		unlock, err := f.tryLock()
		if err == nil || !errors.Is(err, world.ErrLocked) {
			return unlock, writing(err)
		}
		if err := world.Sleep(ctx, pause); err != nil {
			return nil, err
		}
	}
}

func (f *Files) tryLock() (unlock func() error, err error) {
	path := f.lockPath()
	for _, folder := range []struct {
		path string
		perm fs.FileMode
	}{{filepath.Dir(f.parts.StateDir), 0o755}, {f.parts.StateDir, 0o711}, {filepath.Dir(path), 0o700}} {
		if err := f.parts.FS.MkdirAll(folder.path, folder.perm); err != nil {
			return nil, err
		}
	}
	return f.parts.FS.TryLock(path)
}

// Tidy puts back what a run left that was killed between one file and the next.
func (f *Files) Tidy(context.Context) error {
	s := swap{fsys: f.parts.FS}
	for _, one := range f.keys.paths() {
		s.files = append(s.files, file{path: one.path})
	}
	if open, err := s.isOpen(); !open || err != nil {
		return err
	}
	unlock, err := f.tryLock()
	if errors.Is(err, world.ErrLocked) {
		return nil // somebody is at work there
	}
	if err != nil {
		return err
	}
	if err := f.areSafe(); err != nil {
		return errors.Join(err, unlock())
	}
	return errors.Join(s.back(), unlock())
}
