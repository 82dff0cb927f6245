package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/internal/world/worldtest"
)

// R5: whoever reads the daemon's log may go away; the daemon stays.
func TestR5TheDaemonOutlivesTheReaderOfItsLog(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	cmd := program(t.Context(), t, s, "run")
	read, write, err := os.Pipe()
	require.NoError(t, err)
	cmd.Stderr = write
	require.NoError(t, cmd.Start())
	require.NoError(t, write.Close())
	require.NoError(t, read.Close())
	// Each reload makes it write to a pipe that nobody reads.
	for n := range 5 {
		require.Eventually(t, func() bool { return exists(filepath.Join(s.dir, "state", "public", "status.json")) }, 20*time.Second, 5*time.Millisecond)
		require.NoError(t, os.Remove(filepath.Join(s.dir, "state", "public", "status.json")), n)
		require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	}
	require.Eventually(t, func() bool { return exists(filepath.Join(s.dir, "state", "public", "status.json")) }, 20*time.Second, 5*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
}

// R5: a reader that goes away, as head does, is no mistake in usage.
func TestR5AReaderThatGoesAwayIsNoMistake(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	require.NoError(t, program(t.Context(), t, s, "renew", "--enable-tls").Run())
	for _, args := range [][]string{{"status"}, {"status", "--json"}, {"verify"}, {"renew"}} {
		read, write, err := os.Pipe()
		require.NoError(t, err)
		require.NoError(t, read.Close())
		cmd := program(t.Context(), t, s, args...)
		cmd.Stdout = write
		out := new(bytes.Buffer)
		cmd.Stderr = out
		require.NoError(t, cmd.Run(), "%v: %s", args, out)
		require.NoError(t, write.Close())
	}
}

// R10: a hang-up, as of an ssh that is dropped, ends a one-shot command as SIGTERM does: no key is left in the stage.
func TestR10AHangUpLeavesNothingInTheStage(t *testing.T) { // alone, because it measures
	// Under nohup the tests ignore the signal, and their children would inherit that; one that is handled they do not inherit.
	hangUps := make(chan os.Signal, 1)
	signal.Notify(hangUps, syscall.SIGHUP)
	defer signal.Stop(hangUps)
	s := startSite(t)
	s.maas.Hang(true)
	cmd := program(t.Context(), t, s, "renew", "--enable-tls")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(s.maas.Calls()) > 0 }, 20*time.Second, time.Millisecond)
	begun := time.Now()
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	require.Less(t, time.Since(begun), worldtest.AtOnce)
	require.False(t, exists(filepath.Join(s.dir, "stage", "*")))
}

// M12: an ordinary stop of the daemon, in the middle of an order with many names or of a call of maas, takes a second at the
// most and is told as no error.
func TestM12AnOrdinaryStopIsQuickAndNoError(t *testing.T) { // alone, because it measures
	for _, path := range []string{acmetest.NewOrder, acmetest.Authz, acmetest.Challenge, acmetest.Finalize, "maas"} {
		t.Run(path, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			require.NoError(t, program(t.Context(), t, s, "renew", "--enable-tls").Run())
			names := "maas.example.internal, region1.example.internal"
			for n := range 50 {
				names += fmt.Sprintf(", name%d.example.internal", n)
			}
			text := strings.Replace(s.config(), "maas.example.internal, region1.example.internal", names, 1)
			require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o644))
			reached := make(chan struct{}, 1000)
			s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
				if strings.Contains(r.URL.Path, path) {
					reached <- struct{}{}
					<-r.Context().Done()
					return
				}
				next.ServeHTTP(w, r)
			})
			s.maas.Hang(true)
			cmd := program(t.Context(), t, s, "run")
			var log bytes.Buffer
			cmd.Stderr = &log
			require.NoError(t, cmd.Start())
			isThere := func() bool { return len(reached) > 0 || path == "maas" && len(s.maas.Calls()) > 1 }
			require.Eventually(t, isThere, 20*time.Second, time.Millisecond, "%s", &log)
			begun := time.Now()
			require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
			require.Error(t, cmd.Wait())
			require.Less(t, time.Since(begun), worldtest.AtOnce)
			require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
			require.NotContains(t, log.String(), "ERROR")
			require.False(t, exists(filepath.Join(s.dir, "stage", "*")))
		})
	}
}

