package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
	"maascert/maasconfig/maastest"
)

// site starts a site for a Go test.
func startSite(t *testing.T) *site {
	t.Helper()
	s, err := newSite(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(s.stop)
	return s
}

// program is the real program as a process of its own.
func program(ctx context.Context, t *testing.T, s *site, args ...string) *exec.Cmd {
	t.Helper()
	path, err := exec.LookPath("maascert") // testscript puts it there
	require.NoError(t, err)
	ctx, cancel := context.WithTimeout(ctx, runTime)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, append([]string{"--config", filepath.Join(s.dir, "maascert.yaml")}, args...)...)
	cmd.WaitDelay = 5 * time.Second
	return cmd
}

// runTime is more than any run in a test takes, and less than the time after which a test is given up with all others.
const runTime = 2 * time.Minute

// checkConverged checks that a site is as it should be after whatever happened to it.
func checkConverged(t *testing.T, s *site, orders int) {
	t.Helper()
	store := certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
	record, _, err := certstore.LoadRecord(t.Context(), store, "maas")
	require.NoError(t, err)
	require.Nil(t, record.Order, "no order and no key of one is left")
	require.Nil(t, record.Attempt)
	version, err := certstore.LoadVersion(t.Context(), store, "maas", record.Current)
	require.NoError(t, err)
	for _, region := range s.maas.Regions {
		served := region.Serves(5443)
		require.NotNil(t, served)
		require.Equal(t, version.Bundle.Fingerprint(), certstore.Fingerprint(served))
	}
	require.LessOrEqual(t, s.ca.Orders(), orders)
	entries, err := os.ReadDir(filepath.Join(s.dir, "stage"))
	require.NoError(t, err)
	require.Empty(t, entries, "no stage is left")
	leftovers, err := filepath.Glob(filepath.Join(s.dir, "state", "store", "*", ".*"))
	require.NoError(t, err)
	deeper, err := filepath.Glob(filepath.Join(s.dir, "state", "store", "*", "*", ".*"))
	require.NoError(t, err)
	for _, path := range append(leftovers, deeper...) {
		require.Contains(t, []string{".writers", ".holders"}, filepath.Base(path), "no half-written file is left")
	}
}

// SIGKILL at every request to the CA, before it is handled and after it, and at moments of the deployment: the next run
// converges with one extra order at the most.
func killedAnywhere(t *testing.T) {
	whole := startSite(t)
	require.NoError(t, program(t.Context(), t, whole, "renew", "--enable-tls").Run())
	requests := len(whole.ca.Requests())
	// Of one order, the slower the CA the more looks at what it does; each page is asked for at least once, but for the order itself when
	// it is ready at once.
	pages := map[string]bool{}
	for _, request := range whole.ca.Requests() {
		pages[request.Path] = true
	}
	least := len(pages) - 1
	require.Greater(t, least, 8)
	for n := 1; n <= requests; n++ {
		for _, handled := range []bool{false, true} {
			t.Run(fmt.Sprintf("request %d, handled %v", n, handled), func(t *testing.T) {
				t.Parallel()
				s := startSite(t)
				cmd := program(t.Context(), t, s, "renew", "--enable-tls")
				var count atomic.Int32
				reached, dead := make(chan struct{}), make(chan struct{})
				s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					now := count.Add(1) == int32(n)
					if now && handled {
						next.ServeHTTP(w, r)
					}
					if now {
						close(reached)
						<-dead
						panic(http.ErrAbortHandler)
					}
					next.ServeHTTP(w, r)
				})
				require.NoError(t, cmd.Start())
				ended := make(chan struct{})
				go func() {
					defer close(ended)
					_ = cmd.Wait()
				}()
				select {
				case <-reached:
				case <-ended: // it needed fewer looks than the first
					require.True(t, cmd.ProcessState.Success())
					require.GreaterOrEqual(t, int(count.Load()), least)
				}
				_ = cmd.Process.Kill()
				<-ended
				close(dead)
				s.ca.Intercept(nil)
				runAgain(t, s)
				checkConverged(t, s, 2)
			})
		}
	}
}

