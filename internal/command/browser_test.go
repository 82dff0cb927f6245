//go:build browser

package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"image/png"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/chromedp/cdproto/cdp"
	"github.com/chromedp/cdproto/emulation"
	browserlog "github.com/chromedp/cdproto/log"
	"github.com/chromedp/cdproto/network"
	"github.com/chromedp/cdproto/runtime"
	"github.com/chromedp/chromedp"
	"github.com/stretchr/testify/require"
)

// newBrowser starts Chromium, which asks nobody for anything by itself.
func newBrowser(t *testing.T) context.Context {
	t.Helper()
	options := append(chromedp.DefaultExecAllocatorOptions[:], chromedp.NoSandbox, chromedp.DisableGPU, chromedp.Flag("disable-quic", true), chromedp.Flag("disable-component-update", true), chromedp.UserDataDir(t.TempDir()))
	allocator, stop := chromedp.NewExecAllocator(context.WithoutCancel(t.Context()), options...)
	t.Cleanup(stop)
	browser, stop := chromedp.NewContext(allocator)
	t.Cleanup(func() {
		require.NoError(t, chromedp.Cancel(browser)) // or it would go on writing into its folder
		stop()
	})
	require.NoError(t, chromedp.Do(browser))
	return browser
}

// nodeModule is a file of what npm installs for tests.
func nodeModule(t *testing.T, path string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(os.Getenv("MAASCERT_NODE_MODULES"), path))
	require.NoError(t, err, "make browser installs it")
	return string(text)
}

// viewport is how somebody looks at a page.
type viewport struct {
	scheme        string // which the system prefers
	width, height int64
}

func (v viewport) set() chromedp.Action[chromedp.Void] {
	var options []chromedp.EmulateViewportOption
	if v.width < 500 {
		options = append(options, chromedp.EmulateMobile)
	}
	return chromedp.Steps(chromedp.EmulateViewport(v.width, v.height, options...), chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		features := []*emulation.MediaFeature{{Name: "prefers-color-scheme", Value: v.scheme}}
		_, err := cdp.Call(ctx, tab, emulation.SetEmulatedMedia, emulation.SetEmulatedMediaParams{Features: features})
		return err
	}))
}

// axeFinding is something on a page that axe-core finds hard to use for somebody.
type axeFinding struct {
	ID    string   `json:"id"`
	Help  string   `json:"help"`
	Nodes []string `json:"nodes"`
}

type axeResult struct {
	Passes     int          `json:"passes"`
	Violations []axeFinding `json:"violations"`
	Incomplete []axeFinding `json:"incomplete"` // what it cannot decide by itself
}

// undecided is what axe-core leaves to people, but for contrasts that it cannot measure: of a mark of one letter, and at less than the full
// width of what has been scrolled away.
func (r axeResult) undecided(width int64) (left []axeFinding) {
	for _, one := range r.Incomplete {
		one.Nodes = slices.DeleteFunc(one.Nodes, func(node string) bool {
			return one.ID == "color-contrast" && (width < 1280 || strings.HasPrefix(node, `<span class="mark" aria-hidden="true">`))
		})
		if len(one.Nodes) > 0 {
			left = append(left, one)
		}
	}
	return left
}

const runAxe = `axe.run(document, {resultTypes: ["violations", "incomplete", "passes"]}).then(result => {
	const findings = all => all.map(one => ({id: one.id, help: one.help, nodes: one.nodes.map(node => node.html)}));
	return {passes: result.passes.length, violations: findings(result.violations), incomplete: findings(result.incomplete)};
})`

// seenPage is what a browser makes of a page.
type seenPage struct {
	picture    []byte
	axe        axeResult
	isTooWide  bool
	background string
	complaints []string // of the browser
	requests   []string
}

func seeIn(t *testing.T, browser context.Context, url, axe string, v viewport) seenPage {
	t.Helper()
	tab, stop := chromedp.NewContext(browser)
	defer stop()
	require.NoError(t, chromedp.Do(tab, v.set()))
	tab, expire := context.WithTimeout(tab, time.Minute)
	defer expire()
	var seen seenPage
	var mu sync.Mutex
	require.NoError(t, chromedp.Listen(tab, func(event any) {
		mu.Lock()
		defer mu.Unlock()
		switch event := event.(type) {
		case *browserlog.EventEntryAdded:
			seen.complaints = append(seen.complaints, event.Entry.Text)
		case *runtime.EventExceptionThrown:
			seen.complaints = append(seen.complaints, event.ExceptionDetails.Text)
		case *network.EventRequestWillBeSent:
			seen.requests = append(seen.requests, event.Request.URL)
		}
	}))
	require.NoError(t, chromedp.Do(tab, chromedp.Func(func(ctx context.Context, tab *chromedp.Target) error {
		_, logged := cdp.Call(ctx, tab, browserlog.Enable, chromedp.Void{})
		_, sent := cdp.Call(ctx, tab, network.Enable, network.EnableParams{})
		return errors.Join(logged, sent)
	}), chromedp.Navigate(url)))
	seen.isTooWide = evaluate[bool](t, tab, "document.documentElement.scrollWidth > document.documentElement.clientWidth")
	seen.background = evaluate[string](t, tab, "getComputedStyle(document.documentElement).backgroundColor + getComputedStyle(document.body).backgroundColor")
	picture, err := chromedp.Run(tab, chromedp.FullScreenshot(100))
	require.NoError(t, err)
	evaluate[chromedp.Void](t, tab, axe)
	found := evaluate[axeResult](t, tab, runAxe)
	mu.Lock()
	defer mu.Unlock()
	seen.picture, seen.axe = picture, found
	return seen
}