// R12: whoever stopped while he held the store's moment keeps nobody from ending at once.
func TestR12AStoppedWriterDoesNotHoldUpAnEnd(t *testing.T) { // alone, because it measures
	s := startSite(t)
	require.NoError(t, program(t.Context(), t, s, "renew", "--enable-tls").Run())
	s.maas.Hang(true)
	cmd := program(t.Context(), t, s, "renew", "--force")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return len(s.maas.Calls()) > 1 }, 20*time.Second, time.Millisecond)
	unlock, err := world.OS{}.TryLock(filepath.Join(s.dir, "state", "store", "lock", ".writers"))
	require.NoError(t, err)
	begun := time.Now()
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
	require.Equal(t, exitInterrupted, cmd.ProcessState.ExitCode())
	require.Less(t, time.Since(begun), worldtest.AtOnce)
	require.NoError(t, unlock())
}

// R12: three runs that were killed hold an order back, but not one that a person forces.
func TestR12ForceWorksAfterThreeKills(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	for range 3 {
		cmd := program(t.Context(), t, s, "renew", "--enable-tls")
		reached := make(chan struct{}, 100)
		s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
			if strings.Contains(r.URL.Path, acmetest.NewOrder) {
				reached <- struct{}{}
				<-r.Context().Done()
				return
			}
			next.ServeHTTP(w, r)
		})
		require.NoError(t, cmd.Start())
		ended := make(chan error, 1)
		go func() { ended <- cmd.Wait() }()
		select {
		case <-reached:
		case err := <-ended:
			require.FailNow(t, "it ended before it ordered", err)
		}
		require.NoError(t, cmd.Process.Kill())
		require.Error(t, <-ended)
	}
	s.ca.Intercept(nil)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--force", "--enable-tls")
	require.Zero(t, code, stderr)
}

// R12: an account that is damaged is seen by status long before it is needed, and moving it away heals it.
func TestR12ADamagedAccountIsSeen(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	path := filepath.Join(s.dir, "state", "store", "account")
	for _, text := range []string{"", "{", `{"v":1,"key":"no key"}`, `{"v":99}`} {
		require.NoError(t, os.WriteFile(path, []byte(text), 0o600))
		code, stdout, _ := inSite(t, s, world.OS{}, "status")
		require.Equal(t, exitAttention, code, text)
		require.Contains(t, stdout, "maas: failed")
		require.Contains(t, stdout, "the ACME account cannot be used")
		code, _, stderr = inSite(t, s, world.OS{}, "renew")
		require.Equal(t, exitAttention, code, text)
		require.Contains(t, stderr, "the ACME account cannot be used")
	}
	require.NoError(t, os.Remove(path))
	code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force")
	require.Zero(t, code, stderr)
	checkConverged(t, s, 2)
}

// R7: a rollover that was cut off is told by status, and stops no renewal.
func TestR7ARolloverThatWasCutOffIsToldAndStopsNothing(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		next.ServeHTTP(w, r)
		if strings.Contains(r.URL.Path, "rollover-account-key") {
			panic(http.ErrAbortHandler)
		}
	})
	cmd := program(t.Context(), t, s, "account", "rollover")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return s.ca.Count("rollover-account-key") > 0 }, 20*time.Second, time.Millisecond)
	require.NoError(t, cmd.Process.Kill())
	_ = cmd.Wait()
	s.ca.Intercept(nil)
	code, stdout, _ := inSite(t, s, world.OS{}, "status")
	require.Zero(t, code, stdout)
	require.Contains(t, stdout, "account's key is being replaced", out.String())
	code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force")
	require.Zero(t, code, stderr)
	code, _, stderr = inSite(t, s, world.OS{}, "renew", "--dry-run")
	require.Zero(t, code, stderr)
	code, stdout, stderr = inSite(t, s, world.OS{}, "account", "rollover")
	require.Zero(t, code, stdout+stderr)
}

