package command

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/rogpeppe/go-internal/testscript"
	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig/maastest"
)

func TestMain(m *testing.M) {
	// These tests wait for regions most of the time, so more of them run side by side than there are processors. Programs that
	// were built to find races sleep for a second before they end well, which is of no use here.
	err := errors.Join(flag.Set("test.parallel", strconv.Itoa(3*runtime.GOMAXPROCS(0))), os.Setenv("GORACE", "atexit_sleep_ms=0 "+os.Getenv("GORACE")))
	if err != nil {
		panic(err)
	}
	if filepath.Base(os.Args[0]) != "maascert" { // the tests are no unit of systemd's
		if err := os.Unsetenv("INVOCATION_ID"); err != nil {
			panic(err)
		}
	}
	maastest.Main()
	testscript.Main(m, map[string]func(){"hang-up-server": hangUpServer, "maascert": func() {
		limitMemory()
		a := testApp(world.OS{})
		a.reach = port80(os.Getenv("HTTP01_PORT"))
		if ahead, err := time.ParseDuration(os.Getenv("CLOCK_AHEAD")); err == nil {
			a.now = func() time.Time { return time.Now().Add(ahead) }
		}
		if work := os.Getenv("WORK"); work != "" { // a script's
			a.fsys, a.listening = worldtest.Elsewhere{FS: world.OS{}, Root: filepath.Join(work, "host"), Kept: []string{work}}, nil
		}
		code := a.run(context.Background(), os.Args)
		if path := os.Getenv("PEAK_MEMORY"); path != "" {
			status, err := os.ReadFile("/proc/self/status")
			if err == nil {
				err = os.WriteFile(path, status, 0o600)
			}
			if err != nil {
				panic(err)
			}
		}
		os.Exit(code)
	}})
}

// testApp is the program on a host with a file system of the test's choice.
func testApp(fsys world.FS) *app {
	a := newApp()
	a.fsys, a.types = fsys, testTypes()
	return a
}

// port80 connects to another port of the loopback instead of port 80.
func port80(port string) world.Dial {
	return func(ctx context.Context, network, address string) (net.Conn, error) {
		if host, asked, err := net.SplitHostPort(address); err == nil && asked == "80" {
			address = net.JoinHostPort(host, port)
		}
		return new(net.Dialer).DialContext(ctx, network, address)
	}
}

// site is a CA and a MAAS deployment for one test, with a configuration for them.
type site struct {
	dir       string
	ca        *acmetest.CA
	maas      *maastest.Deployment
	held      func()                    // unlocks what "hold" locked
	listening map[int][]world.Listening // who takes connections on its host; nil: nobody knows
	down      bool
}

// newSite starts a site in a folder.
func newSite(dir string) (*site, error) { return newSiteWith(dir, acmetest.Options{}) }

// newSiteWith starts a site whose CA has habits.
func newSiteWith(dir string, habits acmetest.Options) (*site, error) {
	habits.Validity = 90 * 24 * time.Hour
	ca, err := acmetest.Start(habits)
	if err != nil {
		return nil, err
	}
	deployment, err := maastest.Start(maastest.Options{Dir: dir, PollZones: 20 * time.Millisecond, NameServer: func(*maastest.Region) (maastest.NameServer, error) {
		return &mirror{dns: ca.DNS}, nil
	}})
	if err != nil {
		ca.Stop()
		return nil, err
	}
	s := &site{dir: dir, ca: ca, maas: deployment}
	for name, text := range map[string][]byte{
		"directory_root.pem": ca.DirectoryRoot(), "issuer_root.pem": ca.Root(0), "maascert.yaml": []byte(s.config()),
	} {
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return nil, err
		}
	}
	return s, nil
}

// mirror is a region's name server whose TXT records the CA's has, because no test may have port 53.
type mirror struct {
	dns   *acmetest.DNS
	shown []string
}

func (m *mirror) Publish(zones map[string]string) error {
	var now []string
	for _, text := range zones {
		for line := range strings.Lines(text) {
			if name, value, isTXT := strings.Cut(strings.TrimSpace(line), " IN TXT "); isTXT {
				now = append(now, name+" "+value)
			}
		}
	}
	each := func(all, but []string, do func(name, value string)) {
		for _, one := range all {
			if name, value, _ := strings.Cut(one, " "); !slices.Contains(but, one) {
				do(name, value)
			}
		}
	}
	each(m.shown, now, m.dns.Remove)
	each(now, m.shown, m.dns.Put)
	m.shown = now
	return nil
}

