package maasconfig

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Guards are asked in this order: first what the files need, then the programs, then what other files on this host say.
func (f *Files) Guards(Want) []Guard {
	guards := []Guard{
		{Code: "files", Promise: "the files can be replaced, and by nobody else", Ask: func(context.Context) (string, error) {
			return f.names(), f.canReplace()
		}},
		{Code: "programs", Promise: "the programs are here that test and reload the service", Ask: func(context.Context) (string, error) {
			return f.findPrograms()
		}},
	}
	if unit := f.unit(); unit != "" {
		guards = append(guards, Guard{Code: "service", Promise: "the service runs, where its files are there", Ask: func(ctx context.Context) (string, error) {
			if _, err := f.held(ctx); err != nil {
				return unit, nil // it cannot run before its files are there
			}
			return unit, f.isRunning(ctx, unit)
		}})
	}
	if len(f.keys.Test) > 0 {
		guards = append(guards, Guard{Code: "configuration", Promise: "the service's configuration passes its test now, or these files are not what it serves", Ask: func(ctx context.Context) (string, error) {
			return f.command(f.keys.Test).String(), f.passesNow(ctx)
		}})
	}
	guards = append(guards,
		Guard{Code: "named", Promise: "the service's configuration names the files", Advice: true, Ask: func(context.Context) (string, error) {
			return f.names(), f.isNamed()
		}},
		Guard{Code: "writers", Promise: "nobody else writes these files", Advice: true, Ask: func(context.Context) (string, error) {
			return f.names(), f.otherWriters()
		}})
	if f.kind.name == "haproxy" {
		guards = append(guards, Guard{Code: "backends", Promise: "no backend leads to a port that redirects", Advice: true, Ask: func(ctx context.Context) (string, error) {
			return strings.Join(f.configurations(), ", "), f.redirects(ctx)
		}})
	}
	return guards
}

func (f *Files) names() string {
	var names []string
	for _, one := range f.keys.paths() {
		names = append(names, one.path)
	}
	return strings.Join(names, ", ")
}

func (f *Files) canReplace() error {
	if _, err := f.owner(world.Owner{}); err != nil {
		return hint.Add(err, "mend targets.%s.owner", f.parts.Name)
	}
	for _, one := range f.keys.paths() {
		if err := f.isSafe(one.path); err != nil {
			return err
		}
		info, err := f.parts.FS.Stat(filepath.Dir(one.path))
		if err != nil {
			return hint.Add(err, "make the folder, or mend targets.%s.%s", f.parts.Name, one.key)
		}
		if !info.IsDir() {
			return fmt.Errorf("%s is no folder", filepath.Dir(one.path))
		}
		if err := f.parts.FS.Writable(filepath.Dir(one.path)); err != nil {
			return writing(fmt.Errorf("the files cannot be written: %w", err))
		}
	}
	if named, other := f.halfNamed(); other != "" {
		return hint.Add(fmt.Errorf("%s names %s and not %s: the service would load a key and a certificate that do not belong together", strings.Join(f.configurations(), ", "), named, other),
			"let it name both, or mend targets.%s", f.parts.Name)
	}
	return nil
}

func (f *Files) findPrograms() (evidence string, err error) {
	var found []string
	for _, one := range []struct {
		key     string
		command []string
	}{{"check", f.keys.Test}, {"reload", f.keys.Reload}} {
		if len(one.command) == 0 {
			continue
		}
		path, err := f.parts.Runner.LookPath(one.command[0])
		if err != nil {
			return one.command[0], hint.Add(fmt.Errorf("%s: %q is not here", one.key, one.command[0]), "install it, or set targets.%s.%s", f.parts.Name, one.key)
		}
		found = append(found, path)
	}
	slices.Sort(found)
	return strings.Join(found, ", "), nil
}

// unit is what systemd is to reload; empty where it is not systemd that does it.
func (f *Files) unit() string {
	if reload := f.keys.Reload; len(reload) == 3 && filepath.Base(reload[0]) == "systemctl" {
		return reload[2]
	}
	return ""
}

// isRunning asks systemd, which reloads only what runs.
func (f *Files) isRunning(ctx context.Context, unit string) error {
	result, err := f.parts.Runner.Run(ctx, f.command([]string{f.keys.Reload[0], "show", "--property=LoadState,ActiveState", unit}))
	if err != nil {
		return fmt.Errorf("systemctl: %w", err)
	}
	switch text := string(result.Stdout); {
	case result.Exit != 0:
		return fmt.Errorf("systemctl show %s: %s", unit, printable.Line(string(result.Stderr), printable.Word))
	case strings.Contains(text, "LoadState=not-found"):
		return hint.Add(fmt.Errorf("there is no service %s", unit), "install it, or set targets.%s.reload", f.parts.Name)
	case !strings.Contains(text, "ActiveState=active"):
		return hint.Add(fmt.Errorf("the service %s does not run", unit), "systemctl status %[1]s; systemctl start %[1]s", unit)
	default:
		return nil
	}
}