// S13: a password in a URL is refused and not repeated, neither in an error nor anywhere else.
func TestS13APasswordInAURLIsRefusedAndNotRepeated(t *testing.T) {
	t.Parallel()
	for _, change := range [][]string{
		{"directory: https://", "directory: https://user:hunter2@"},
		{"  accept_terms: true", "  dry_run: {directory: \"https://user:hunter2@ca.example/\"}"},
		{"challenge: {type: http-01, listen: ", "challenge: {type: dns-01, dns: {provider: httpreq, settings: {HTTPREQ_ENDPOINT: \"https://user:hunter2@dns.example/\"}}}\n  email: "},
	} {
		s := startSite(t)
		text := strings.Replace(s.config(), change[0], change[1], 1)
		text = strings.ReplaceAll(text, "\"}\ncertificates", "\"\ncertificates")
		require.Contains(t, text, "hunter2")
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o640))
		code, stdout, stderr := inSite(t, s, world.OS{}, "renew")
		require.Equal(t, exitUsage, code, stdout+stderr)
		require.NotContains(t, stdout+stderr, "hunter2")
	}
}

// H1: the daemon takes no orders from a file that others may write, and a person is told of one.
func TestH1TheDaemonTakesNothingThatOthersMayReplace(t *testing.T) {
	t.Parallel()
	for name, open := range map[string]func(t *testing.T, s *site){
		"the configuration": func(t *testing.T, s *site) {
			require.NoError(t, os.Chmod(filepath.Join(s.dir, "maascert.yaml"), 0o666))
		},
		"the configuration's folder": func(t *testing.T, s *site) { require.NoError(t, os.Chmod(s.dir, 0o777)) },
		"the store's folder": func(t *testing.T, s *site) {
			require.NoError(t, os.MkdirAll(filepath.Join(s.dir, "state"), 0o711))
			require.NoError(t, os.Chmod(filepath.Join(s.dir, "state"), 0o777))
		},
		"the maas command": func(t *testing.T, s *site) { require.NoError(t, os.Chmod(s.maas.Command, 0o777)) },
		"a root certificate": func(t *testing.T, s *site) {
			require.NoError(t, os.Chmod(filepath.Join(s.dir, "directory_root.pem"), 0o666))
		},
		"what a target runs": func(t *testing.T, s *site) {
			reload := filepath.Join(s.dir, "reload")
			require.NoError(t, os.WriteFile(reload, []byte("#!/bin/sh\n"), 0o700))
			require.NoError(t, os.Chmod(reload, 0o777))
			withService(t, s, "file: front.pem, reload: [./reload]")
		},
		"where a target's key goes": func(t *testing.T, s *site) {
			require.NoError(t, os.Mkdir(filepath.Join(s.dir, "front"), 0o700))
			require.NoError(t, os.Chmod(filepath.Join(s.dir, "front"), 0o777))
			withService(t, s, "file: front/front.pem, reload: [cp]")
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := startSite(t)
			open(t, s)
			out, err := program(t.Context(), t, s, "run").CombinedOutput()
			var exit *exec.ExitError
			require.ErrorAs(t, err, &exit)
			require.Equal(t, exitUsage, exit.ExitCode(), string(out))
			require.Contains(t, string(out), "is not safe: everybody may write")
			code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls", "--cert", "maas")
			require.Zero(t, code, "by hand it works: "+stderr)
		})
	}
}

// withService adds a certificate for a service, whose target has some keys.
func withService(t *testing.T, s *site, keys string) {
	t.Helper()
	text := strings.Replace(s.config(), "key_type: ec256}", "key_type: ec256}\n  - {name: front, names: [front.example.internal], targets: [front]}", 1)
	text = strings.Replace(text, "targets:\n", "targets:\n  front: {type: service, endpoints: [\"127.0.0.1:1\"], "+keys+"}\n", 1)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o644))
}

// A2: a pass over one certificate says nothing new of another one, and not that its old news is fresh.
func TestA2APassOverOneCertificateLeavesTheOtherAsItWas(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	text := strings.Replace(s.config(), "certificates:\n", "certificates:\n  - {name: other, names: [other.example.internal], targets: []}\n", 1)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o644))
	read := func() (doc report.Public) {
		text, err := os.ReadFile(filepath.Join(s.dir, "state", "public", "status.json"))
		require.NoError(t, err)
		require.NoError(t, json.Unmarshal(text, &doc))
		require.Len(t, doc.Certificates, 2)
		return doc
	}
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	before := read()
	s.ca.Intercept(func(w http.ResponseWriter, r *http.Request, next http.Handler) {
		http.Error(w, "no", http.StatusForbidden)
	})
	// The times of the document have seconds.
	require.Eventually(t, func() bool { return time.Now().UTC().Format(time.RFC3339) != before.At.UTC().Format(time.RFC3339) }, 2*time.Second, 10*time.Millisecond)
	code, _, stderr = inSite(t, s, world.OS{}, "renew", "--force", "--cert", "other")
	require.Equal(t, exitAttention, code, stderr)
	after := read()
	require.Equal(t, before.Certificates[0], after.Certificates[0], "maas")
	require.Equal(t, before.StaleAfter, after.StaleAfter)
	require.NotEqual(t, before.At, after.At)
	require.NotEqual(t, before.Certificates[1].At, after.Certificates[1].At)
	require.Equal(t, "obtain", after.Certificates[1].LastFailure.Stage)
}