func (s *site) config() string {
	return fmt.Sprintf(`node: region1
state_dir: state
listen: ""
resolvers: [%q]
acme:
  directory: %s
  root: directory_root.pem
  issuer_root: issuer_root.pem
  accept_terms: true
  challenge: {type: http-01, listen: "127.0.0.1:%d"}
certificates:
  - {name: maas, names: [maas.example.internal, region1.example.internal], key_type: ec256}
targets:
  maas: {endpoints: [%s], verify_timeout: 20s}
maas: {command: %q, http_dir: %q, stage_dir: stage, version: 3.7.3}
`, s.ca.DNS.Address, s.ca.Directory, s.ca.HTTPPort, strings.Join(s.maas.Endpoints(), ", "), s.maas.Command, s.maas.Regions[0].HTTPDir)
}

func (s *site) stop() {
	s.maas.Stop()
	if !s.down {
		s.ca.Stop()
	}
}

// snapshot is all that a rehearsal must leave alone: the store, the stage, the public files, MAAS, and what the CA
// issued, byte for byte and with the times of all files.
func (s *site) snapshot() (string, error) {
	var out strings.Builder
	for _, dir := range []string{"state", "stage"} {
		err := filepath.WalkDir(filepath.Join(s.dir, dir), func(path string, entry fs.DirEntry, err error) error {
			if os.IsNotExist(err) {
				return nil
			}
			if err != nil {
				return err
			}
			info, err := entry.Info()
			if err != nil {
				return err
			}
			text := []byte{}
			if !entry.IsDir() {
				if text, err = os.ReadFile(path); err != nil {
					return err
				}
			}
			fmt.Fprintf(&out, "%s %s %s %x\n", path, info.Mode(), info.ModTime(), text)
			return nil
		})
		if err != nil {
			return "", err
		}
	}
	stored, err := json.Marshal(s.maas.Stored())
	if err != nil {
		return "", err
	}
	fmt.Fprintf(&out, "%s\n%v\n%v\n", stored, s.maas.Calls(), s.ca.Issued())
	for _, region := range s.maas.Regions {
		if leaf := region.Serves(5443); leaf != nil {
			fmt.Fprintf(&out, "%s serves %s\n", region.Address, certstore.Fingerprint(leaf))
		}
	}
	return out.String(), nil
}

func TestScripts(t *testing.T) {
	t.Parallel()
	testscript.Run(t, testscript.Params{
		Dir:                 "testdata/script",
		RequireExplicitExec: true,
		Setup: func(env *testscript.Env) error {
			s, err := newSite(env.WorkDir)
			if err != nil {
				return err
			}
			env.Values["site"] = s
			env.Defer(s.stop)
			env.Setenv("MAASCERT_CONFIG", filepath.Join(env.WorkDir, "maascert.yaml"))
			env.Setenv("GORACE", os.Getenv("GORACE"))
			env.Setenv("DIRECTORY", s.ca.Directory)
			env.Setenv("TLS_PORT", strconv.Itoa(s.ca.TLSPort))
			env.Setenv("DNS", s.ca.DNS.Address)
			env.Setenv("HTTP01_PORT", strconv.Itoa(s.ca.HTTPPort))
			env.Setenv("TSIG_KEY", acmetest.KeyName)
			if err := os.WriteFile(filepath.Join(env.WorkDir, "tsig"), []byte(acmetest.Key), 0o600); err != nil {
				return err
			}
			for i, endpoint := range s.maas.Endpoints() {
				env.Setenv("REGION"+strconv.Itoa(i+1), endpoint)
			}
			return nil
		},
		Cmds: map[string]func(ts *testscript.TestScript, neg bool, args []string){
			"exits": exits, "warns": warns, "api": api, "edit": edit, "region": region, "maas": maas, "ca": ca, "counts": counts, "snapshot": snapshot, "hold": hold, "rehearsal-ca": rehearsalCA, "dns": dnsRecord,
			"serve-file": serveFile, "bundle": newBundle, "trust": trustBundle,
		},
	})
}

// dns RECORD: gives the name server a record, in zone file syntax.
func dnsRecord(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(siteOf(ts).ca.DNS.Set(args...))
}

func siteOf(ts *testscript.TestScript) *site { return ts.Value("site").(*site) }