func runAgain(t *testing.T, s *site) {
	t.Helper()
	var out bytes.Buffer
	again := program(t.Context(), t, s, "renew", "--enable-tls")
	again.Stdout, again.Stderr = &out, &out
	require.NoError(t, again.Run(), out.String())
}

func TestKilledWhileMAASIsToldTheNextRunConverges(t *testing.T) {
	t.Parallel()
	for name, when := range map[string]func(s *site) bool{
		"while config-tls runs":          func(s *site) bool { return len(s.maas.Calls()) > 0 },
		"as soon as MAAS stored it":      func(s *site) bool { return s.maas.Stored() != nil },
		"as soon as a region takes over": func(s *site) bool { return s.maas.Regions[0].Serves(5443) != nil },
		"as soon as there is a stage":    func(s *site) bool { return exists(filepath.Join(s.dir, "stage", "*")) },
		"as soon as a key is staged":     func(s *site) bool { return exists(filepath.Join(s.dir, "stage", "*", "*")) },
		"as soon as a version is saved":  func(s *site) bool { return exists(filepath.Join(s.dir, "state", "store", "versions", "maas", "1")) },
		"as soon as a record is written": func(s *site) bool { return exists(filepath.Join(s.dir, "state", "store", "state", "maas")) },
		"as soon as there is an account": func(s *site) bool { return exists(filepath.Join(s.dir, "state", "store", "account")) },
		"as soon as it is made public":   func(s *site) bool { return exists(filepath.Join(s.dir, "state", "public", "maas.pem")) },
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			if strings.Contains(name, "runs") {
				s.maas.Hang(true)
			}
			cmd := program(t.Context(), t, s, "renew", "--enable-tls")
			require.NoError(t, cmd.Start())
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_ = cmd.Wait()
			}()
			for !when(s) {
				select {
				case <-ended:
					t.Fatal("it ended before the moment came")
				case <-time.After(100 * time.Microsecond):
				}
			}
			// It may have ended already.
			_ = cmd.Process.Kill()
			<-ended
			s.maas.Hang(false)
			runAgain(t, s)
			checkConverged(t, s, 2)
		})
	}
}

func exists(pattern string) bool {
	found, err := filepath.Glob(pattern)
	return err == nil && len(found) > 0
}

// SIGTERM: exit 130 within a second, the children ended, the stage wiped.
func interrupted(t *testing.T) {
	for name, row := range map[string]struct {
		prepare func(*site)
		when    func(*site) bool
		args    []string
	}{
		"while MAAS hangs": {
			func(s *site) { s.maas.Hang(true) }, func(s *site) bool { return len(s.maas.Calls()) > 0 }, []string{"renew", "--enable-tls"},
		},
		"while the CA validates": {
			func(s *site) {
				s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
					if strings.Contains(r.URL.Path, acmetest.Challenge) {
						<-r.Context().Done()
						return
					}
					next.ServeHTTP(w, r)
				})
			}, func(s *site) bool {
				return s.ca.Count(acmetest.Challenge) >= 2 // of both names: one on its way would be answered later, when nobody is here to be validated
			}, []string{"renew", "--enable-tls"},
		},
		"while regions are waited for": {
			func(s *site) { s.maas.Regions[1].Break(maastest.Fault{Slow: time.Hour}) },
			func(s *site) bool { return s.maas.Regions[0].Serves(5443) != nil }, []string{"renew", "--enable-tls"},
		},
		"while the daemon sleeps": {
			func(*site) {}, func(s *site) bool {
				return s.ca.Count("/dir") > 0 || exists(filepath.Join(s.dir, "state", "store", "state", "maas"))
			}, []string{"run"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			row.prepare(s)
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			cmd := program(ctx, t, s, row.args...)
			var stderr bytes.Buffer
			cmd.Stderr = &stderr
			require.NoError(t, cmd.Start())
			for !row.when(s) && ctx.Err() == nil {
				time.Sleep(time.Millisecond)
			}
			begun := time.Now()
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			err := cmd.Wait()
			require.Less(t, time.Since(begun), worldtest.AtOnce, stderr.String())
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit, "%v", err)
			require.Equal(t, exitInterrupted, exit.ExitCode(), stderr.String())
			entries, err := os.ReadDir(filepath.Join(s.dir, "stage"))
			if !os.IsNotExist(err) {
				require.NoError(t, err)
			}
			require.Empty(t, entries)
			if row.args[0] == "run" {
				return
			}
			s.maas.Hang(false)
			s.ca.Intercept(nil)
			s.maas.Regions[1].Break(maastest.Fault{})
			require.NoError(t, s.maas.Regions[1].Restart())
			runAgain(t, s)
			checkConverged(t, s, 1)
		})
	}
}

