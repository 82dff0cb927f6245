package maasconfig

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Config is all that a MAAS target depends on.
type Config struct {
	Name string
	// Detect finds the installation. It is asked again for each pass: MAAS may be installed, refreshed or mounted while
	// maascert runs. Without an installation nothing is deployed, but endpoints can be asked.
	Detect func(context.Context) (Installation, error)

	Port          int          // for a first enabling of TLS; 0: DefaultPort
	Endpoints     []string     // host or host:port of every region; none: those that MAAS's API lists
	Regions       *RegionHosts // that are asked where no endpoints are named, and compared with them else; nil: this host
	ServerName    string       // sent as SNI; may be empty
	Trust         certstore.Trust
	Timeout       time.Duration // for one config-tls call
	VerifyTimeout time.Duration // for every endpoint to serve a bundle after a call

	Stages []string // where stages may have been left, also while no installation is found

	FS     world.FS
	Runner world.Runner
	Dial   world.Dial
	UID    int // the user that we are
}

// MAAS is a MAAS deployment as a target: one certificate that all region controllers serve.
type MAAS struct {
	config Config
	unseen error // regions that nobody looks at

	mu       sync.Mutex
	found    Installation
	foundErr error
	looked   time.Time
	regions  []RegionHost // as they were found last
	unsure   error        // why there may be others
	noList   bool         // MAAS could not be asked which there are
	unlisted error        // of configured endpoints: regions that are none of them
}

// detectionAge is for how long a found installation is relied on: about as long as a pass takes.
const detectionAge = 10 * time.Second

func (m *MAAS) installation(ctx context.Context) (Installation, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if now := m.config.Trust.Time(); m.looked.IsZero() || now.Sub(m.looked) > detectionAge || m.foundErr != nil {
		m.found, m.foundErr = m.config.Detect(ctx)
		m.looked = now
	}
	return m.found, m.foundErr
}

// here is the installation as far as it is known.
func (m *MAAS) here(ctx context.Context) Installation {
	found, err := m.installation(ctx)
	if err != nil {
		return Installation{HTTPDir: found.HTTPDir}
	}
	return found
}

var _ Target = (*MAAS)(nil)

// New makes the target. It asks nothing of MAAS yet.
func New(config Config) *MAAS {
	m := &MAAS{config: config}
	if len(config.Endpoints) == 0 && config.Regions == nil {
		m.unseen = hint.Add(errors.New("only this host is verified"), "with more than one region, list every region in targets.%s.endpoints, or set maas.api", config.Name)
	}
	return m
}

// maasType is the type of a MAAS deployment in the configuration.
const maasType = "maas"

// Info says that all of a MAAS deployment is one target.
func (m *MAAS) Info() Info {
	m.mu.Lock()
	defer m.mu.Unlock()
	return Info{Name: m.config.Name, Type: maasType, Shared: true, Logs: "MAAS's and nginx's log", Unseen: m.unseen, Unsure: m.unsure, NoList: m.noList, Unlisted: m.unlisted}
}

// Guards are asked in this order: first what can be known without the network, then what the regions say of TLS, then what
// they serve.
func (m *MAAS) Guards(want Want) []Guard {
	return []Guard{
		{Code: "maas", Promise: "MAAS is installed here", First: true, Ask: func(ctx context.Context) (string, error) {
			here, err := m.installation(ctx)
			return fmt.Sprintf("%s, MAAS %s", here.Command, here.Version), err
		}},
		{Code: "root", Promise: "MAAS can be configured by this user", Ask: func(ctx context.Context) (string, error) {
			return fmt.Sprintf("user %d", m.config.UID), m.mayConfigure(ctx)
		}},
		{Code: Juju, Promise: "nobody else manages MAAS's certificate", Ask: func(context.Context) (string, error) {
			unit := JujuUnit(m.config.FS)
			if unit != "" && !want.Accept[Juju] {
				return unit, refuse(want.Accept, Juju, "Juju manages this region (%s) and would put its own certificate back", unit)
			}
			return "no Juju unit", nil
		}},
		{Code: "key-type", Promise: "this MAAS loads keys of this type", Ask: func(ctx context.Context) (string, error) {
			return string(want.KeyType), keyLoads(want.KeyType, m.here(ctx).Version)
		}},
		{Code: "stage", Promise: "keys can be staged for MAAS", Ask: func(ctx context.Context) (string, error) {
			return m.here(ctx).StageDir, m.canStage(m.here(ctx).StageDir)
		}},
		{Code: "tls", Promise: "where MAAS serves TLS is known", Ask: func(ctx context.Context) (string, error) {
			port, err := m.port(ctx, want)
			return fmt.Sprintf("port %d of %s", port, strings.Join(m.hosts(), ", ")), err
		}},
		{Code: NamesLost, Promise: "no name that is served now gets lost", Ask: func(ctx context.Context) (string, error) {
			return strings.Join(want.Names, ", "), m.namesLost(ctx, want)
		}},
		{Code: "regions", Promise: "every region says the same of TLS", Advice: true, Ask: func(ctx context.Context) (string, error) {
			said := m.dissent(ctx)
			if said == "" {
				return strings.Join(m.hosts(), ", "), nil
			}
			return m.config.Name, hint.Add(errors.New("not every region says the same of TLS: "+said), "what this host knows decides; restart MAAS's services on a region that is behind")
		}},
	}
}

