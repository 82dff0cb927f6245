package command

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/internal/loopback"
	"maascert/internal/report"
	"maascert/internal/world"
	"maascert/maasconfig/maastest"
)

// ask asks a board; an empty answer where nobody is there.
func ask(address, path string) (status int, body string) {
	client := &http.Client{Timeout: 10 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	resp, err := client.Get("http://" + address + path)
	if err != nil {
		return 0, ""
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		return 0, ""
	}
	return resp.StatusCode, string(text)
}

// The daemon tells how it is at listen, which may move, and in the textfile; a region that stops matching is told there.
func TestDaemonTellsHowItIs(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	var addresses []string
	for range 2 {
		port, err := loopback.Port()
		require.NoError(t, err)
		addresses = append(addresses, fmt.Sprintf("127.0.0.1:%d", port))
	}
	path := filepath.Join(s.dir, "maascert.yaml")
	configure := func(address string) {
		t.Helper()
		text := strings.Replace(s.config(), `listen: ""`, fmt.Sprintf("listen: %q\nschedule: \"@every 1s\"\nmetrics: {textfile: maascert.prom}", address), 1)
		text = strings.Replace(text, "verify_timeout: 20s", "verify_timeout: 2s", 1)
		require.NoError(t, os.WriteFile(path, []byte(text), 0o640))
	}
	configure(addresses[0])
	renewal := program(t.Context(), t, s, "renew", "--enable-tls")
	require.NoError(t, renewal.Run())
	textfile := filepath.Join(s.dir, "maascert.prom")
	text, err := os.ReadFile(textfile)
	require.NoError(t, err)
	require.Contains(t, string(text), `maascert_certificate_state{cert="maas",state="ok"} 1`)
	require.NotContains(t, string(text), "_total", "several processes write it, so it counts nothing")
	info, err := os.Stat(textfile)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o644), info.Mode().Perm())

	s.letAskAgain(t)
	cmd := program(t.Context(), t, s, "run")
	require.NoError(t, cmd.Start())
	until := func(address, path string, status int, words ...string) {
		t.Helper()
		var body string
		require.Eventually(t, func() bool {
			var got int
			got, body = ask(address, path)
			for _, word := range words {
				if !strings.Contains(body, word) {
					return false
				}
			}
			return got == status
		}, 30*time.Second, 20*time.Millisecond, "%s%s: %v", address, path, words)
	}
	region := s.maas.Regions[2].Address.String()
	until(addresses[0], "/healthz", http.StatusOK, "ok")
	until(addresses[0], "/metrics", http.StatusOK, `maascert_endpoint_match{cert="maas",endpoint="`+region+`:5443",target="maas"} 1`, `maascert_last_pass_success{node="region1"} 1`,
		`maascert_acme_requests_total{code="200",host="`)
	s.maas.Regions[2].Break(maastest.Fault{Deaf: true}) // or the next call would start its proxy
	s.maas.Regions[2].StopProxy()
	until(addresses[0], "/healthz", http.StatusServiceUnavailable, "maas: ")
	until(addresses[0], "/metrics", http.StatusOK, `maascert_endpoint_match{cert="maas",endpoint="`+region+`:5443",target="maas"} 0`, `maascert_last_pass_success{node="region1"} 0`)
	until(addresses[0], "/", http.StatusOK, "This needs attention", region+":5443", "serves no certificate")
	for _, path := range []string{"/x", "/debug/pprof/", "/metrics/"} {
		status, _ := ask(addresses[0], path)
		require.Equal(t, http.StatusNotFound, status, path)
	}

	configure(addresses[1])
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	until(addresses[1], "/metrics", http.StatusOK, "maascert_build_info")
	status, _ := ask(addresses[0], "/metrics")
	require.Zero(t, status, "nobody listens there any more")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
}

// An address that cannot be bound is a warning, and the next one is taken.
func TestABoardThatCannotListen(t *testing.T) {
	t.Parallel()
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	b := newBoard(time.Now)
	defer b.close()
	require.ErrorContains(t, b.listen(taken.Addr().String()), "metrics and health are told nowhere")
	b.listenAgain()
	require.NoError(t, taken.Close())
	b.listenAgain()
	freed, _ := ask(taken.Addr().String(), "/healthz")
	require.Equal(t, http.StatusServiceUnavailable, freed, "it is listened on when the port gets free")
	port, err := loopback.Port()
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	require.NoError(t, b.listen(address))
	require.NoError(t, b.listen(address), "it is bound already")
	status, body := ask(address, "/healthz")
	require.Equal(t, "503 no pass has been made yet\n", fmt.Sprint(status, " ", body))
	require.NoError(t, b.listen(""))
	status, _ = ask(address, "/healthz")
	require.Zero(t, status)
}

// The textfile's folder may be another user's, who puts links there while we write.
func TestTheTextfileFollowsNoLink(t *testing.T) {
	t.Parallel()
	dir, victim := t.TempDir(), filepath.Join(t.TempDir(), "key.pem")
	require.NoError(t, os.WriteFile(victim, []byte("key"), 0o600))
	path := filepath.Join(dir, "maascert.prom")
	require.NoError(t, os.Symlink(victim, path))
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			select {
			case <-stop:
				return
			default:
			}
			entries, _ := os.ReadDir(dir)
			for _, entry := range entries {
				link := filepath.Join(dir, "link")
				if os.Symlink(victim, link) == nil && entry.Name() != "maascert.prom" {
					_ = os.Rename(link, filepath.Join(dir, entry.Name()))
				}
				_ = os.Remove(link)
			}
		}
	}()
	for range 300 {
		// Somebody disturbs it: it may fail, and does no harm.
		_ = writeTextfile(world.OS{}, path, report.Public{At: report.Time{Time: time.Now()}})
	}
	close(stop)
	<-stopped
	info, err := os.Stat(victim)
	require.NoError(t, err)
	require.Equal(t, os.FileMode(0o600), info.Mode().Perm())
	text, err := os.ReadFile(victim)
	require.NoError(t, err)
	require.Equal(t, "key", string(text))
}

// Whoever asks often costs little: what is told is made of what the last pass left.
func TestWhoAsksOftenCostsLittle(t *testing.T) {
	b := newBoard(time.Now)
	defer b.close()
	doc := report.Public{Node: "region1", At: report.Time{Time: time.Now()}, OK: true}
	for n := range 50 {
		cert := report.PublicCertificate{Name: fmt.Sprint("cert", n), State: "ok"}
		for m := range 10 {
			cert.Targets = append(cert.Targets, report.Target{Name: "maas", Endpoints: []report.Endpoint{{Address: fmt.Sprintf("10.0.%d.%d:5443", n, m), State: "match"}}})
		}
		doc.Certificates = append(doc.Certificates, cert)
	}
	b.shown.Show(doc)
	port, err := loopback.Port()
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	require.NoError(t, b.listen(address))
	var before, after runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&before)
	var group sync.WaitGroup
	for range 20 {
		group.Go(func() {
			for range 25 {
				if status, _ := ask(address, "/metrics"); status != http.StatusOK && status != http.StatusServiceUnavailable {
					t.Errorf("status %d", status)
				}
				for range 4 {
					if status, page := ask(address, "/"); status != http.StatusOK || !strings.Contains(page, "cert49") {
						t.Errorf("status %d: %.100s", status, page)
					}
				}
			}
		})
	}
	group.Wait()
	runtime.GC()
	runtime.ReadMemStats(&after)
	require.Less(t, int64(after.HeapAlloc)-int64(before.HeapAlloc), int64(20<<20))
}
