//go:build hostile

package command

import (
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	"golang.org/x/sys/unix"

	"maascert/internal/loopback"
)

// opened counts how often files below a folder are opened.
func opened(t *testing.T, folder string) *atomic.Int64 {
	watcher, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	require.NoError(t, err)
	count := new(atomic.Int64)
	var folders []string
	require.NoError(t, filepath.WalkDir(folder, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && entry.IsDir() {
			folders = append(folders, path)
		}
		return err
	}))
	for _, path := range folders {
		_, err := unix.InotifyAddWatch(watcher, path, unix.IN_OPEN|unix.IN_ACCESS|unix.IN_MODIFY|unix.IN_CREATE)
		require.NoError(t, err)
	}
	file := os.NewFile(uintptr(watcher), "inotify")
	go func() {
		buffer := make([]byte, 4096)
		for {
			if _, err := file.Read(buffer); err != nil {
				return
			}
			count.Add(1)
		}
	}()
	t.Cleanup(func() { _ = file.Close() })
	return count
}

// memory is a figure of a process's status in KiB.
func memory(t *testing.T, pid int, name string) int {
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	require.NoError(t, err)
	found := regexp.MustCompile(name + `:\s+(\d+) kB`).FindSubmatch(status)
	require.NotNil(t, found)
	n, err := strconv.Atoi(string(found[1]))
	require.NoError(t, err)
	return n
}

// askOften asks for a page so many times a second.
func askOften(url string, rate int, length time.Duration) (taken, refused int64) {
	var took, missed atomic.Int64
	tokens := make(chan struct{}, rate)
	client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: 50}, Timeout: 10 * time.Second}
	defer client.CloseIdleConnections()
	var askers sync.WaitGroup
	for range 50 {
		askers.Go(func() {
			for range tokens {
				resp, err := client.Get(url)
				if err != nil {
					missed.Add(1)
					continue
				}
				_, _ = io.Copy(io.Discard, resp.Body)
				_ = resp.Body.Close()
				if resp.StatusCode == http.StatusOK {
					took.Add(1)
				} else {
					missed.Add(1)
				}
			}
		})
	}
	ticker := time.NewTicker(10 * time.Millisecond)
	defer ticker.Stop()
	for began := time.Now(); time.Since(began) < length; {
		<-ticker.C
		for range rate / 100 {
			tokens <- struct{}{}
		}
	}
	close(tokens)
	askers.Wait()
	return took.Load(), missed.Load()
}

// A thousand requests a second to the metrics and to the page, for a minute each, cost no handshake, no look into the store, and less than
// 20 MiB.
func TestHostileAskers(t *testing.T) {
	for _, page := range []string{"/metrics", "/"} {
		t.Run(page, func(t *testing.T) { testHostileAskers(t, page) })
	}
}

func testHostileAskers(t *testing.T, page string) {
	r := startRehearsed(t, false)
	port, err := loopback.Port()
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	path := filepath.Join(r.dir, "maascert.yaml")
	text, err := os.ReadFile(path)
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(path, []byte(strings.Replace(string(text), `listen: ""`, "listen: "+address, 1)), 0o640))
	cmd := program(t.Context(), t, r.site, "run")
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool {
		status, body := ask(address, "/metrics")
		return status == http.StatusOK && strings.Contains(body, "maascert_last_pass_success")
	}, time.Minute, 50*time.Millisecond)
	store, shaken, before := opened(t, filepath.Join(r.dir, "state")), r.shaken.Load(), memory(t, cmd.Process.Pid, "VmRSS")
	taken, refused := askOften("http://"+address+page, 1000, time.Minute)
	after := memory(t, cmd.Process.Pid, "VmHWM")
	t.Logf("%d answers, %d refusals; %d KiB before, %d KiB at most", taken, refused, before, after)
	require.Greater(t, taken, int64(50000), "as many as this machine manages, a thousand a second on an idle one")
	require.Less(t, after-before, 20<<10)
	require.Zero(t, store.Load(), "nobody looked into the store")
	require.Equal(t, shaken, r.shaken.Load(), "nobody shook hands")
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait())
}

// A page of 200 certificates comes within 20 ms, also when it has to be made anew for each who asks.
func TestHostileAskersOfALargePage(t *testing.T) {
	var seconds atomic.Int64
	begin := time.Now()
	b := newBoard(func() time.Time { return begin.Add(time.Duration(seconds.Add(1)) * time.Second) })
	defer b.close()
	b.shown.Show(largeDocument(200, "", begin))
	port, err := loopback.Port()
	require.NoError(t, err)
	address := fmt.Sprintf("127.0.0.1:%d", port)
	require.NoError(t, b.listen(address))
	var took []time.Duration
	size := 0
	for range 100 {
		began := time.Now()
		status, page := ask(address, "/")
		took = append(took, time.Since(began))
		require.Equal(t, http.StatusOK, status)
		require.Contains(t, page, "cert199")
		size = len(page)
	}
	slices.Sort(took)
	t.Logf("a page of 200 certificates, %d kB: median %v, slowest of 100 %v", size/1000, took[50], took[99])
	require.Less(t, took[50], 20*time.Millisecond)
}
