package maasconfig

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/goccy/go-yaml"

	"maascert/internal/hint"
	"maascert/internal/world"
)

// Version is a MAAS version; the zero value is an unknown one.
type Version struct{ Major, Minor, Patch int }

// AtLeast tells whether the version is major.minor or later. A beta counts as its release.
func (v Version) AtLeast(major, minor int) bool {
	return v.Major > major || v.Major == major && v.Minor >= minor
}

// IsKnown tells whether there is a version at all.
func (v Version) IsKnown() bool { return v != Version{} }

func (v Version) String() string {
	if !v.IsKnown() {
		return "unknown"
	}
	return fmt.Sprintf("%d.%d.%d", v.Major, v.Minor, v.Patch)
}

// versions are spelled 3.7.3, 3.8.0~beta6, 1:3.7.3-17001-g.abcdef (MAAS fact 5.2).
var versions = regexp.MustCompile(`^(?:\d+:)?(\d+)\.(\d+)(?:\.(\d+))?(?:$|[~+-])`)

// ParseVersion reads a version as the snap and the deb spell it.
func ParseVersion(text string) (Version, error) {
	match := versions.FindStringSubmatch(strings.TrimSpace(text))
	if match == nil {
		return Version{}, fmt.Errorf("%q is not a MAAS version", text)
	}
	var v Version
	for i, part := range []*int{&v.Major, &v.Minor, &v.Patch} {
		if match[i+1] != "" {
			number, err := strconv.Atoi(match[i+1])
			if err != nil {
				return Version{}, fmt.Errorf("%q is not a MAAS version", text)
			}
			*part = number
		}
	}
	if !v.IsKnown() {
		return Version{}, fmt.Errorf("%q is not a MAAS version", text)
	}
	return v, nil
}

// Installation describes how MAAS is installed on this host.
type Installation struct {
	Kind     string // snap, deb, or empty when neither is seen
	Version  Version
	Mode     string // region, region+rack; empty when unknown
	Command  string // path of the maas command
	HTTPDir  string // where regiond writes regiond.nginx.conf; empty when unknown
	StageDir string
}

// Places that MAAS's packages fix (MAAS fact 5.2).
const (
	snapMeta     = "/snap/maas/current/meta/snap.yaml"
	snapMode     = "/var/snap/maas/common/snap_mode"
	snapCommand  = "/snap/bin/maas"
	debCommand   = "/usr/bin/maas"
	snapHTTP     = "/var/snap/maas/current/http"
	snapStage    = "/var/snap/maas/common/maascert"
	debHTTP      = "/var/lib/maas/http"
	debRegion    = "/etc/maas/regiond.conf"
	debPackage   = "maas-region-api"
	debInfo      = "/var/lib/dpkg/info/maas-region-api.list"
	jujuAgents   = "/var/lib/juju/agents"
	nginxInclude = "regiond.nginx.conf"
)

// InstallationConfig says what is not to be detected; empty fields are.
type InstallationConfig struct {
	Command, StageDir, HTTPDir, Version string
	StateDir                            string
	FS                                  world.FS
	Runner                              world.Runner
}

// Detect finds out how MAAS is installed. The error says that there is no region controller here.
func Detect(ctx context.Context, config InstallationConfig) (Installation, error) {
	found := Installation{Command: config.Command, HTTPDir: config.HTTPDir, StageDir: config.StageDir}
	command := "maas"
	switch {
	case exists(config.FS, snapMeta):
		found.Kind, command = "snap", snapCommand
	case exists(config.FS, debInfo):
		found.Kind, command = "deb", debCommand
	}
	if config.Command == "" {
		found.Command = command
	}
	path, err := config.Runner.LookPath(found.Command)
	if err != nil {
		return found, hint.Add(fmt.Errorf("the maas command %q is not here", found.Command),
			"run maascert on a region host, or set maas.command")
	}
	found.Command = path
	switch found.Kind {
	case "snap":
		err = found.detectSnap(config)
	case "deb":
		err = found.detectDeb(ctx, config)
	}
	if err != nil {
		return found, err
	}
	if config.Version != "" {
		if found.Version, err = ParseVersion(config.Version); err != nil {
			return found, err
		}
	}
	fallback := map[string][2]string{
		"snap": {snapStage, snapHTTP},
		"deb":  {filepath.Join(config.StateDir, "stage"), debHTTP},
		"":     {filepath.Join(config.StateDir, "stage"), ""},
	}[found.Kind]
	if found.StageDir == "" {
		found.StageDir = fallback[0]
	}
	if found.HTTPDir == "" {
		found.HTTPDir = fallback[1]
	}
	return found, nil
}