// A disk that fills up at any write, for good: one line and a hint, the old certificate is still served, and once there
// is room the next run converges without a third order.
func aDiskThatFillsUp(t *testing.T) {
	var mu sync.Mutex
	writes := 0
	count := worldtest.FS{FS: world.OS{}, Fail: func(op, _ string) error {
		mu.Lock()
		defer mu.Unlock()
		if op == "Replace" || op == "Create" {
			writes++
		}
		return nil
	}}
	whole := startSite(t)
	code, _, stderr := inSite(t, whole, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	code, _, stderr = inSite(t, whole, count, "renew", "--force")
	require.Zero(t, code, stderr)
	require.Greater(t, writes, 8)
	for n := 1; n <= writes; n++ {
		t.Run(fmt.Sprintf("at write %d", n), func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
			require.Zero(t, code, stderr)
			before := s.maas.Regions[0].Serves(5443)

			var mu sync.Mutex
			seen, failed := 0, ""
			full := worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
				mu.Lock()
				defer mu.Unlock()
				if op != "Replace" && op != "Create" {
					return nil
				}
				if seen++; seen < n {
					return nil
				}
				failed = name
				return fmt.Errorf("write %s: %w", name, syscall.ENOSPC)
			}}
			code, _, stderr = inSite(t, s, full, "renew", "--force")
			require.NotEmpty(t, failed)
			require.Contains(t, stderr, "no space left on device")
			told := strings.Count(stderr, "maascert: ") - strings.Count(stderr, "maascert: warning: ")
			if told == 0 { // the pass was over
				require.Zero(t, code, stderr)
				checkConverged(t, s, 2)
				return
			}
			require.Equal(t, exitAttention, code, stderr)
			require.LessOrEqual(t, told, 2, "the certificate's trouble, and that of its target: %s", stderr)
			if len(s.maas.Calls()) == 1 {
				require.Equal(t, before, s.maas.Regions[0].Serves(5443), "the old certificate is still served")
			}
			code, _, stderr = inSite(t, s, world.OS{}, "renew")
			if code == exitNotNow {
				code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force")
			}
			require.Zero(t, code, stderr)
			checkConverged(t, s, 3)
		})
	}
}

// A full disk that can be seen beforehand costs no order.
func TestADiskThatIsFullIsSeenBeforehand(t *testing.T) {
	t.Parallel()
	for _, dir := range []string{"store", "stage"} {
		s := startSite(t)
		full := worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
			if op == "Writable" && filepath.Base(name) == dir {
				return fmt.Errorf("write %s: %w", name, syscall.ENOSPC)
			}
			return nil
		}}
		code, _, stderr := inSite(t, s, full, "renew", "--enable-tls")
		require.Equal(t, exitAttention, code)
		require.Contains(t, stderr, "guard: ")
		require.Contains(t, stderr, "no space left on device")
		require.Contains(t, stderr, "\nhint: ")
		require.Zero(t, s.ca.Orders())
	}
}

