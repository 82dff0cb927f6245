package maasconfig

import (
	"cmp"
	"crypto"
	"fmt"
	"io/fs"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"time"

	"maascert/certstore"
	"maascert/internal/section"
	"maascert/internal/world"
)

// service is what is usual for one that reads its certificate from files.
type service struct {
	name          string // its type in the configuration
	logs          string // what says why it took no certificate, for people
	check, reload []string
	settles       time.Duration // for how long processes with the old certificate may answer beside the new ones
	wants         string        // the keys without which it cannot serve anything
}

// services are all types of them. What is usual is Debian's.
var services = []service{
	{
		name: "haproxy", logs: "HAProxy's log", wants: "pem", settles: 300 * time.Millisecond,
		check: []string{"haproxy", "-c", "-f", "/etc/haproxy/haproxy.cfg"}, reload: []string{"systemctl", "reload", "haproxy"},
	},
	{
		name: "nginx", logs: "nginx's log", wants: "key and fullchain", settles: 300 * time.Millisecond,
		check: []string{"nginx", "-t"}, reload: []string{"systemctl", "reload", "nginx"},
	},
	{
		name: "apache", logs: "Apache's log", wants: "key and fullchain", settles: time.Second,
		check: []string{"apache2ctl", "configtest"}, reload: []string{"systemctl", "reload", "apache2"},
	},
	{name: "files", logs: "the service's log", wants: "key and fullchain, or pem", settles: 300 * time.Millisecond},
}

// FilesSection are the keys of a target whose service reads its certificate from files.
type FilesSection struct {
	Key           string        `yaml:"key,path"`       // the private key
	Cert          string        `yaml:"cert,path"`      // the certificate alone
	Chain         string        `yaml:"chain,path"`     // what stands between it and the root
	Fullchain     string        `yaml:"fullchain,path"` // both, the certificate first
	PEM           string        `yaml:"pem,path"`       // all three, the key last
	Owner         string        `yaml:"owner"`          // of all of them: user, user:group or :group; empty: as they are, and root's where they are not there
	Mode          string        `yaml:"mode"`           // of what holds the key, octal; empty: as it is, and 0600 where it is not there
	Test          []string      `yaml:"check,program"`  // of the service's configuration
	Reload        []string      `yaml:"reload,program"`
	Timeout       time.Duration `yaml:"timeout"`        // for one of these commands
	VerifyTimeout time.Duration `yaml:"verify_timeout"` // for every endpoint to serve a bundle after the reload
	Endpoints     []string      `yaml:"endpoints"`      // host or host:port; 443 where none is named

	kind service
}

func newFilesSection(kind service) *FilesSection {
	return &FilesSection{Test: slices.Clone(kind.check), Reload: slices.Clone(kind.reload), Timeout: time.Minute, VerifyTimeout: 30 * time.Second, kind: kind}
}

// owners are spelled user, user:group or :group, by name or number.
var owners = regexp.MustCompile(`^([A-Za-z0-9_][A-Za-z0-9._-]*\$?)?(:[A-Za-z0-9_][A-Za-z0-9._-]*)?$`)

// Check finds what is wrong.
func (s *FilesSection) Check(at section.Place) {
	switch hasKey, hasCert := s.Key != "" || s.PEM != "", s.Cert != "" || s.Fullchain != "" || s.PEM != ""; {
	case !hasKey || !hasCert:
		at.Fault("", "%s is missing: the files from which the service reads its key and certificate", s.kind.wants)
	case s.Chain != "" && s.Cert == "" && s.Fullchain == "" && s.PEM == "":
		at.Fault("chain", "a chain alone is no certificate")
	}
	seen := map[string]bool{}
	for _, one := range s.paths() {
		if seen[one.path] {
			at.Fault(one.key, "two keys name %s", one.path)
		}
		seen[one.path] = true
	}
	if !owners.MatchString(s.Owner) {
		at.Fault("owner", "%q is no owner; write user, user:group or :group", s.Owner)
	}
	if mode, err := strconv.ParseUint(s.Mode, 8, 32); s.Mode != "" && (err != nil || fs.FileMode(mode)&^widestKeyMode != 0 || mode&0o400 == 0) {
		at.Fault("mode", "%q is no mode for a private key; write \"0600\", \"0640\" or less", s.Mode)
	}
	for key, command := range map[string][]string{"check": s.Test, "reload": s.Reload} {
		if len(command) > 0 && command[0] == "" {
			at.Fault(key, "a program is missing; [] is none")
		}
	}
	checkDuration(at, "timeout", s.Timeout)
	checkDuration(at, "verify_timeout", s.VerifyTimeout)
	if len(s.Endpoints) == 0 {
		at.Fault("", "endpoints is missing: where the service can be asked for its certificate, as host or host:port")
	}
	for i, endpoint := range s.Endpoints {
		if !section.IsEndpoint(endpoint) {
			at.Fault(fmt.Sprintf("endpoints[%d]", i), "%q is no host or host:port", endpoint)
		}
	}
}

