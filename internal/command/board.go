package command

import (
	"bytes"
	"errors"
	"fmt"
	"net"
	"net/http"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/prometheus/common/expfmt"
	"golang.org/x/net/netutil"

	"maascert/internal/hint"
	"maascert/internal/report"
	"maascert/internal/world"
)

// board is where the daemon tells how it is, to whoever asks: nobody is asked for that, and nothing is read.
type board struct {
	shown    *report.Board
	requests *prometheus.CounterVec
	handler  http.Handler
	now      func() time.Time

	mu      sync.Mutex
	wanted  string // address that is to be listened on; empty: none
	address string // that is listened on; empty: nowhere
	server  *http.Server
	done    chan struct{}
}

func newBoard(now func() time.Time) *board {
	b := &board{now: now, shown: &report.Board{Version: version()}, requests: report.NewRequests()}
	registry := prometheus.NewRegistry()
	registry.MustRegister(b.shown, b.requests)
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(registry, promhttp.HandlerOpts{MaxRequestsInFlight: mostAsking, Timeout: askedTime}))
	mux.HandleFunc("GET /healthz", b.health)
	mux.HandleFunc("GET /{$}", b.page)
	b.handler = http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Content-Type-Options", "nosniff")
		mux.ServeHTTP(w, r)
	})
	return b
}

const (
	// mostAsking is how many may ask at the same time.
	mostAsking = 64
	// askedTime bounds an answer.
	askedTime = 5 * time.Second
)

// observe counts a request to a CA.
func (b *board) observe(host string, status int) {
	b.requests.WithLabelValues(host, report.Code(status)).Inc()
}

// listen has the board answer on an address, and on no other any more.
func (b *board) listen(address string) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = address
	return b.listenLocked()
}

func (b *board) listenLocked() error {
	address := b.wanted
	if address == b.address {
		return nil
	}
	b.closeLocked()
	if address == "" {
		return nil
	}
	listener, err := net.Listen("tcp", address)
	if err != nil {
		return hint.Add(fmt.Errorf("metrics and health are told nowhere: %w", err), "set listen, or listen: \"\" for none")
	}
	b.address, b.done = address, make(chan struct{})
	b.server = &http.Server{
		Handler: b.handler, ReadHeaderTimeout: askedTime, WriteTimeout: 2 * askedTime, IdleTimeout: time.Minute, MaxHeaderBytes: 16 << 10,
	}
	go func(server *http.Server, done chan struct{}) {
		defer close(done)
		// Its end is close's doing.
		_ = server.Serve(netutil.LimitListener(listener, mostAsking))
	}(b.server, b.done)
	return nil
}

// listenAgain tries again what could not be listened on: an interface may have come up since, or another program let go of the port.
func (b *board) listenAgain() {
	b.mu.Lock()
	defer b.mu.Unlock()
	// That it failed was told when it was first tried.
	_ = b.listenLocked()
}

func (b *board) close() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.wanted = ""
	b.closeLocked()
}

func (b *board) closeLocked() {
	if b.server != nil {
		// There is nothing to lose.
		_ = b.server.Close()
		<-b.done
	}
	b.address, b.server = "", nil
}

// health answers 200 while the last pass left everything as it should be, and was made lately; else 503 with the reasons.
func (b *board) health(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/plain; charset=utf-8")
	reasons := report.Unhealthy(b.shown.Shown(), b.now())
	if len(reasons) > 0 {
		w.WriteHeader(http.StatusServiceUnavailable)
		fmt.Fprintln(w, strings.Join(reasons, "\n"))
		return
	}
	fmt.Fprintln(w, "ok")
}

// pageHeaders are those of the page: it runs nothing, loads nothing, and is shown within nothing.
var pageHeaders = map[string]string{
	"Content-Type": "text/html; charset=utf-8", "X-Frame-Options": "DENY", "Referrer-Policy": "no-referrer", "Cache-Control": "no-store", "Refresh": "30",
	"Cross-Origin-Opener-Policy": "same-origin", "Cross-Origin-Resource-Policy": "same-origin", "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
	"Content-Security-Policy": "default-src 'none'; style-src " + report.PageStyleSource() + "; base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
}

// page shows how everything is to a person.
func (b *board) page(w http.ResponseWriter, _ *http.Request) {
	text, err := b.shown.Page(b.now())
	if err != nil {
		http.Error(w, "the page cannot be made", http.StatusInternalServerError)
		return
	}
	for name, value := range pageHeaders {
		w.Header().Set(name, value)
	}
	// Whoever asked may have gone away.
	_, _ = w.Write(text)
}

// writeTextfile writes the gauges as a file for node_exporter, whole or not at all. The folder may belong to a user with fewer rights than
// ours, who must not have us change another file.
func writeTextfile(fsys world.FS, path string, doc report.Public) error {
	shown := &report.Board{Version: version()}
	shown.Show(doc)
	registry := prometheus.NewRegistry()
	registry.MustRegister(shown)
	families, err := registry.Gather()
	if err != nil {
		return err
	}
	var text bytes.Buffer
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(&text, family); err != nil {
			return err
		}
	}
	folder, err := fsys.OpenRoot(filepath.Dir(path))
	if err != nil {
		return err
	}
	return errors.Join(folder.Replace(filepath.Base(path), text.Bytes(), 0o644), folder.Close())
}