// Nothing to do: no lock, nothing asked of the CA while what it said last of when to renew counts, and no writes but what this
// host says of its pass. When the CA may be asked again it is, for its directory and the renewal information, and the answer is
// written down.
func TestNothingToDoTouchesNothing(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	before, err := s.snapshot()
	require.NoError(t, err)
	asked := len(s.ca.Requests())
	strict := worldtest.FS{FS: world.OS{}, Fail: func(op, name string) error {
		said := strings.HasSuffix(name, "/nodes/region1") || strings.HasSuffix(name, "/public/status.json")
		if op != "ReadFile" && op != "Writable" && op != "MkdirAll" && (op != "Replace" || !said) {
			t.Errorf("%s %s", op, name)
		}
		return nil
	}}
	code, stdout, stderr := inSite(t, s, noLock{strict, t}, "renew")
	require.Zero(t, code, stderr)
	require.Contains(t, stdout, "nothing to do")
	after, err := s.snapshot()
	require.NoError(t, err)
	require.Equal(t, withoutLastPass(before), withoutLastPass(after))
	require.Len(t, s.ca.Requests(), asked)

	s.letAskAgain(t)
	for range 2 {
		code, stdout, stderr = inSite(t, s, noLock{worldtest.FS{FS: world.OS{}, Fail: func(string, string) error { return nil }}, t}, "renew")
		require.Zero(t, code, stderr)
		require.Contains(t, stdout, "nothing to do")
	}
	require.Len(t, s.ca.Requests(), asked+2)
	for _, request := range s.ca.Requests()[asked:] {
		require.Equal(t, http.MethodGet, request.Method)
		require.True(t, request.Path == "/dir" || strings.HasPrefix(request.Path, acmetest.RenewalInfo), request.Path)
	}
}

// withoutLastPass is a snapshot without what a host says of its last pass.
func withoutLastPass(snapshot string) []string {
	return slices.DeleteFunc(strings.Split(snapshot, "\n"), func(line string) bool {
		return strings.Contains(line, "/public ") || strings.Contains(line, "/public/status.json ") || strings.Contains(line, "/store/nodes")
	})
}

// noLock allows no lock but the one that a write takes for its moment.
type noLock struct {
	worldtest.FS
	t *testing.T
}

func (n noLock) TryLock(name string) (func() error, error) {
	if filepath.Base(name) != ".writers" {
		n.t.Errorf("locked %s", name)
	}
	return n.FS.TryLock(name)
}

// The modes of files and folders are a promise, whatever the umask.
func TestFileModes(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	cmd := program(t.Context(), t, s, "renew", "--enable-tls")
	shell := exec.CommandContext(t.Context(), "/bin/sh", append([]string{"-c", `umask 077; exec "$0" "$@"`}, cmd.Args...)...)
	shell.Args[3] = cmd.Path
	out, err := shell.CombinedOutput()
	require.NoError(t, err, string(out))
	for name, mode := range map[string]os.FileMode{
		"state": 0o711, "state/store": 0o700, "state/store/account": 0o600, "state/store/state": 0o700, "state/store/state/maas": 0o600,
		"state/store/versions/maas": 0o700, "state/store/versions/maas/1": 0o600, "state/public": 0o755, "state/public/maas.pem": 0o644, "stage": 0o700,
	} {
		info, err := os.Stat(filepath.Join(s.dir, name))
		require.NoError(t, err)
		require.Equal(t, mode, info.Mode().Perm(), name)
	}
}

// M1: SIGTERM at every fiftieth of a pass that lasts: what is printed is never more than what was seen. A region that is
// said to serve a certificate serves it; one that is said to serve another does; what nobody looked at is unknown.
func TestM1AnInterruptedPassTellsNoLie(t *testing.T) {
	t.Parallel()
	// INTERRUPTED_RUNS=200 runs each moment twice with words and twice as JSON.
	const moments = 50
	runs, err := strconv.Atoi(os.Getenv("INTERRUPTED_RUNS"))
	if err != nil {
		runs = 20
	}
	length := passLength(t)
	for n := range runs {
		asJSON := n%2 == 0
		at := length * time.Duration(n/2*max(1, 2*moments/runs)%moments) / moments
		t.Run(fmt.Sprintf("%d, after %v, JSON %v", n, at.Round(time.Millisecond), asJSON), func(t *testing.T) {
			t.Parallel()
			interruptedPass(t, at, asJSON)
		})
	}
}