func (i *Installation) detectSnap(config InstallationConfig) error {
	if text, err := config.FS.ReadFile(snapMode); err == nil {
		mode := strings.TrimSpace(string(text))
		if i.Mode = mode; mode == "rack" || mode == "none" || mode == "" {
			return hint.Add(fmt.Errorf("this host is no region controller (MAAS snap in mode %q)", mode), "run maascert on a region host")
		}
	}
	text, err := config.FS.ReadFile(snapMeta)
	if err != nil {
		return nil
	}
	var meta struct {
		Version string `yaml:"version"`
	}
	if yaml.Unmarshal(text, &meta) == nil {
		// One that cannot be read stays unknown, which the guards treat with care.
		i.Version, _ = ParseVersion(meta.Version)
	}
	return nil
}

func (i *Installation) detectDeb(ctx context.Context, config InstallationConfig) error {
	if !exists(config.FS, debRegion) {
		return hint.Add(errors.New("this host is no region controller (no "+debRegion+")"), "run maascert on a region host")
	}
	result, err := config.Runner.Run(ctx, world.Command{
		Path: "dpkg-query", Args: []string{"-W", "-f", "${Version}", debPackage}, Timeout: 10 * time.Second,
	})
	if err == nil && result.Exit == 0 {
		// As above.
		i.Version, _ = ParseVersion(string(result.Stdout))
	}
	return nil
}

// Confidential are MAAS's files that hold its secrets (MAAS fact 5.2); not every host has each.
func (i Installation) Confidential() []string {
	conf := i.RegiondConf()
	if conf == "" {
		return nil
	}
	secret := map[string]string{"snap": "/var/snap/maas/common/maas/secret", "deb": "/var/lib/maas/secret"}[i.Kind]
	if secret == "" {
		secret = filepath.Join(filepath.Dir(conf), "secret")
	}
	return []string{conf, filepath.Join(filepath.Dir(conf), "rackd.conf"), secret}
}

// ClusterCertificates are the files with what MAAS's own processes know each other by, from 3.5 on (MAAS fact 6.2).
func (i Installation) ClusterCertificates() []string {
	dir := map[string]string{"snap": "/var/snap/maas/current/certificates", "deb": "/var/lib/maas/certificates"}[i.Kind]
	if dir == "" && i.HTTPDir != "" {
		dir = filepath.Join(filepath.Dir(i.HTTPDir), "certificates")
	}
	return []string{filepath.Join(dir, "cluster.pem"), filepath.Join(dir, "cacerts.pem")}
}

// Status is the command that tells whether MAAS's services run.
func (i Installation) Status() string {
	if i.Kind == "snap" {
		return "maas status"
	}
	return "systemctl status maas-regiond maas-http"
}

// Stages lists the folders in which killed runs may have left stages, whatever is installed now.
func Stages(config InstallationConfig) []string {
	if config.StageDir != "" {
		return []string{config.StageDir}
	}
	return []string{snapStage, filepath.Join(config.StateDir, "stage")}
}

// Restart is the command that makes a region read its certificate again whatever state it is in.
func (i Installation) Restart() string {
	switch {
	case i.Kind == "snap" && i.Version.IsKnown() && !i.Version.AtLeast(3, 5):
		return "snap restart maas.supervisor"
	case i.Kind == "snap":
		return "snap restart maas.pebble"
	default:
		return "systemctl restart maas-regiond"
	}
}

// listen finds the TLS port in regiond.nginx.conf.
var listen = regexp.MustCompile(`(?m)^\s*listen\s+(?:\S*:)?(\d+)\s+ssl\b`)

// localTLS reads from regiond's own files whether this region serves TLS and on which port.
func localTLS(fsys world.FS, httpDir string) tlsState {
	if httpDir == "" {
		return tlsState{err: errors.New("maas.http_dir is unknown")}
	}
	root, err := fsys.OpenRoot(httpDir)
	if err != nil {
		return tlsState{err: err}
	}
	defer root.Close()
	text, err := root.ReadFile(nginxInclude)
	if err != nil {
		return tlsState{err: err}
	}
	match := listen.FindSubmatch(text)
	if match == nil {
		return tlsState{known: true}
	}
	port, err := strconv.ParseUint(string(match[1]), 10, 16)
	if err != nil {
		return tlsState{err: fmt.Errorf("%s names a port that is none of TCP's", nginxInclude)}
	}
	return tlsState{known: true, port: int(port)}
}

// LocalTLSPort is the port on which this host's region serves TLS, 0 for none, as regiond's own files say; known is whether they do.
func LocalTLSPort(ctx context.Context, config InstallationConfig) (port int, known bool) {
	// What is found without an installation is what is configured.
	here, _ := Detect(ctx, config)
	state := localTLS(config.FS, here.HTTPDir)
	return state.port, state.known
}

// JujuUnit is the Juju unit that manages MAAS here, or empty.
func JujuUnit(fsys world.FS) string {
	entries, err := fsys.ReadDir(jujuAgents)
	if err != nil {
		return ""
	}
	for _, entry := range entries {
		if name := entry.Name(); strings.HasPrefix(name, "unit-maas-region") {
			return name
		}
	}
	return ""
}

func exists(fsys world.FS, name string) bool {
	_, err := fsys.Stat(name)
	return err == nil
}