// exits CODE COMMAND…: runs a command that must end with exactly this exit code, and whose standard error must be the
// promised one or two lines when the code is not 0.
func exits(ts *testscript.TestScript, neg bool, args []string) {
	want, err := strconv.Atoi(args[0])
	ts.Check(err)
	err = ts.Exec(args[1], args[2:]...)
	got := 0
	if err != nil {
		var exit interface{ ExitCode() int }
		if e, ok := err.(interface{ ExitCode() int }); ok {
			exit = e
		}
		if exit == nil {
			ts.Fatalf("%v", err)
		}
		got = exit.ExitCode()
	}
	if got != want {
		ts.Fatalf("exit %d instead of %d", got, want)
	}
	stderr := ts.ReadFile("stderr")
	if want == 0 && stderr != "" {
		ts.Fatalf("unexpected standard error")
	}
	if want != 0 && stderr != "" && !strings.HasPrefix(stderr, "maascert: ") {
		ts.Fatalf("standard error does not begin with \"maascert: \"")
	}
}

// warns COMMAND…: runs a command that must end well, and say on standard error what is worth a warning and nothing else.
func warns(ts *testscript.TestScript, neg bool, args []string) {
	ts.Check(ts.Exec(args[0], args[1:]...))
	stderr := ts.ReadFile("stderr")
	if stderr == "" {
		ts.Fatalf("it warns of nothing")
	}
	for line := range strings.Lines(stderr) {
		if !strings.HasPrefix(line, "maascert: warning: ") && !strings.HasPrefix(line, "hint: ") {
			ts.Fatalf("this is no warning: %s", line)
		}
	}
}

// api html|busy|silent|elsewhere|flood|well, or revoked, or key FILE USER [admin]: breaks or mends MAAS's API, or makes a key for it.
func api(ts *testscript.TestScript, neg bool, args []string) {
	d := siteOf(ts).maas
	answer := func(status int, kind, body string) {
		d.InterceptAPI(func(w http.ResponseWriter, r *http.Request, _ http.HandlerFunc) {
			w.Header().Set("Content-Type", kind)
			w.Header().Set("Location", "https://elsewhere.example/MAAS/api/2.0/version/")
			w.WriteHeader(status)
			fmt.Fprint(w, body)
		})
	}
	switch args[0] {
	case "html":
		answer(http.StatusOK, "text/html", "<html>welcome</html>")
	case "busy":
		answer(http.StatusServiceUnavailable, "text/plain", "busy")
	case "elsewhere":
		answer(http.StatusMovedPermanently, "text/html", "")
	case "flood":
		answer(http.StatusOK, "application/json", strings.Repeat("x", 1<<20))
	case "silent":
		d.InterceptAPI(func(_ http.ResponseWriter, r *http.Request, _ http.HandlerFunc) { <-r.Context().Done() })
	case "well":
		d.InterceptAPI(nil)
	case "revoked":
		d.RevokeKeys()
	case "key":
		ts.Check(os.WriteFile(ts.MkAbs(args[1]), []byte(d.APIKey(args[2], len(args) > 3)+"\n"), 0o600))
	case "domain":
		d.AddDomain(args[1], len(args) < 3)
	case "regions": // those that MAAS lists, each N for one with its address, or N- for one without
		controllers := []maastest.Controller{}
		for _, word := range args[1:] {
			n, err := strconv.Atoi(strings.TrimSuffix(word, "-"))
			ts.Check(err)
			c := maastest.Controller{SystemID: "sys" + word[:1], Hostname: "region" + word[:1], Domain: "example.internal"}
			if !strings.HasSuffix(word, "-") {
				c.Addresses = []netip.Prefix{netip.PrefixFrom(d.Regions[n-1].Address, 8)}
			}
			controllers = append(controllers, c)
		}
		d.SetControllers(controllers...)
	case "user-record":
		d.AddRecord(args[1], args[2], "TXT", "somebodys", 60)
	case "setting":
		if got := fmt.Sprint(d.Setting(args[1])); got != args[2] {
			ts.Fatalf("%s is %s", args[1], got)
		}
	default:
		ts.Fatalf("unknown: %q", args[0])
	}
}

// edit FILE OLD NEW: replaces a text that must be there.
func edit(ts *testscript.TestScript, neg bool, args []string) {
	path := ts.MkAbs(args[0])
	text := ts.ReadFile(path)
	if !strings.Contains(text, args[1]) {
		ts.Fatalf("%q is not in %s", args[1], args[0])
	}
	ts.Check(os.WriteFile(path, []byte(strings.ReplaceAll(text, args[1], strings.ReplaceAll(args[2], `\n`, "\n"))), 0o644))
}