// isServed tells whether an endpoint serves what the files hold.
func (f *Files) isServed(ctx context.Context) bool {
	held, err := f.held(ctx)
	return err == nil && slices.ContainsFunc(f.Probe(ctx), func(s Served) bool { return s.Fingerprint() == held.Fingerprint() })
}

// passesNow runs the service's own test, when the service was able to load what is in the files: while they are missing, broken, or
// nothing that it takes, its test cannot pass, which is what is to be mended.
func (f *Files) passesNow(ctx context.Context) error {
	if !f.isServed(ctx) {
		return nil
	}
	if _, err := f.parts.Runner.LookPath(f.keys.Test[0]); err != nil {
		return nil // which has been said
	}
	_, err := f.run(ctx, "before anything was changed", f.keys.Test)
	return err
}

// configurations are the files, as far as they are known, in which the service's configuration begins.
func (f *Files) configurations() []string {
	for i, word := range f.keys.Test {
		if (word == "-f" || word == "-c" && f.kind.name == "nginx") && i+1 < len(f.keys.Test) {
			return []string{f.keys.Test[i+1]}
		}
	}
	switch f.kind.name {
	case "nginx":
		return []string{"/etc/nginx/nginx.conf"}
	case "apache":
		return []string{"/etc/apache2/apache2.conf"}
	default:
		return nil
	}
}

// include leads from one file of a configuration to others, a list of certificates of HAProxy's among them.
var include = regexp.MustCompile(`(?mi)^(?:\s*(?:include|includeoptional)|\s*bind\s[^#\n]*\scrt-list)\s+"?([^\s";]+)"?`)

// maxConfiguration bounds, in bytes, what is read of a configuration.
const maxConfiguration = 16 << 20

// maxConfigurations bounds how many files of a configuration are read.
const maxConfigurations = 200

// configuration reads what a service's configuration consists of. It is not known to be whole where something is left out.
func (f *Files) configuration() (text []byte, whole bool) {
	files, whole := f.configurations(), true
	root := ""
	if len(files) > 0 {
		root = filepath.Dir(files[0])
	}
	for i := 0; i < len(files); i++ {
		if i == maxConfigurations || len(text) > maxConfiguration {
			return text, false
		}
		one, err := f.parts.FS.ReadFile(files[i])
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			one, err = f.readFolder(files[i])
		}
		whole = whole && err == nil
		text = append(append(text, one...), '\n')
		for _, match := range include.FindAllSubmatch(one, -1) {
			pattern := string(match[1])
			if !filepath.IsAbs(pattern) {
				pattern = filepath.Join(root, pattern)
			}
			more, err := glob(f.parts.FS, pattern)
			whole = whole && err == nil
			for _, path := range more {
				if !slices.Contains(files, path) {
					files = append(files, path)
				}
			}
		}
	}
	return text, whole && len(text) > 0
}

// readFolder reads a folder of configuration files, which HAProxy and Apache take as well.
func (f *Files) readFolder(dir string) ([]byte, error) {
	entries, err := f.parts.FS.ReadDir(dir)
	if err != nil || len(entries) > maxConfigurations {
		return nil, errors.Join(err, errors.New("it is not known which files it means"))
	}
	var text []byte
	for _, entry := range entries {
		one, err := f.parts.FS.ReadFile(filepath.Join(dir, entry.Name()))
		if err != nil || len(text) > maxConfiguration {
			return text, errors.Join(err, errors.New("it is too long"))
		}
		text = append(append(text, one...), '\n')
	}
	return text, nil
}

// lines are those of a configuration, without comments.
func lines(text []byte) []string {
	var all []string
	for line := range bytes.Lines(text) {
		line, _, _ := bytes.Cut(line, []byte("#"))
		if words := string(bytes.TrimSpace(line)); words != "" {
			all = append(all, words)
		}
	}
	return all
}

// isNamed tells whether the service's configuration names each of the files, as far as it is known.
func (f *Files) isNamed() error {
	text, whole := f.configuration()
	if !whole {
		return nil // nothing is known against it
	}
	named := f.namedPaths(text)
	for _, one := range f.keys.paths() {
		if f.isNamedIn(named, one) {
			continue
		}
		return hint.Add(fmt.Errorf("%s does not name %s", strings.Join(f.configurations(), ", "), one.path),
			"the service would go on with another certificate: let its configuration name this file, or mend targets.%s.%s", f.parts.Name, one.key)
	}
	return nil
}

// isNamedIn tells whether words of a configuration name a file. HAProxy takes all files of a folder as well, and a chain may be part of
// another file.
func (f *Files) isNamedIn(named map[string]bool, one path) bool {
	return one.key == "chain" || named[one.path] || f.kind.name == "haproxy" && named[filepath.Dir(one.path)]
}

