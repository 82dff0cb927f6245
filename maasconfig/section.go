package maasconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"time"

	"maascert/certstore"
	"maascert/internal/section"
	"maascert/internal/world"
)

// TargetSection are the keys of a target in the configuration, beside its type.
type TargetSection interface {
	// Check fills in defaults and finds what is wrong.
	Check(at section.Place)
	// Entrusted are the programs that are run as the user that we are, by name or path, and the files that a key goes to: nobody
	// else may be able to replace any of them.
	Entrusted() []string
	// LocalPorts are those of this host at which the target is asked; MAAS serves TLS on one port, 0 for none.
	LocalPorts(maas int) []int
	// Make makes the target. It touches nothing yet.
	Make(parts Parts) Target
}

// Types are types of targets that a configuration can name, each with a pointer to its keys as they are when none of them is given.
type Types map[string]func() TargetSection

// UsualType is the type of a target that names none.
const UsualType = maasType

// KnownTypes are those of this package. A program can be built with others beside them.
func KnownTypes() Types {
	types := Types{
		maasType: func() TargetSection { return &MAASSection{VerifyTimeout: usualVerifyTimeout} },
	}
	for _, kind := range services {
		types[kind.name] = func() TargetSection { return newFilesSection(kind) }
	}
	return types
}

// Parts are what a target is made of beside its keys.
type Parts struct {
	Name       string // of the target in the configuration
	ServerName string // sent as SNI; empty when the certificate has only addresses
	Trust      certstore.Trust
	MAAS       HostSection
	Regions    *RegionHosts // that MAAS's API knows; nil: it is not asked
	StateDir   string

	FS     world.FS
	Runner world.Runner
	Dial   world.Dial
	UID    int // the user that we are
}

// MAASSection are the keys of a target of type maas.
type MAASSection struct {
	Port          int           `yaml:"port"`
	Endpoints     []string      `yaml:"endpoints"`
	VerifyTimeout time.Duration `yaml:"verify_timeout"`
}

// usualVerifyTimeout is for how long endpoints are waited for. A region needs up to a minute for what it was told, and is told a
// second time after half of this.
const usualVerifyTimeout = 5 * time.Minute

// Check finds what is wrong.
func (s *MAASSection) Check(at section.Place) {
	if s.Port != 0 && !IsUsablePort(s.Port) {
		at.Fault("port", "%d cannot be MAAS's TLS port: it is out of range or used by MAAS itself", s.Port)
	}
	for i, endpoint := range s.Endpoints {
		key := fmt.Sprintf("endpoints[%d]", i)
		_, port, err := net.SplitHostPort(endpoint)
		number, _ := strconv.Atoi(port)
		switch {
		case !section.IsEndpoint(endpoint):
			at.Fault(key, "%q is no host or host:port", endpoint)
		case err == nil && !IsUsablePort(number):
			at.Fault(key, "%s: MAAS does not serve TLS there: it uses this port otherwise", endpoint)
		}
	}
	checkDuration(at, "verify_timeout", s.VerifyTimeout)
}

// Entrusted are none: the maas command and the stage have their keys elsewhere.
func (s *MAASSection) Entrusted() []string { return nil }

// LocalPorts is the one that MAAS serves TLS on, or will.
func (s *MAASSection) LocalPorts(maas int) []int { return []int{cmp.Or(maas, s.Port, DefaultPort)} }

// Make makes the MAAS deployment that this host belongs to.
func (s *MAASSection) Make(parts Parts) Target {
	here := parts.MAAS.Installation(parts.StateDir, parts.FS, parts.Runner)
	return New(Config{
		Name: parts.Name, Port: s.Port, Endpoints: s.Endpoints, Regions: parts.Regions, ServerName: parts.ServerName, Trust: parts.Trust,
		Timeout: parts.MAAS.Timeout, VerifyTimeout: s.VerifyTimeout,
		Detect: func(ctx context.Context) (Installation, error) { return Detect(ctx, here) },
		Stages: Stages(here), FS: parts.FS, Runner: parts.Runner, Dial: parts.Dial, UID: parts.UID,
	})
}

// CheckTogether finds what targets, by name, cannot be beside each other on one host.
func CheckTogether(targets map[string]TargetSection) error {
	deployments, owner := 0, map[string]string{}
	for _, name := range slices.Sorted(maps.Keys(targets)) {
		switch keys := targets[name].(type) {
		case *MAASSection:
			deployments++
		case *FilesSection:
			for _, one := range keys.paths() {
				if other, taken := owner[one.path]; taken && other != name {
					return fmt.Errorf("targets %s and %s name the same file: %s", other, name, one.path)
				}
				owner[one.path] = name
			}
		}
	}
	if deployments > 1 {
		return errors.New("a host belongs to one MAAS: only one target can be of type maas")
	}
	return nil
}

// HostSection says in the configuration where MAAS is on this host, where what is left out is detected; which of its regions' addresses
// are asked; and whether MAAS's own notice of expiry follows ours.
type HostSection struct {
	Command  string        `yaml:"command,program"`
	StageDir string        `yaml:"stage_dir,path"`
	HTTPDir  string        `yaml:"http_dir,path"`
	Version  string        `yaml:"version"`
	Timeout  time.Duration `yaml:"timeout"`
	Networks []string      `yaml:"networks"`
	Align    bool          `yaml:"align_expiry_notice"`

	networks []netip.Prefix
}

// UsualHostSection is what holds where a configuration says nothing of MAAS.
func UsualHostSection() HostSection { return HostSection{Timeout: 2 * time.Minute} }

// WantedNetworks are those of which a region's address is to be.
func (s HostSection) WantedNetworks() []netip.Prefix { return s.networks }

// Installation says what is not to be detected.
func (s HostSection) Installation(stateDir string, fsys world.FS, runner world.Runner) InstallationConfig {
	return InstallationConfig{Command: s.Command, StageDir: s.StageDir, HTTPDir: s.HTTPDir, Version: s.Version, StateDir: stateDir, FS: fsys, Runner: runner}
}

// Check finds what is wrong.
func (s *HostSection) Check(at section.Place) {
	checkDuration(at, "timeout", s.Timeout)
	s.networks = checkNetworks(at, "networks", s.Networks)
	if s.Version != "" {
		if _, err := ParseVersion(s.Version); err != nil {
			at.Fault("version", "%v; write 3.7.3", err)
		}
	}
}

func checkDuration(at section.Place, key string, value time.Duration) {
	if value < time.Second || value > time.Hour {
		at.Fault(key, "%v is out of range: 1s to 1h", value)
	}
}