// region N deaf|miss|refuse|well|restart: breaks or mends a region.
func region(ts *testscript.TestScript, neg bool, args []string) {
	n, err := strconv.Atoi(args[0])
	ts.Check(err)
	r := siteOf(ts).maas.Regions[n-1]
	switch args[1] {
	case "deaf":
		r.Break(maastest.Fault{Deaf: true})
	case "miss":
		r.Break(maastest.Fault{Miss: 1})
	case "refuse":
		r.Break(maastest.Fault{Refuse: true})
	case "slow":
		r.Break(maastest.Fault{Slow: time.Second})
	case "well":
		r.Break(maastest.Fault{})
	case "stopped":
		r.StopRegiond()
	case "down":
		r.StopProxy()
	case "restart":
		ts.Check(r.Restart())
	default:
		ts.Fatalf("unknown fault %q", args[1])
	}
}

// maas hangs|reachable|unreachable|root-is UID: breaks or mends the maas command.
func maas(ts *testscript.TestScript, neg bool, args []string) {
	d := siteOf(ts).maas
	switch args[0] {
	case "hangs":
		d.Hang(!neg)
	case "unreachable":
		d.Reach(neg)
	case "off": // somebody runs maas config-tls disable
		d.Set(nil)
		for begun := time.Now(); d.Regions[0].Serves(5443) != nil || d.Regions[2].Serves(5443) != nil; time.Sleep(time.Millisecond) {
			if time.Since(begun) > runTime {
				ts.Fatalf("the regions go on serving")
			}
		}
	case "serves": // with a certificate that somebody else brought
		authority, err := certtest.NewAuthority()
		ts.Check(err)
		bundle, err := authority.Issue(certstore.EC256, 0, 24*time.Hour, args[1:]...)
		ts.Check(err)
		ctx, cancel := context.WithTimeout(context.Background(), runTime)
		defer cancel()
		ts.Check(d.Enable(ctx, bundle, 5443))
	default:
		ts.Fatalf("unknown: %q", args[0])
	}
}

// ca down|html|limits|well: breaks or mends the CA.
func ca(ts *testscript.TestScript, neg bool, args []string) {
	s := siteOf(ts)
	part := strings.Join(args[1:], "") // of a path, or nothing: of every path
	answer := func(status int, kind, body string, header ...string) {
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, part) {
				w.Header().Set("Content-Type", kind)
				if len(header) == 2 {
					w.Header().Set(header[0], header[1])
				}
				w.WriteHeader(status)
				fmt.Fprint(w, body)
				return
			}
			next.ServeHTTP(w, r)
		})
	}
	switch args[0] {
	case "down":
		s.ca.Stop()
		s.down = true
	case "html":
		answer(http.StatusOK, "text/html", "<html>welcome</html>")
	case "limits":
		answer(http.StatusTooManyRequests, "application/problem+json", `{"type":"urn:ietf:params:acme:error:rateLimited","detail":"too many"}`, "Retry-After", "7200")
	case "refuses":
		part = acmetest.NewOrder
		answer(http.StatusForbidden, "application/problem+json", `{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"not here"}`)
	case "cheats": // it answers with a certificate for other names and another key
		authority, err := certtest.NewAuthority()
		ts.Check(err)
		bundle, err := authority.Issue(certstore.EC256, 0, 24*time.Hour, "somebody.else.example")
		ts.Check(err)
		part = acmetest.Certificate
		answer(http.StatusOK, "application/pem-certificate-chain", string(bundle.FullChainPEM()))
	case "well":
		s.ca.Intercept(nil)
	default:
		ts.Fatalf("unknown: %q", args[0])
	}
}

// counts issued|calls|orders|ari|requests N: checks how often something happened so far.
func counts(ts *testscript.TestScript, neg bool, args []string) {
	s := siteOf(ts)
	got := 0
	switch args[0] {
	case "issued":
		got = len(s.ca.Issued())
	case "calls":
		got = len(s.maas.Calls())
	case "orders":
		got = s.ca.Orders()
	case "stages":
		entries, err := os.ReadDir(filepath.Join(s.dir, "stage"))
		if !os.IsNotExist(err) {
			ts.Check(err)
		}
		got = len(entries)
	case "requests":
		got = len(s.ca.Requests())
	case "revoked":
		store := certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
		for number := 1; number <= 20; number++ {
			if version, err := certstore.LoadVersion(context.Background(), store, "maas", number); err == nil && s.ca.IsRevoked(version.Bundle.Leaf()) {
				got++
			}
		}
	case "records":
		got = len(s.maas.Records())
	case "txt":
		got = len(s.ca.DNS.TXT())
	case "puts":
		got = len(s.ca.DNS.Puts())
	default:
		ts.Fatalf("unknown: %q", args[0])
	}
	if want, err := strconv.Atoi(args[1]); err != nil || got != want {
		ts.Fatalf("%d %s instead of %s", got, args[0], args[1])
	}
}