// A2: after each pass public/status.json tells everybody on this host how it ended, and no more than that.
func TestA2ThePublicStatus(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	path := filepath.Join(s.dir, "state", "public", "status.json")
	info, err := os.Stat(path)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())
	read := func() report.Public {
		text, err := os.ReadFile(path)
		require.NoError(t, err)
		var doc report.Public
		require.NoError(t, json.Unmarshal(text, &doc))
		return doc
	}
	doc := read()
	require.True(t, doc.NextPass.IsZero(), "nobody knows when the next pass is")
	require.Equal(t, "ok", doc.Certificates[0].State)
	require.FileExists(t, doc.Certificates[0].Roots)
	require.Len(t, doc.Certificates[0].Targets[0].Endpoints, 3)

	s.maas.Regions[1].StopProxy()
	s.maas.Reach(false)
	code, _, _ = inSite(t, s, world.OS{}, "renew", "--force")
	require.Equal(t, exitAttention, code)
	doc = read()
	require.Equal(t, "deploy", doc.Certificates[0].LastFailure.Stage)
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NotContains(t, string(text), "Connection refused")
	require.NotContains(t, string(text), "connection refused")
	require.NotContains(t, string(text), "PRIVATE KEY")
}

// A person sees for himself what a CA would see, as long as he wants to, and nothing is left then.
func TestCheckHoldsTheAnswers(t *testing.T) {
	t.Parallel()
	s, err := newSite(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(s.stop)
	cmd := program(t.Context(), t, s, "check", "--hold", "1h")
	stderr, err := cmd.StderrPipe()
	require.NoError(t, err)
	require.NoError(t, cmd.Start())
	lines := bufio.NewScanner(stderr)
	for range 2 { // names
		require.True(t, lines.Scan())
		address := regexp.MustCompile(`^for 1h0m0s: curl -i (http://[a-z0-9.]+)(/\S+)$`).FindStringSubmatch(lines.Text())
		require.NotNil(t, address, lines.Text())
		require.True(t, lines.Scan())
		answer, isAnswer := strings.CutPrefix(lines.Text(), "  has to print ")
		require.True(t, isAnswer, lines.Text())
		resp, err := http.Get("http://" + net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ca.HTTPPort)) + address[2])
		require.NoError(t, err)
		body, err := io.ReadAll(resp.Body)
		require.NoError(t, errors.Join(err, resp.Body.Close()))
		require.Equal(t, answer, string(body))
	}
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	var ended *exec.ExitError
	require.ErrorAs(t, cmd.Wait(), &ended)
	require.Equal(t, exitInterrupted, ended.ExitCode())
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(s.ca.HTTPPort)))
	require.NoError(t, err, "nobody listens any more")
	require.NoError(t, listener.Close())
}

// A15: a daemon whose store belongs to another user ends at once and says so, instead of staying up in vain.
func TestADaemonThatMayNotUseItsStoreEnds(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	var out bytes.Buffer
	cmd := program(t.Context(), t, s, "run")
	cmd.Stderr = &out
	if os.Geteuid() == 0 {
		asNobody(t, cmd, s.dir)
	} else {
		require.NoError(t, os.Chmod(filepath.Join(s.dir, "state"), 0))
		t.Cleanup(func() { _ = os.Chmod(filepath.Join(s.dir, "state"), 0o711) })
	}
	require.Error(t, cmd.Run())
	stderr = out.String()
	require.Equal(t, exitUsage, cmd.ProcessState.ExitCode(), stderr)
	require.Contains(t, stderr, "permission denied")
	require.Contains(t, stderr, "the user that the store belongs to")
}
