package command

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/world"
)

// lockedBuffer is written and read at the same time.
type lockedBuffer struct {
	mu   sync.Mutex
	text bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.text.String()
}

// differs are parts of a log that differ from run to run.
var differs = []struct {
	pattern *regexp.Regexp
	instead string
}{
	{regexp.MustCompile(`(?m)^time=\S+ `), ""},
	{regexp.MustCompile(`"20\d\d-\d\d-\d\d \d\d:\d\d UTC"`), "TIME"},
	{regexp.MustCompile(`(took|after)=\S+`), "$1=D"},
	{regexp.MustCompile(`version=(v0\S+|\(devel\)|unknown)`), "version=V"},
	{regexp.MustCompile(`https://127\.0\.0\.1:\d+`), "https://ca.example"},
	{regexp.MustCompile(`requests=\d+`), "requests=N"},
	{regexp.MustCompile(`127\.\d+\.\d+\.\d+`), "REGION"},
}

// The log of the daemon tells a renewal, a region that does not follow, and an ordinary stop, in words that do not change.
func TestTheLogOfTheDaemon(t *testing.T) {
	t.Parallel()
	s, err := newSite(t.TempDir())
	require.NoError(t, err)
	t.Cleanup(s.stop)
	code, _, stderr := inSite(t, s, world.OS{}, "renew", "--enable-tls")
	require.Zero(t, code, stderr)
	s.edit(t, "region1.example.internal]", "region1.example.internal, region2.example.internal]", "node: region1", "node: region1\nrehearse: never")
	cmd := program(t.Context(), t, s, "run")
	var log lockedBuffer
	cmd.Stderr = &log
	require.NoError(t, cmd.Start())
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "as it should be") }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGHUP))
	require.Eventually(t, func() bool { return strings.Contains(log.String(), "nothing to do") }, time.Minute, 10*time.Millisecond)
	require.NoError(t, cmd.Process.Signal(syscall.SIGTERM))
	require.Error(t, cmd.Wait(), "it was interrupted")
	text := log.String()
	for _, one := range differs {
		text = one.pattern.ReplaceAllString(text, one.instead)
	}
	isGolden(t, filepath.Join("testdata", "daemon.log"), text)
	require.NotRegexp(t, `map\[|0x|=""|ERROR`, text)
}

// What lasts is said once, and again as its time runs out; when it is over that is said too.
func TestALastingTroubleIsSaidAtFractionsOfWhatIsLeft(t *testing.T) {
	t.Parallel()
	var out bytes.Buffer
	l := newRunLog(slog.New(slog.NewTextHandler(&out, nil)))
	about := saying{"maas", "maas", "verify"}
	now := time.Date(2026, 11, 26, 12, 0, 0, 0, time.UTC)
	ends := now.Add(64 * time.Hour)
	var at []int
	for hour := range 64 {
		isWorth, since := l.isWorthSaying(about, fmt.Sprintf("not before 2026-11-26 %02d:00 UTC: read 127.0.0.1:4%04d->10.0.0.1:443 after 1.%ds", hour%24, hour, hour), ends, now.Add(time.Duration(hour)*time.Hour))
		require.Equal(t, now, since)
		if isWorth {
			at = append(at, hour)
		}
	}
	require.Equal(t, []int{0, 32, 48, 56, 60, 62, 63}, at)
	isWorth, _ := l.isWorthSaying(about, "something else", ends, now.Add(time.Hour))
	require.True(t, isWorth, "other words are news")
	isWorth, _ = l.isWorthSaying(about, "10.0.0.12 lags", ends, now)
	require.True(t, isWorth)
	isWorth, _ = l.isWorthSaying(about, "10.0.0.13 lags", ends, now)
	require.True(t, isWorth, "another region is another trouble")
	isWorth, _ = l.isWorthSaying(about, "10.0.0.13 lags", now.Add(1000*time.Hour), now)
	require.False(t, isWorth)
	isWorth, _ = l.isWorthSaying(about, "10.0.0.13 lags", now.Add(1000*time.Hour), now.Add(600*time.Hour))
	require.True(t, isWorth, "half of what was left since a renewal has gone")

	trouble := lifecycle.Result{Name: "maas", Troubles: []lifecycle.Trouble{{Target: "maas", Stage: lifecycle.StageVerify, Err: hint.Add(errors.New("it lags"), "restart it")}}}
	for range 3 {
		l.tell(trouble, now.Add(time.Hour), now, false)
	}
	l.tell(lifecycle.Result{Name: "other"}, now.Add(time.Hour), now, false)
	l.tell(lifecycle.Result{Name: "maas"}, now.Add(time.Hour), now.Add(90*time.Second), false)
	require.Equal(t, 1, strings.Count(out.String(), "it lags"))
	require.Equal(t, 1, strings.Count(out.String(), `msg=recovered cert=maas stage=verify target=maas after=1m30s`), out.String())

	out.Reset()
	l.tell(trouble, now, now, true)
	require.Contains(t, out.String(), "level=INFO", "an ordinary stop is no error")
}