// snapshot NAME: the first time remembers everything that a rehearsal must leave alone, the second time compares.
func snapshot(ts *testscript.TestScript, neg bool, args []string) {
	s := siteOf(ts)
	now, err := s.snapshot()
	ts.Check(err)
	path := filepath.Join(s.dir, "snapshot-"+args[0])
	before, err := os.ReadFile(path)
	if os.IsNotExist(err) {
		ts.Check(os.WriteFile(path, []byte(now), 0o600))
		return
	}
	ts.Check(err)
	if (string(before) == now) == neg {
		ts.Fatalf("before:\n%s\nnow:\n%s", before, now)
	}
}

// rehearsal-ca starts a second CA that the configuration names for dry runs.
func rehearsalCA(ts *testscript.TestScript, neg bool, args []string) {
	s := siteOf(ts)
	second, err := acmetest.Start(acmetest.Options{HTTPPort: s.ca.HTTPPort})
	ts.Check(err)
	ts.Defer(second.Stop)
	ts.Check(os.WriteFile(filepath.Join(s.dir, "second_root.pem"), second.DirectoryRoot(), 0o644))
	text := strings.Replace(s.config(), "  accept_terms: true", "  accept_terms: true\n  dry_run: {directory: \""+second.Directory+"\", root: second_root.pem}", 1)
	ts.Check(os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o644))
}

// bundle [-old|-late|-expired] FOLDER NAME…: makes a certificate of another CA, as files.
func newBundle(ts *testscript.TestScript, neg bool, args []string) {
	life := 90 * 24 * time.Hour
	age, aged := map[string]time.Duration{"-old": life * 3 / 4, "-late": life * 19 / 20, "-expired": life * 2}[args[0]]
	if aged {
		args = args[1:]
	}
	authority, err := certtest.NewAuthority()
	ts.Check(err)
	bundle, err := authority.Issue(certstore.EC256, age, life, args[1:]...)
	ts.Check(err)
	dir := ts.MkAbs(args[0])
	ts.Check(os.Mkdir(dir, 0o700))
	for name, text := range map[string][]byte{
		"key.pem": bundle.KeyPEM(), "fullchain.pem": bundle.FullChainPEM(), "leaf.pem": bundle.LeafPEM(), "chain.pem": bundle.ChainPEM(), "root.pem": authority.RootPEM(),
	} {
		ts.Check(os.WriteFile(filepath.Join(dir, name), text, 0o600))
	}
}

// trust FOLDER: has clients trust the CA of a bundle as well.
func trustBundle(ts *testscript.TestScript, neg bool, args []string) {
	root := ts.ReadFile(filepath.Join(args[0], "root.pem"))
	path := ts.MkAbs("issuer_root.pem")
	ts.Check(os.WriteFile(path, []byte(ts.ReadFile("issuer_root.pem")+root), 0o644))
}

// hold takes the lock of the certificate as another run would; ! hold gives it back.
func hold(ts *testscript.TestScript, neg bool, args []string) {
	s := siteOf(ts)
	if neg {
		s.held()
		return
	}
	held, err := certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store")).Lock(context.Background(), "maas")
	ts.Check(err)
	s.held = held.Unlock
}

// inSite runs the program in this process, with a file system of the test's choice.
func inSite(t *testing.T, s *site, fsys world.FS, args ...string) (code int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	null, err := os.Open(os.DevNull)
	require.NoError(t, err)
	defer null.Close()
	a := testApp(s.hostOf(fsys))
	a.stdin, a.stdout, a.stderr, a.chat, a.reach = null, &out, &errs, []string{lookUp(t, "maascert"), "notify", chatCommand}, port80(strconv.Itoa(s.ca.HTTPPort))
	if a.listening = nil; s.listening != nil {
		a.listening = func(port int) []world.Listening { return s.listening[port] }
	}
	defer time.AfterFunc(runTime, func() { panic(fmt.Sprintf("%q does not end", args)) }).Stop()
	code = a.run(t.Context(), slices.Concat([]string{"maascert", "--config", filepath.Join(s.dir, "maascert.yaml")}, args))
	return code, out.String(), errs.String()
}

// hostOf is a file system in which this host's own files are a site's: those below host in its folder.
func (s *site) hostOf(fsys world.FS) world.FS {
	return worldtest.Elsewhere{FS: fsys, Root: filepath.Join(s.dir, "host"), Kept: []string{os.TempDir()}}
}

// lookUp is the path of a program that testscript puts into PATH.
func lookUp(t *testing.T, name string) string {
	t.Helper()
	path, err := exec.LookPath(name)
	require.NoError(t, err)
	return path
}