// canStage tells without writing whether keys can be staged, and that nobody else could get at them.
func (m *MAAS) canStage(dir string) error {
	if err := world.Private(m.config.FS, dir, m.config.UID); err != nil {
		return hint.Add(fmt.Errorf("the stage is not safe: %w", err), "maas.stage_dir must be a folder of its own: chown root %[1]s; chmod 0700 %[1]s", dir)
	}
	if err := m.config.FS.Writable(dir); err != nil {
		return hint.Add(fmt.Errorf("the stage cannot be written: %w", err), "free or mount it, or set maas.stage_dir to a folder that the maas command can read")
	}
	return nil
}

// mayConfigure tells whether we are who MAAS takes orders from. It wants root, or who stands for root in an installation
// that an ordinary user made: whoever owns its command.
func (m *MAAS) mayConfigure(ctx context.Context) error {
	if m.config.UID == 0 {
		return nil
	}
	info, err := m.config.FS.Stat(m.here(ctx).Command)
	if err != nil {
		return hint.Add(fmt.Errorf("the maas command: %w", err), "set maas.command")
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && int(stat.Uid) != m.config.UID {
		return hint.Add(fmt.Errorf("only user %d may configure this MAAS (we are user %d)", stat.Uid, m.config.UID), "run maascert as root")
	}
	return nil
}

// keyLoads tells whether a MAAS version can load a key type: from 3.8 on only RSA (MAAS fact 1.4).
func keyLoads(keyType certstore.KeyType, version Version) error {
	switch {
	case keyType.IsRSA():
		return nil
	case !version.IsKnown():
		return hint.Add(fmt.Errorf("MAAS's version is unknown, and some cannot load a key of type %s", keyType), "set key_type: rsa3072, or maas.version")
	case version.AtLeast(3, 8):
		return hint.Add(fmt.Errorf("MAAS %s cannot load a key of type %s", version, keyType), "set key_type: rsa3072")
	default:
		return nil
	}
}

// port finds the port on which MAAS serves TLS and has to be told to go on doing so, because config-tls resets a port that it
// is not told (MAAS fact 1.6).
func (m *MAAS) port(ctx context.Context, want Want) (int, error) {
	port, err := m.servedPort(ctx, want)
	if err != nil {
		return 0, err
	}
	switch {
	case port == 0:
		return m.firstPort(), m.mayEnable(ctx, m.firstPort(), want)
	case !IsUsablePort(port):
		certs := filepath.Join(m.here(ctx).HTTPDir, "certs", "regiond-proxy")
		return 0, hint.Add(fmt.Errorf("MAAS serves TLS on port %d, which it uses itself: racks and machines are to be answered there in plain HTTP", port),
			"put it on another port: %s config-tls enable %s-key.pem %[2]s.pem --cacert %[2]s.pem --port %d --yes", cmp.Or(m.here(ctx).Command, "maas"), certs, m.firstPort())
	default:
		return port, nil
	}
}

// firstPort returns the port on which TLS is enabled for the first time.
func (m *MAAS) firstPort() int {
	if m.config.Port != 0 {
		return m.config.Port
	}
	return DefaultPort
}

// servedPort finds the port on which TLS is on; 0 when it is off. Port 5240 is plain HTTP, and anybody may stand before a
// region, so what is known on this host decides: regiond's own file, and the port on which every endpoint was verified
// before. Where neither is known, what the regions say counts when they agree and TLS is spoken there; a port that nothing on
// this host confirms is enabled only when somebody says so.
func (m *MAAS) servedPort(ctx context.Context, want Want) (int, error) {
	local := localTLS(m.config.FS, m.here(ctx).HTTPDir)
	if local.known && (local.port != 0 || want.Port == 0) {
		return local.port, nil
	}
	said, silent := m.voices(ctx)
	switch {
	case want.Port != 0 && local.known: // this region's file says that TLS is off
		on, off := len(said[tlsState{known: true, port: want.Port}]), 1+len(said[tlsState{known: true}])
		if on >= off && m.isServedOn(ctx, want.Port) {
			return want.Port, nil // it missed the enabling, and must not stop the renewals of the others
		}
		return 0, nil
	case want.Port != 0 && (len(said[tlsState{known: true}]) == 0 || m.isServedOn(ctx, want.Port)):
		return want.Port, nil
	case len(said) == 0:
		return 0, hint.Add(fmt.Errorf("no region says whether it serves TLS (%s), and this host's own files do not either: %w", strings.Join(silent, "; "), local.err),
			"is maas.http_dir the folder of regiond.nginx.conf, and does MAAS run? Regions that do answer on port %d", httpPort)
	}
	claimed, err := m.agreed(ctx, said)
	if err != nil || claimed == 0 {
		return claimed, err
	}
	if claimed != m.config.Port && !want.Accept[FirstEnable] {
		return 0, refuse(want.Accept, FirstEnable, "the regions say that they serve TLS on port %d, which nothing on this host confirms (%v: set maas.http_dir to where regiond.nginx.conf is, or targets.%s.port)", claimed, local.err, m.config.Name)
	}
	if !m.isServedOn(ctx, claimed) {
		return 0, fmt.Errorf("the regions say that they serve TLS on port %d, and none does", claimed)
	}
	return claimed, nil
}

// isServedOn tells whether any region speaks TLS on a port.
func (m *MAAS) isServedOn(ctx context.Context, port int) bool {
	return slices.Contains(sideBySide(m.hosts(), func(host string) bool {
		return len(Handshake(ctx, m.config.Dial, net.JoinHostPort(host, strconv.Itoa(port)), m.config.ServerName).Certs) > 0
	}), true)
}

// voices asks every region about TLS, and sorts them by what they say; the silent ones apart.
func (m *MAAS) voices(ctx context.Context) (said map[tlsState][]string, silent []string) {
	said = map[tlsState][]string{}
	hosts := m.hosts()
	for i, state := range sideBySide(hosts, func(host string) tlsState { return askTLS(ctx, m.config.Dial, host) }) {
		if state.known {
			said[state] = append(said[state], hosts[i])
		} else {
			silent = append(silent, fmt.Sprintf("%s: %v", hosts[i], state.err))
		}
	}
	return said, silent
}

// agreed is the port that the regions agree on. Where more say that TLS is on, all on one port, than say that it is off,
// those missed its enabling, and must not stop the renewals of the others. The other way round TLS was switched off.
func (m *MAAS) agreed(ctx context.Context, said map[tlsState][]string) (int, error) {
	off := said[tlsState{known: true}]
	for state, hosts := range said {
		if len(said) == 1 || len(said) == 2 && state.port != 0 && len(off) > 0 && len(hosts) > len(off) {
			return state.port, nil
		}
	}
	return 0, hint.Add(fmt.Errorf("the regions disagree on TLS (%s)", sayings(said)),
		"endpoints must be the regions themselves, not a proxy; a region that is behind is restarted there: %s", m.here(ctx).Restart())
}

func sayings(said map[tlsState][]string) string {
	var words []string
	for state, hosts := range said {
		what := "TLS off"
		if state.port != 0 {
			what = "TLS on port " + strconv.Itoa(state.port)
		}
		words = append(words, strings.Join(hosts, ", ")+": "+what)
	}
	slices.Sort(words)
	return strings.Join(words, "; ")
}

// dissent tells what regions say of TLS when they contradict this host or each other; empty when all agree.
func (m *MAAS) dissent(ctx context.Context) string {
	said, _ := m.voices(ctx)
	if local := localTLS(m.config.FS, m.here(ctx).HTTPDir); local.known {
		delete(said, tlsState{known: true, port: local.port})
		if len(said) == 0 {
			return ""
		}
		said[tlsState{known: true, port: local.port}] = []string{"this host"}
	}
	if len(said) < 2 {
		return ""
	}
	return sayings(said)
}

// mayEnable are the guards of a first enabling of TLS, after which nobody can go back to HTTP: browsers remember HSTS
// for up to two years (MAAS fact 2.6).
func (m *MAAS) mayEnable(ctx context.Context, port int, want Want) error {
	version, accept := m.here(ctx).Version, want.Accept
	switch {
	case accept[FirstEnable]:
	case want.Ours:
		return refuse(accept, FirstEnable, "MAAS serves TLS no more: somebody switched it off after it served our certificate, and browsers may refuse to go back to HTTP")
	default:
		err := refuse(accept, FirstEnable, "MAAS does not serve TLS yet; once it does, browsers refuse to go back to HTTP")
		if refusal, ok := errors.AsType[*Refusal](err); ok {
			refusal.IsFirst = true
		}
		return err
	}
	if version.Major == 3 && version.Minor == 7 && version.Patch <= 2 && !accept[DHCP37] {
		return refuse(accept, DHCP37, "MAAS %s cannot configure DHCP any more once TLS is on (LP#2148224, mended in 3.7.3)", version)
	}
	if !IsUsablePort(port) {
		return hint.Add(fmt.Errorf("MAAS uses port %d itself", port), "set targets.%s.port", m.config.Name)
	}
	// One that is elsewhere may be a load balancer that passes TCP through.
	if !slices.ContainsFunc(m.endpoints(), func(host RegionHost) bool {
		_, own := splitEndpoint(host.Address)
		return own == "" || own == strconv.Itoa(port)
	}) {
		return hint.Add(fmt.Errorf("no endpoint is on port %d, where MAAS would serve TLS", port), "set targets.%s.port, or leave the endpoints' ports out", m.config.Name)
	}
	taken := sideBySide(m.hosts(), func(host string) string {
		ctx, cancel := context.WithTimeout(ctx, askTime)
		defer cancel()
		address := net.JoinHostPort(host, strconv.Itoa(port))
		conn, err := m.config.Dial(ctx, "tcp", address)
		if err != nil {
			return ""
		}
		// Somebody accepted, which is all that matters.
		_ = conn.Close()
		return address
	})
	for _, address := range taken {
		if address != "" {
			return hint.Add(fmt.Errorf("something else listens on %s", address), "set targets.%s.port", m.config.Name)
		}
	}
	return nil
}

// IsUsablePort tells whether MAAS could serve TLS on a port: it is one, and MAAS does not use it otherwise (MAAS fact
// 2.6).
func IsUsablePort(port int) bool {
	taken := port >= 5240 && port <= 5248 || port >= 5250 && port <= 5274 || port >= 5281 && port <= 5284
	return port >= 1 && port <= 65535 && !taken
}

// namesLost refuses the loss of a name that is served now, unless the loss is our own wish's doing.
func (m *MAAS) namesLost(ctx context.Context, want Want) error {
	local := ""
	if backup, err := m.Backup(ctx); err == nil {
		local = backup.Fingerprint()
	}
	lost := map[string]bool{}
	for _, s := range m.Probe(ctx) {
		// Once MAAS served a certificate of ours, one that nobody trusts and that is not MAAS's own is somebody's prank:
		// it must not stop renewals.
		if len(s.Certs) == 0 || want.Ours && s.Fingerprint() != local && !m.couldBeOurs(s, want) {
			continue
		}
		for _, name := range certstore.CertificateNames(s.Certs[0]) {
			if !Covers(want.Names, name) && !slices.Contains(want.Earlier, name) {
				lost[name] = true
			}
		}
	}
	if len(lost) == 0 || want.Accept[NamesLost] {
		return nil
	}
	err := refuse(want.Accept, NamesLost, "names that MAAS serves now would be lost: %s", listed(slices.Sorted(maps.Keys(lost))))
	if err == nil {
		return nil
	}
	return hint.Again(err, "add them to the certificate's names; or, %s", hint.Of(err))
}

// couldBeOurs tells whether what is served could be meant for this MAAS: clients trust it, and it has a name that ours have
// or had. Anybody may have a certificate of a trusted CA for names of his own.
func (m *MAAS) couldBeOurs(s Served, want Want) bool {
	return m.config.Trust.Check(s.Certs[0], s.Certs[1:]) == nil && slices.ContainsFunc(certstore.CertificateNames(s.Certs[0]), func(name string) bool {
		return Covers(want.Names, name) || slices.Contains(want.Earlier, name)
	})
}

// listed are names from outside, as many as a line takes.
func listed(names []string) string {
	const most = 20
	shown := strings.Join(printable.Lines(names, 253, most), ", ")
	if more := len(names) - most; more > 0 {
		shown += fmt.Sprintf(" and %d more", more)
	}
	return shown
}

// Covers tells whether a certificate with names also answers for name.
func Covers(names []string, name string) bool {
	_, parent, _ := strings.Cut(name, ".")
	return slices.Contains(names, name) || slices.Contains(names, "*."+parent)
}

func (m *MAAS) hosts() []string {
	endpoints := m.endpoints()
	hosts := make([]string, len(endpoints))
	for i, endpoint := range endpoints {
		hosts[i], _ = splitEndpoint(endpoint.Address)
	}
	return hosts
}

func splitEndpoint(endpoint string) (host, port string) {
	if host, port, err := net.SplitHostPort(endpoint); err == nil {
		return host, port
	}
	return strings.Trim(endpoint, "[]"), ""
}

// Probe shakes hands with every endpoint by its address. An endpoint without a port is asked on the port that this host's
// region serves TLS on, because all share it; where that is not known, on the one that its own region names.
func (m *MAAS) Probe(ctx context.Context) []Served {
	// What reads the certificate at its start in any case is restarted (MAAS fact 2.5).
	remedy := "on that region: " + m.here(ctx).Restart() + " (it restarts MAAS's services there), then: maascert renew"
	return sideBySide(m.endpoints(), func(endpoint RegionHost) Served {
		host, port := splitEndpoint(endpoint.Address)
		if port == "" {
			port = strconv.Itoa(m.portOf(ctx, host))
		}
		stopped := make(chan bool, 1)
		go func() { stopped <- isStopped(ctx, m.config.Dial, host) }()
		served := Handshake(ctx, m.config.Dial, net.JoinHostPort(host, port), m.config.ServerName)
		served.Stopped = <-stopped
		served.Remedy, served.Region, served.Unlisted = remedy, endpoint.Region, endpoint.Unlisted
		return served
	})
}

func (m *MAAS) portOf(ctx context.Context, host string) int {
	for _, state := range []func() tlsState{
		func() tlsState { return localTLS(m.config.FS, m.here(ctx).HTTPDir) },
		func() tlsState { return askTLS(ctx, m.config.Dial, host) },
	} {
		if state := state(); state.known && state.port != 0 {
			return state.port
		}
	}
	return m.firstPort()
}

// Backup reads the pair that this region's proxy serves (MAAS fact 2.2). What hooks put into the chain beside it, in the
// wrong order or twice, is put right. The files belong to MAAS's own user on a deb, so links of his are not followed out of
// his folder, and files of others are not read.
func (m *MAAS) Backup(ctx context.Context) (*certstore.Bundle, error) {
	dir := m.here(ctx).HTTPDir
	if dir == "" {
		return nil, errors.New("maas.http_dir is unknown")
	}
	root, err := m.config.FS.OpenRoot(dir)
	if err != nil {
		return nil, err
	}
	defer root.Close()
	text, err := root.ReadFile(filepath.Join("certs", "regiond-proxy.pem"))
	if err != nil {
		return nil, err
	}
	certs, err := certstore.ParseCertificates(text)
	if err != nil {
		return nil, err
	}
	text, err = root.ReadFile(filepath.Join("certs", "regiond-proxy-key.pem"))
	if err != nil {
		return nil, err
	}
	key, err := certstore.ParseKey(text)
	if err != nil {
		return nil, err
	}
	return certstore.NewBundle(key, certstore.ChainOf(certs[0], certs[1:]))
}