// halfNamed finds a key that the service's configuration names without any of the certificates, or the other way round; none where it is
// not known.
func (f *Files) halfNamed() (one, other string) {
	text, whole := f.configuration()
	if !whole {
		return "", ""
	}
	named := f.namedPaths(text)
	keys, certs := map[bool]string{}, map[bool]string{} // by whether they are named
	for _, file := range f.keys.paths() {
		isNamed := f.isNamedIn(named, file)
		if file.holdsKey {
			keys[isNamed] = file.path
		}
		if file.key != "key" && file.key != "chain" {
			certs[isNamed] = file.path
		}
	}
	switch {
	case keys[true] != "" && certs[true] == "":
		return keys[true], certs[false]
	case certs[true] != "" && keys[true] == "":
		return certs[true], keys[false]
	default:
		return "", ""
	}
}

// namedPaths are all words of a configuration that could be paths, made absolute.
func (f *Files) namedPaths(text []byte) map[string]bool {
	bases := []string{filepath.Dir(f.configurations()[0])}
	for _, line := range lines(text) {
		if words := strings.Fields(line); len(words) == 2 && (words[0] == "crt-base" || words[0] == "key-base" || strings.EqualFold(words[0], "ServerRoot")) {
			bases = append(bases, strings.Trim(words[1], `"`))
		}
	}
	named := map[string]bool{}
	for _, line := range lines(text) {
		for word := range strings.FieldsSeq(line) {
			word = strings.Trim(word, `"';`)
			if filepath.IsAbs(word) {
				named[filepath.Clean(word)] = true
				continue
			}
			for _, base := range bases {
				named[filepath.Join(base, word)] = true
			}
		}
	}
	return named
}

// writers are where other programs say which certificates they write, and where hooks of theirs stand.
var writers = []string{
	"/etc/letsencrypt/renewal/*.conf", "/etc/letsencrypt/renewal-hooks/*/*", "/etc/letsencrypt/cli.ini", "/root/.acme.sh/*/*.conf",
	"/etc/dehydrated/*", "/etc/lego/*", "/etc/cron.d/*", "/etc/cron.daily/*", "/etc/cron.weekly/*", "/var/spool/cron/crontabs/*", "/etc/systemd/system/*.service",
}

// maxWriters bounds how many such files are read.
const maxWriters = 500

// otherWriters finds others that name one of the files.
func (f *Files) otherWriters() error {
	var paths []string
	for _, pattern := range writers {
		more, err := glob(f.parts.FS, pattern)
		if err != nil {
			continue // what cannot be read tells nothing
		}
		paths = append(paths, more...)
	}
	for _, path := range paths[:min(len(paths), maxWriters)] {
		text, err := f.parts.FS.ReadFile(path)
		if err != nil {
			continue
		}
		for _, one := range f.keys.paths() {
			if slices.ContainsFunc(lines(text), func(line string) bool { return strings.Contains(line, one.path) }) {
				return hint.Add(fmt.Errorf("%s names %s too", path, one.path), "two that write one file undo each other: switch that one off")
			}
		}
	}
	return nil
}

// redirecting is a backend's server on MAAS's plain port.
var redirecting = regexp.MustCompile(`^(?:server|default-server|server-template)\s+\S+\s+(?:\S+@)?(\[[0-9a-fA-F:]+\]|[^\s:]+):` + strconv.Itoa(httpPort) + `\b`)

// maxBackends bounds how many servers are asked.
const maxBackends = 20

// redirects finds a backend on port 5240 of a region that serves TLS: it would redirect all that HAProxy decrypted (MAAS fact 2.6).
func (f *Files) redirects(ctx context.Context) error {
	text, _ := f.configuration()
	var hosts []string
	for _, line := range lines(text) {
		if match := redirecting.FindStringSubmatch(line); match != nil && !slices.Contains(hosts, match[1]) {
			hosts = append(hosts, match[1])
		}
	}
	hosts = hosts[:min(len(hosts), maxBackends)]
	states := sideBySide(hosts, func(host string) tlsState { return askTLS(ctx, f.parts.Dial, strings.Trim(host, "[]")) })
	for i, state := range states {
		if state.known && state.port != 0 {
			return hint.Add(fmt.Errorf("a backend leads to %s, which redirects to https since MAAS serves TLS itself", net.JoinHostPort(strings.Trim(hosts[i], "[]"), strconv.Itoa(httpPort))),
				"let the backend speak TLS to port %d (server … ssl verify required ca-file …), or pass TCP through (mode tcp)", state.port)
		}
	}
	return nil
}

// glob lists the files that a pattern of absolute paths matches.
func glob(fsys world.FS, pattern string) ([]string, error) {
	found, err := fs.Glob(folders{fsys}, strings.TrimPrefix(pattern, "/"))
	for i := range found {
		found[i] = "/" + found[i]
	}
	return found, err
}

// folders lets fs.Glob look into folders.
type folders struct{ fsys world.FS }

func (f folders) Open(name string) (fs.File, error) {
	return nil, &fs.PathError{Op: "open", Path: name, Err: errors.ErrUnsupported}
}

func (f folders) Stat(name string) (fs.FileInfo, error) { return f.fsys.Stat("/" + name) }

func (f folders) ReadDir(name string) ([]fs.DirEntry, error) { return f.fsys.ReadDir("/" + name) }