// mode is that of the files that hold the key.
func (s *FilesSection) mode() fs.FileMode {
	mode, err := strconv.ParseUint(s.Mode, 8, 32)
	if err != nil {
		return 0o600 // it was checked
	}
	return fs.FileMode(mode)
}

// Entrusted are the programs that test and reload the service, with the files that they name, and names beside the files that nobody else
// may take.
func (s *FilesSection) Entrusted() []string {
	var all []string
	for _, one := range s.paths() {
		all = append(all, beside(one.path, freeBeside))
	}
	for _, command := range [][]string{s.Test, s.Reload} {
		all = append(all, command[:min(len(command), 1)]...)
		for _, word := range command[min(len(command), 1):] {
			if filepath.IsAbs(word) {
				all = append(all, word)
			}
		}
	}
	return all
}

// Make makes the target.
func (s *FilesSection) Make(parts Parts) Target { return &Files{keys: *s, parts: parts, kind: s.kind} }

// path is one of the files, and what it holds.
type path struct {
	key      string // of the configuration
	path     string
	holdsKey bool
	content  func(*certstore.Bundle) []byte
}

// isOf explains why a text is not what the file would hold of a bundle.
func (p path) isOf(text []byte, bundle *certstore.Bundle) error {
	wrong := fmt.Errorf("%s does not hold what the other files hold", p.path)
	if p.holdsKey {
		key, err := certstore.ParseKey(text)
		if err != nil {
			return fmt.Errorf("%s: %w", p.path, err)
		}
		if public, ok := key.Public().(interface{ Equal(crypto.PublicKey) bool }); !ok || !public.Equal(bundle.Leaf().PublicKey) {
			return wrong
		}
	}
	wanted := certificateBlocks(p.content(bundle))
	if len(wanted) == 0 {
		return nil
	}
	have, err := certstore.ParseCertificates(certificateBlocks(text))
	if err != nil {
		return fmt.Errorf("%s: %w", p.path, err)
	}
	// It was made by an encoder of ours.
	want, _ := certstore.ParseCertificates(wanted)
	if !hasChain(have, want) {
		return wrong
	}
	return nil
}

// paths are the files that are named, those with the key first.
func (s *FilesSection) paths() []path {
	all := []path{
		{"pem", s.PEM, true, func(b *certstore.Bundle) []byte { return slices.Concat(b.FullChainPEM(), b.KeyPEM()) }},
		{"key", s.Key, true, (*certstore.Bundle).KeyPEM},
		{"fullchain", s.Fullchain, false, (*certstore.Bundle).FullChainPEM},
		{"cert", s.Cert, false, (*certstore.Bundle).LeafPEM},
		{"chain", s.Chain, false, (*certstore.Bundle).ChainPEM},
	}
	return slices.DeleteFunc(all, func(p path) bool { return p.path == "" })
}

// LocalPorts are those of endpoints that are this host's.
func (s *FilesSection) LocalPorts(int) (ports []int) {
	for _, endpoint := range s.Endpoints {
		host, text := splitEndpoint(endpoint)
		port, err := strconv.Atoi(cmp.Or(text, "443"))
		if err == nil && world.IsThisHost(host) {
			ports = append(ports, port)
		}
	}
	return ports
}
