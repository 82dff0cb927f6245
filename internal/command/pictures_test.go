//go:build browser

package command

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"image/png"
	"strings"
	"testing"
	"time"

	"github.com/chromedp/chromedp"
	"github.com/creack/pty"
	"github.com/stretchr/testify/require"

	"maascert/maasconfig/maastest"
)

// The pictures that people are shown: of the page, and of a terminal on which a renewal comes along and on which the status is told. They are
// kept where MAASCERT_PICTURES says.
func TestPictures(t *testing.T) {
	browser, axe := newBrowser(t), nodeModule(t, "axe-core/axe.min.js")
	const keep = "MAASCERT_PICTURES"
	well := startEstate(t, 5, 3, false)
	stop := well.startDaemon(t, false, false)
	for name, v := range map[string]viewport{"page-dark": {"dark", 1000, 700}, "page-phone": {"light", 390, 844}} {
		keepPicture(t, keep, name, seeIn(t, browser, "http://"+well.board+"/", axe, v).picture)
	}
	stop()
	broken := startEstate(t, 1, 3, true)
	stop = broken.startDaemon(t, true, false)
	keepPicture(t, keep, "page-broken", seeIn(t, browser, "http://"+broken.board+"/", axe, viewport{"light", 1000, 700}).picture)
	stop()

	const columns = 92
	_, status := screenOf(t, well.program(t, "status"), columns, 24)
	keepPicture(t, keep, "terminal-status", terminalPicture(t, browser, "maascert status", status, columns))
	well.maas.Regions[1].Break(maastest.Fault{Slow: 1500 * time.Millisecond})
	keepPicture(t, keep, "terminal-renew", terminalPicture(t, browser, "maascert renew --force --cert maas", renewalUnderway(t, well, columns), columns))
}

// renewalUnderway is what a terminal shows of a renewal when one region is still awaited.
func renewalUnderway(t *testing.T, e *estate, columns int) string {
	t.Helper()
	cmd := e.program(t, "renew", "--force", "--cert", "maas")
	cmd.Env = append(cmd.Env, "TERM=xterm-256color", "LC_ALL=C.UTF-8", "NO_COLOR=")
	const rows = 24
	terminal, err := pty.StartWithSize(cmd, &pty.Winsize{Rows: rows, Cols: uint16(columns)})
	require.NoError(t, err)
	defer terminal.Close()
	var written bytes.Buffer
	underway, part := "", make([]byte, 64<<10)
	for {
		n, err := terminal.Read(part)
		if err != nil { // a terminal whose other end is gone says EIO
			break
		}
		written.Write(part[:n])
		screen := shownAt(t, written.Bytes(), columns, rows)
		endpoints := countLines(screen, func(line string) bool { return strings.HasPrefix(line, "maas 127.") })
		if done := countLines(screen, func(line string) bool {
			return strings.HasPrefix(line, "maas 127.") && strings.Contains(line, "✓ [")
		}); endpoints == 3 && done == 2 {
			underway = written.String()
		}
	}
	require.NoError(t, cmd.Wait())
	require.NotEmpty(t, underway, &written)
	return underway
}

// terminalPicture is what a terminal in the browser makes of what was written to it after a command.
func terminalPicture(t *testing.T, browser context.Context, command, written string, columns int) []byte {
	t.Helper()
	tab, stop := chromedp.NewContext(browser)
	defer stop()
	text := "\x1b[1m$ " + command + "\x1b[0m\r\n" + strings.TrimRight(written, "\r\n")
	rows := len(shownAt(t, []byte(text), columns, 100)) + 1 // on which the cursor stands between two drawings
	require.NoError(t, chromedp.Do(tab, viewport{"dark", int64(columns*9 + 60), int64(rows*18 + 60)}.set(), chromedp.Navigate("about:blank")))
	tab, expire := context.WithTimeout(tab, time.Minute)
	defer expire()
	quoted := func(text string) string {
		out, err := json.Marshal(text)
		require.NoError(t, err)
		return string(out)
	}
	evaluate[chromedp.Void](t, tab, nodeModule(t, "@xterm/xterm/lib/xterm.js"))
	evaluate[chromedp.Void](t, tab, fmt.Sprintf(`
		document.head.appendChild(document.createElement("style")).textContent = %s + "body{margin:0;background:#16181d}#screen{display:inline-block;padding:14px;background:#16181d}.xterm-viewport{display:none}";
		document.body.appendChild(document.createElement("div")).id = "screen";
		window.screenOf = new Terminal({cols: %d, rows: %d, fontFamily: "DejaVu Sans Mono, monospace", fontSize: 14, cursorInactiveStyle: "none", scrollback: 0,
			theme: {background: "#16181d", foreground: "#e8eaed", green: "#6fd39a", red: "#ff9c94"}});
		screenOf.open(document.getElementById("screen"));
		new Promise(written => screenOf.write(%s + "\x1b[?25l", () => requestAnimationFrame(() => requestAnimationFrame(written))));
	`, quoted(nodeModule(t, "@xterm/xterm/css/xterm.css")), columns, rows, quoted(text)))
	picture, err := chromedp.Run(tab, chromedp.Screenshot(chromedp.CSS("#screen")))
	require.NoError(t, err)
	_, err = png.DecodeConfig(bytes.NewReader(picture))
	require.NoError(t, err)
	return picture
}
