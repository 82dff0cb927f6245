package command

import (
	"crypto/tls"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
)

// hangUpServer is a TLS server that reads its files again on SIGHUP, and otherwise never: KEYFILE CERTFILE PIDFILE.
func hangUpServer() {
	var pair atomic.Pointer[tls.Certificate]
	load := func() {
		if loaded, err := tls.LoadX509KeyPair(os.Args[2], os.Args[1]); err == nil {
			pair.Store(&loaded)
		}
	}
	load()
	hup := make(chan os.Signal, 1)
	signal.Notify(hup, syscall.SIGHUP)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	go func() {
		for range hup {
			load()
		}
	}()
	config := &tls.Config{GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
		if loaded := pair.Load(); loaded != nil {
			return loaded, nil
		}
		return nil, errors.New("it has no certificate yet")
	}}
	if err := os.WriteFile(os.Args[3], fmt.Appendf(nil, "%d %s\n", os.Getpid(), listener.Addr()), 0o600); err != nil {
		panic(err)
	}
	shakeHands(listener, config)
}

// tlsService is a TLS server of a site that maascert knows only by its configuration.
type tlsService struct {
	dir, key, cert, address string
	cmd                     *exec.Cmd
}

// What tests and reloads the service, and does it badly when the file fault says so.
const (
	checkScript = `#!/bin/sh
cd "$(dirname "$0")"
case "$(cat fault)" in
"check fails") echo "line 7: unknown keyword" >&2; exit 1;;
"check fails with the new one") cmp -s "$1" first || { echo "cannot load it" >&2; exit 1; };;
"check hangs") exec sleep 1000;;
esac
`
	reloadScript = `#!/bin/sh
cd "$(dirname "$0")"
case "$(cat fault)" in
"reload fails") echo "Permission denied" >&2; exit 3;;
"reload hangs") exec sleep 1000;;
"reload prints megabytes") exec yes;;
"reload ends the service") read pid address <server; kill "$pid" 2>/dev/null || { echo "it does not run" >&2; exit 1; }; exit 0;;
esac
read pid address <server && kill -HUP "$pid"
`
)

// startService begins to serve, and adds the target and what it serves to the site's configuration.
func startService(t *testing.T, s *site, kind string) *tlsService {
	t.Helper()
	dir := filepath.Join(s.dir, "front")
	require.NoError(t, os.Mkdir(dir, 0o700))
	v := &tlsService{dir: dir, key: filepath.Join(dir, "key.pem"), cert: filepath.Join(dir, "fullchain.pem")}
	files := fmt.Sprintf("key: %s, fullchain: %s", v.key, v.cert)
	if kind == "haproxy" {
		v.key, v.cert = filepath.Join(dir, "maas.pem"), filepath.Join(dir, "maas.pem")
		files = "pem: " + v.key
	}
	for name, script := range map[string]string{"check": checkScript, "reload": reloadScript, "fault": ""} {
		require.NoError(t, os.WriteFile(filepath.Join(dir, name), []byte(script), 0o700))
	}
	path, err := exec.LookPath("hang-up-server")
	require.NoError(t, err)
	v.cmd = exec.Command(path, v.key, v.cert, filepath.Join(dir, "server"))
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, v.cmd.Start())
	t.Cleanup(v.stop)
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(dir, "server"))
		if words := strings.Fields(string(text)); err == nil && len(words) == 2 {
			v.address = words[1]
		}
		return v.address != ""
	}, time.Minute, time.Millisecond)
	text := strings.Replace(s.config(), "key_type: ec256", "key_type: ec256, targets: [maas, front]", 1)
	text = strings.Replace(text, "targets:\n", fmt.Sprintf("targets:\n  front: {type: %s, %s, check: [%s/check, %s], reload: [%[3]s/reload], timeout: 1s, verify_timeout: 1s, endpoints: [%[5]q]}\n",
		kind, files, dir, v.cert, v.address), 1)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o644))
	return v
}

// startAgain starts it at another address.
func (v *tlsService) startAgain(t *testing.T) {
	t.Helper()
	v.stop()
	before := v.address
	require.NoError(t, os.Remove(v.dir+"/server"))
	v.cmd = exec.Command(v.cmd.Path, v.cmd.Args[1:]...)
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	require.NoError(t, v.cmd.Start())
	require.Eventually(t, func() bool {
		text, err := os.ReadFile(filepath.Join(v.dir, "server"))
		if words := strings.Fields(string(text)); err == nil && len(words) == 2 {
			v.address = words[1]
		}
		return v.address != before
	}, time.Minute, time.Millisecond)
}

func (v *tlsService) stop() {
	_ = v.cmd.Process.Kill()
	_ = v.cmd.Wait()
}

// serves is the fingerprint of what it serves; empty for nothing.
func (v *tlsService) serves() string {
	conn, err := tls.DialWithDialer(&net.Dialer{Timeout: 5 * time.Second}, "tcp", v.address, &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		return ""
	}
	defer conn.Close()
	return certstore.Fingerprint(conn.ConnectionState().PeerCertificates[0])
}