// slowly makes a deployment's regions take their time, each another one.
func slowly(s *site) {
	for i, region := range s.maas.Regions {
		region.Break(maastest.Fault{Slow: time.Duration(i) * 200 * time.Millisecond})
	}
}

func passLength(t *testing.T) time.Duration {
	t.Helper()
	s := startSite(t)
	require.NoError(t, program(t.Context(), t, s, "renew", "--enable-tls").Run())
	slowly(s)
	begun := time.Now()
	require.NoError(t, program(t.Context(), t, s, "renew", "--force").Run())
	return time.Since(begun) * 11 / 10
}

func interruptedPass(t *testing.T, at time.Duration, asJSON bool) {
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	slowly(s)
	args := []string{"renew", "--force"}
	if asJSON {
		args = append(args, "--json")
	}
	cmd := program(t.Context(), t, s, args...)
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	require.NoError(t, cmd.Start())
	// This is the moment that the test is about.
	time.Sleep(at)
	// It may have ended already.
	_ = cmd.Process.Signal(syscall.SIGTERM)
	_ = cmd.Wait()
	for i, e := range saidOf(t, s, out.String(), asJSON) {
		served := ""
		if leaf := s.maas.Regions[i].Serves(5443); leaf != nil {
			served = certstore.Fingerprint(leaf)
		}
		switch e.State {
		case "match":
			require.Equal(t, e.Fingerprint, served, "%s\n%s", out.String(), errs.String())
			require.Equal(t, e.current, served, "%s\n%s", out.String(), errs.String())
		case "other":
			require.NotEqual(t, e.current, served, "%s\n%s", out.String(), errs.String())
		default:
			require.Equal(t, "unknown", e.State, "%s\n%s", out.String(), errs.String())
		}
	}
	if strings.Contains(out.String(), "told maas of version 2") {
		require.NotNil(t, s.maas.Stored())
		require.Len(t, s.maas.Calls(), 2, "%s\n%s", out.String(), errs.String())
	}
}

// said is what a pass said of a region.
type said struct {
	State, Fingerprint string
	current            string // fingerprint of the version that the pass names
}

// saidOf are the words or the document of a pass, by region; a region of which nothing was said is unknown.
func saidOf(t *testing.T, s *site, text string, asJSON bool) []said {
	t.Helper()
	all := make([]said, len(s.maas.Regions))
	store := certstore.NewFileStore(world.OS{}, filepath.Join(s.dir, "state", "store"))
	fingerprint := func(version int) string {
		v, err := certstore.LoadVersion(t.Context(), store, "maas", version)
		require.NoError(t, err)
		return v.Bundle.Fingerprint()
	}
	current := fingerprint(1)
	if strings.Contains(text, "version 2") {
		current = fingerprint(2)
	}
	var doc report.Renewal
	if asJSON && text != "" {
		require.NoError(t, json.Unmarshal([]byte(text), &doc))
		require.Len(t, doc.Certificates, 1)
		current = doc.Certificates[0].Fingerprint
		require.Equal(t, fingerprint(doc.Certificates[0].Version), current)
	}
	for i, region := range s.maas.Regions {
		address := region.Address.String() + ":5443"
		all[i] = said{State: "unknown", current: current}
		for _, e := range append([]report.Renewed{{}}, doc.Certificates...)[len(doc.Certificates)].Endpoints {
			if e.Address == address {
				all[i].State, all[i].Fingerprint = e.State, e.Fingerprint
			}
		}
		switch {
		case asJSON:
		case strings.Contains(text, address+" serves it"):
			all[i].State, all[i].Fingerprint = "match", current
		case strings.Contains(text, address+" serves another"), strings.Contains(text, address+" still serves version"):
			all[i].State = "other"
		case strings.Contains(text, address+" serves no"):
			all[i].State = "none"
		}
	}
	return all
}