// evaluate is what a script comes to on a page, or its promise.
func evaluate[T any](t *testing.T, tab context.Context, script string) T {
	t.Helper()
	value, err := chromedp.Run(tab, chromedp.Evaluate[T](script, chromedp.EvalAwaitPromise))
	require.NoError(t, err)
	return value
}

// In a browser the page is whole in both schemes and at the widths of a phone, a tablet and a desktop, healthy and broken, with one
// certificate and twelve, of one host and seven: nothing is cut off, axe-core finds nothing, the browser complains of nothing, and asks for nothing
// but the page.
func TestThePageInABrowser(t *testing.T) {
	browser, axe := newBrowser(t), nodeModule(t, "axe-core/axe.min.js")
	backgrounds := map[string]string{}
	for _, certificates := range []int{1, 12} {
		for _, hosts := range []int{1, 7} {
			for _, isBroken := range []bool{false, true} {
				e := startEstate(t, certificates, hosts, isBroken)
				stop := e.startDaemon(t, isBroken, hosts == 1)
				for _, scheme := range []string{"light", "dark"} {
					for _, size := range []struct{ width, height int64 }{{360, 740}, {768, 1024}, {1280, 800}} {
						name := fmt.Sprintf("page-%d-certificates-%d-hosts-%s-%s-%d", certificates, hosts, map[bool]string{true: "broken", false: "healthy"}[isBroken], scheme, size.width)
						seen := seeIn(t, browser, "http://"+e.board+"/", axe, viewport{scheme, size.width, size.height})
						require.Empty(t, seen.axe.Violations, name)
						require.Empty(t, seen.axe.undecided(size.width), name)
						require.Greater(t, seen.axe.Passes, 15, "%s: axe-core looked at it", name)
						require.False(t, seen.isTooWide, name)
						require.Empty(t, seen.complaints, name)
						require.Equal(t, []string{"http://" + e.board + "/"}, seen.requests, name)
						picture, err := png.DecodeConfig(bytes.NewReader(seen.picture))
						require.NoError(t, err, name)
						require.EqualValues(t, size.width, picture.Width, name)
						backgrounds[scheme] = seen.background
						keepPicture(t, "MAASCERT_SCREENSHOTS", name, seen.picture)
					}
				}
				if certificates > mostOpenOnPage {
					foldedDetails(t, browser, axe, e)
				}
				stop()
			}
		}
	}
	require.NotEqual(t, backgrounds["light"], backgrounds["dark"])
}

// mostOpenOnPage is of how many certificates the page tells everything at once.
const mostOpenOnPage = 3

// foldedDetails are shown to whoever follows their link, also after the page has refreshed itself, and axe-core finds nothing in them.
func foldedDetails(t *testing.T, browser context.Context, axe string, e *estate) {
	t.Helper()
	tab, stop := chromedp.NewContext(browser)
	defer stop()
	const isShown = `getComputedStyle(document.querySelector("#cert-zabbix .more dl")).display != "none" && document.querySelector("#cert-zabbix .more").checkVisibility()`
	require.NoError(t, chromedp.Do(tab, viewport{"light", 1280, 800}.set(), chromedp.Navigate("http://"+e.board+"/")))
	tab, expire := context.WithTimeout(tab, time.Minute)
	defer expire()
	require.False(t, evaluate[bool](t, tab, isShown))
	evaluate[chromedp.Void](t, tab, `document.querySelector('a[href="#cert-zabbix"]').click()`)
	require.True(t, evaluate[bool](t, tab, isShown))
	require.NoError(t, chromedp.Do(tab, chromedp.Reload()))
	require.True(t, evaluate[bool](t, tab, isShown), "the address remembers it")
	evaluate[chromedp.Void](t, tab, axe)
	found := evaluate[axeResult](t, tab, runAxe)
	require.Empty(t, found.Violations)
	require.Empty(t, found.undecided(1280))
}

// startDaemon starts an estate's daemon, and waits until it has looked at everything, and rehearsed what it rehearses: in a fleet that is left
// to one of the hosts, which need not be this one.
func (e *estate) startDaemon(t *testing.T, isBroken, isAlone bool) (stop func()) {
	t.Helper()
	daemon := e.program(t, "run")
	var said bytes.Buffer
	daemon.Stderr = &said
	require.NoError(t, daemon.Start())
	want := map[bool]int{false: http.StatusOK, true: http.StatusServiceUnavailable}[isBroken]
	require.Eventually(t, func() bool {
		status, body := ask(e.board, "/healthz")
		_, page := ask(e.board, "/")
		hasRehearsed := isBroken || !isAlone || !strings.Contains(page, "none came to a result yet")
		return status == want && !strings.Contains(body, "no pass") && strings.Contains(page, `<ol class="past">`) && hasRehearsed
	}, time.Minute, 50*time.Millisecond, "%s", &said)
	return func() {
		require.NoError(t, daemon.Process.Signal(syscall.SIGTERM))
		require.Error(t, daemon.Wait())
	}
}

// keepPicture writes a picture into the folder that a variable names, for people.
func keepPicture(t *testing.T, variable, name string, picture []byte) {
	t.Helper()
	if folder := os.Getenv(variable); folder != "" {
		require.NoError(t, os.WriteFile(filepath.Join(folder, name+".png"), picture, 0o644))
	}
}