func (v *tlsService) files(t *testing.T) string {
	t.Helper()
	var all strings.Builder
	entries, err := os.ReadDir(v.dir)
	require.NoError(t, err)
	for _, entry := range entries {
		if strings.Contains(entry.Name(), ".pem") {
			text, err := os.ReadFile(filepath.Join(v.dir, entry.Name()))
			require.NoError(t, err)
			info, err := entry.Info()
			require.NoError(t, err)
			fmt.Fprintln(&all, entry.Name(), info.Mode(), string(text))
		}
	}
	return all.String()
}

// serviceFaults are what can go wrong at a service, and what is said of it.
var serviceFaults = []struct {
	name  string
	fsys  func(v *tlsService) world.FS // nil: the real one
	begin func(t *testing.T, s *site, v *tlsService)
	words string
	end   func(t *testing.T, s *site, v *tlsService)
	down  bool // nothing is served
}{
	{name: "check fails", words: "guard: front: before anything was changed: .*line 7: unknown keyword .exit 1.*hint: run it by hand"},
	{name: "check fails with the new one", words: "deploy: front: the configuration test: .*cannot load it .exit 1"},
	{name: "check hangs", words: "guard: front: .*timed out after 1s.*hint: run it by hand as root: it has to end by itself within 1s"},
	{name: "reload fails", words: "deploy: front: the reload: .*Permission denied .exit 3.*hint: .*restorecon -v"},
	{name: "reload hangs", words: "deploy: front: the reload: .*timed out after 1s"},
	{name: "reload prints megabytes", words: "deploy: front: the reload: .*printed more than"},
	{
		name: "binary missing",
		begin: func(t *testing.T, _ *site, v *tlsService) {
			require.NoError(t, os.Rename(v.dir+"/reload", v.dir+"/away"))
		},
		words: `guard: front: reload: ".*/reload" is not here.*hint: install it, or set targets.front.reload`,
		end: func(t *testing.T, _ *site, v *tlsService) {
			require.NoError(t, os.Rename(v.dir+"/away", v.dir+"/reload"))
		},
	},
	{
		name:  "folder read-only",
		fsys:  func(v *tlsService) world.FS { return brokenFS("Writable", v.dir, syscall.EROFS) },
		words: "guard: front: the files cannot be written: .*read-only file system.*hint: .*ReadWritePaths=",
	},
	{
		name:  "disk full",
		fsys:  func(v *tlsService) world.FS { return brokenFS("CreateFor", v.dir, syscall.ENOSPC) },
		words: "deploy: front: .*no space left on device.*hint: free some space",
	},
	{
		name:  "file of somebody else's",
		fsys:  func(v *tlsService) world.FS { return othersFS{path: v.key} },
		words: "guard: front: .*pem belongs to user 4242.*hint: chown root",
	},
	{
		name: "a link in the place of a file",
		begin: func(t *testing.T, _ *site, v *tlsService) {
			require.NoError(t, os.Rename(v.key, v.dir+"/elsewhere.pem"))
			require.NoError(t, os.Symlink(v.dir+"/elsewhere.pem", v.key))
		},
		words: "guard: front: .*pem is a link.*hint: name the file",
		end: func(t *testing.T, _ *site, v *tlsService) {
			require.NoError(t, os.Rename(v.dir+"/elsewhere.pem", v.key))
		},
	},
	{
		name:  "service down",
		begin: func(_ *testing.T, _ *site, v *tlsService) { v.stop() },
		words: "deploy: front: the reload: .*exit 1",
		end:   func(t *testing.T, _ *site, v *tlsService) { v.startAgain(t) },
		down:  true,
	},
	{
		name:  "reload ends the service", // and may seem to work once more, while nobody has noticed that end
		words: "(verify: front: no endpoint took the certificate .*serves no certificate|deploy: front: the reload: .*exit 1)",
		end:   func(t *testing.T, _ *site, v *tlsService) { v.startAgain(t) },
		down:  true,
	},
	{
		name: "serves another file",
		begin: func(t *testing.T, _ *site, v *tlsService) {
			text, err := os.ReadFile(v.dir + "/reload")
			require.NoError(t, err)
			require.NoError(t, os.WriteFile(v.dir+"/reload", []byte("#!/bin/sh\n"), 0o700))
			require.NoError(t, os.WriteFile(v.dir+"/away", text, 0o700))
		},
		words: "verify: front: .*still serves version 1",
		end: func(t *testing.T, _ *site, v *tlsService) {
			require.NoError(t, os.Rename(v.dir+"/away", v.dir+"/reload"))
		},
	},
}

// brokenFS is a file system of which one operation fails below a folder.
func brokenFS(op, dir string, err error) world.FS {
	return worldtest.FS{FS: world.OS{}, Fail: func(called, name string) error {
		if called == op && strings.HasPrefix(name, dir) {
			return &fs.PathError{Op: op, Path: name, Err: err}
		}
		return nil
	}}
}

// othersFS is a file system in which a file belongs to somebody else.
type othersFS struct {
	world.OS
	path string
}

func (o othersFS) Lstat(name string) (fs.FileInfo, error) {
	info, err := o.OS.Lstat(name)
	if err != nil || name != o.path {
		return info, err
	}
	return othersFile{info}, nil
}

type othersFile struct{ fs.FileInfo }

func (othersFile) Sys() any { return &syscall.Stat_t{Uid: 4242} }

// Whatever goes wrong at a service, of whatever kind: its old files are there again, it serves what it served, MAAS is renewed all
// the same, what is wrong is said with the target's name, and once it is mended the next run brings what is there without an order.
func TestWhatCanGoWrongAtAService(t *testing.T) {
	t.Parallel()
	var walked atomic.Int32
	t.Run("all", func(t *testing.T) {
		for _, kind := range []string{"haproxy", "nginx", "apache", "files"} {
			for _, fault := range serviceFaults {
				t.Run(kind+": "+fault.name, func(t *testing.T) {
					t.Parallel()
					s := startSite(t)
					v := startService(t, s, kind)
					code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
					require.Zero(t, code, stderr)
					before, first := v.files(t), v.serves()
					text, err := os.ReadFile(v.cert)
					require.NoError(t, err)
					require.NoError(t, os.WriteFile(v.dir+"/first", text, 0o600))
					require.NoError(t, os.WriteFile(v.dir+"/fault", []byte(fault.name), 0o600))
					if fault.begin != nil {
						fault.begin(t, s, v)
						before = v.files(t)
					}
					var fsys world.FS = world.OS{}
					if fault.fsys != nil {
						fsys = fault.fsys(v)
					}

					code, _, stderr = inSite(t, s, fsys, "renew", "--force")
					require.Equal(t, exitAttention, code, stderr)
					require.Regexp(t, "(?s)^maascert: maas: "+fault.words, stderr)
					require.Equal(t, 2, strings.Count(stderr, "\n"), "one error and one hint: "+stderr)
					require.Equal(t, before, v.files(t), "the old files are there, and nothing beside them")
					if !fault.down {
						require.Equal(t, first, v.serves())
					}
					second := certstore.Fingerprint(s.maas.Regions[2].Serves(5443))
					require.NotEqual(t, first, second, "MAAS is renewed")

					require.NoError(t, os.WriteFile(v.dir+"/fault", nil, 0o600))
					old := v.address
					if fault.end != nil {
						fault.end(t, s, v)
					}
					moveService(t, s, old, v.address)
					code, _, stderr = inSite(t, s, world.OS{}, "renew")
					require.Zero(t, code, stderr)
					require.Equal(t, second, v.serves())
					require.Equal(t, 2, s.ca.Orders(), "nothing is ordered for what is there already")
					require.NotContains(t, v.files(t), "maascert-")
					walked.Add(1)
				})
			}
		}
	})
	t.Logf("%d faults at 4 kinds of services", walked.Load())
	require.EqualValues(t, 4*len(serviceFaults), walked.Load())
}

// moveService follows a service that came back at another address.
func moveService(t *testing.T, s *site, old, now string) {
	t.Helper()
	path := filepath.Join(s.dir, "maascert.yaml")
	config, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(strings.ReplaceAll(string(config), strconv.Quote(old), strconv.Quote(now))), 0o644))
}

// A proxy that cannot start without a certificate gets its files first, and is verified when it was started.
func TestAServiceThatCannotStartWithoutItsFiles(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	v := startService(t, s, "nginx")
	v.stop()
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Equal(t, exitAttention, code)
	require.Regexp(t, "(?s)deploy: front: the reload: .*hint: the files are there; start the service", stderr)
	old := v.address
	v.startAgain(t)
	moveService(t, s, old, v.address)
	code, _, stderr = inSite(t, s, world.OS{}, "renew")
	require.Zero(t, code, stderr)
	require.Equal(t, certstore.Fingerprint(s.maas.Regions[0].Serves(5443)), v.serves())
	require.Equal(t, 1, s.ca.Orders())
}

// A run that is killed at any moment of a swap leaves files that the next run makes whole, without an order.
func TestASwapThatIsKilledIsHealedByTheNextRun(t *testing.T) {
	t.Parallel()
	for n := 1; n <= 8; n++ {
		t.Run(strconv.Itoa(n), func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			v := startService(t, s, "nginx")
			code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
			require.Zero(t, code, stderr)
			count := 0
			killed := worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
				if !strings.HasPrefix(name, v.dir+"/.") || op == "ReadFile" {
					return nil
				}
				if count++; count >= n {
					return errors.New("killed")
				}
				return nil
			}}
			code, _, _ = inSite(t, s, killed, "renew", "--force")
			require.Equal(t, exitAttention, code)
			require.GreaterOrEqual(t, count, n)
			code, _, stderr = inSite(t, s, world.OS{}, "renew")
			require.Zero(t, code, stderr)
			require.Equal(t, certstore.Fingerprint(s.maas.Regions[0].Serves(5443)), v.serves())
			_, err := tls.LoadX509KeyPair(v.cert, v.key)
			require.NoError(t, err, "key and certificate fit")
			require.Equal(t, 2, s.ca.Orders())
			require.NotContains(t, v.files(t), "maascert-")
		})
	}
}
