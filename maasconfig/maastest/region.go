package maastest

import (
	"context"
	"crypto/rsa"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"maascert/maasconfig"
)

// Fault breaks one region. The zero value is a healthy one.
type Fault struct {
	Miss   int           // how many notifications get lost (MAAS fact 2.5, 1)
	Deaf   bool          // hears no notification until it is restarted (MAAS fact 2.5, 2)
	Slow   time.Duration // takes over that much later
	Refuse bool          // its proxy refuses every configuration
	Linger int           // handshakes that an old worker still answers after a new one answered, as nginx's do while it reloads
}

// Region is one region host: regiond, which hears notifications and writes files, and the proxy before it.
type Region struct {
	Address netip.Addr
	HTTPDir string // with regiond.nginx.conf and certs/

	host       Host
	deployment *Deployment
	proxy      proxy
	notify     chan struct{}

	mu      sync.Mutex
	stopped bool // regiond does not run
	fault   Fault
	deaf    bool // since the proxy refused a configuration, from 3.5 on
	heard   int  // notifications, also those that were ignored
	cancel  context.CancelFunc
	done    chan struct{}
}

// proxy serves on a region's ports.
type proxy interface {
	// reload takes over a configuration, whose files are written; on an error the one before stays.
	reload(c configuration) error
	stop()
}

// configuration is what regiond tells its proxy: the secret, or nil when TLS is off.
type configuration struct {
	secret  *Secret
	version maasconfig.Version
}

// hasTLS tells whether MAAS counts TLS as on: a port of 0 is off (MAAS fact 1.6).
func (c configuration) hasTLS() bool { return c.secret != nil && c.secret.Port != 0 }

func (r *Region) start() error {
	ctx, cancel := context.WithCancel(context.Background())
	r.mu.Lock()
	r.cancel, r.done, r.deaf, r.stopped = cancel, make(chan struct{}), false, false
	done := r.done
	r.mu.Unlock()
	// A region that was restarted reads the secret whatever it missed before.
	err := r.takeOver()
	go func() {
		defer close(done)
		r.listen(ctx)
	}()
	return err
}

func (r *Region) stop() {
	r.mu.Lock()
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	if cancel != nil {
		cancel()
		<-done
	}
	r.proxy.stop()
}

// Restart restarts regiond; faults that a restart mends are gone.
func (r *Region) Restart() error {
	r.mu.Lock()
	r.fault.Deaf, r.fault.Miss = false, 0
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	cancel()
	<-done
	return r.start()
}

// StopRegiond stops regiond, and leaves its proxy, which serves on what it had and answers 502 for what is behind it (MAAS
// fact 2.4). Restart starts it again.
func (r *Region) StopRegiond() {
	r.mu.Lock()
	r.stopped = true
	cancel, done := r.cancel, r.done
	r.mu.Unlock()
	cancel()
	<-done
}

// StopProxy stops the region's nginx. regiond starts it when it hears the next notification.
func (r *Region) StopProxy() { r.proxy.stop() }

func (r *Region) isStopped() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.stopped
}

// Break gives the region a fault; the zero Fault mends what is not remembered by regiond itself.
func (r *Region) Break(fault Fault) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.fault = fault
}

// Heard counts the notifications that reached the host, also those that regiond ignored.
func (r *Region) Heard() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.heard
}

// listen hears notifications; several within the time that a take-over needs are one.
func (r *Region) listen(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-r.notify:
		}
		r.mu.Lock()
		r.heard++
		fault := r.fault
		ignore := fault.Deaf || r.deaf || fault.Miss > 0
		if fault.Miss > 0 {
			r.fault.Miss--
		}
		r.mu.Unlock()
		if ignore {
			continue
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(r.deployment.options.Delay + fault.Slow):
		}
		// A region that fails says so in its log only.
		_ = r.takeOver()
	}
}

// takeOver writes the files and reloads the proxy.
func (r *Region) takeOver() error {
	c := configuration{secret: r.deployment.Stored(), version: r.deployment.version()}
	if err := r.write(c); err != nil {
		return err
	}
	r.mu.Lock()
	refuse, linger := r.fault.Refuse, r.fault.Linger
	r.mu.Unlock()
	err := errors.New("the proxy refuses the configuration")
	if !refuse {
		if inProcess, ok := r.proxy.(*goProxy); ok {
			inProcess.willLinger(linger)
		}
		err = r.proxy.reload(c)
	}
	if err != nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		// From 3.5 on regiond does not register for notifications again after a failure (MAAS fact 2.7).
		r.deaf = c.version.AtLeast(3, 5)
	}
	return err
}

// write writes what regiond writes (MAAS fact 2.2). The certificate's files stay behind when TLS is switched off.
func (r *Region) write(c configuration) error {
	certs := filepath.Join(r.HTTPDir, "certs")
	if err := os.MkdirAll(certs, 0o755); err != nil {
		return err
	}
	text := "server {\n    listen [::]:5240;\n    listen 5240;\n}\n"
	if c.hasTLS() {
		if err := os.WriteFile(filepath.Join(certs, "regiond-proxy.pem"), []byte(c.secret.Cert+c.secret.CACert), 0o644); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(certs, "regiond-proxy-key.pem"), []byte(c.secret.Key), 0o600); err != nil {
			return err
		}
		text = fmt.Sprintf("server {\n    listen [::]:%[1]d ssl http2;\n    listen %[1]d ssl http2;\n\n    ssl_certificate %[2]s/regiond-proxy.pem;\n"+
			"    ssl_certificate_key %[2]s/regiond-proxy-key.pem;\n    ssl_protocols TLSv1.2 TLSv1.3;\n"+
			"    add_header Strict-Transport-Security 'max-age=%[3]d; includeSubdomains' always;\n"+
			"    location / { return 200 'MAAS'; }\n}\n%[4]s", c.secret.Port, certs, hsts(c.version), text)
	}
	return os.WriteFile(filepath.Join(r.HTTPDir, "regiond.nginx.conf"), []byte(text), 0o644)
}

// hsts is for how many seconds browsers refuse plain HTTP (MAAS fact 2.6).
func hsts(version maasconfig.Version) int {
	switch {
	case version.AtLeast(3, 7):
		return 63072000
	case version.AtLeast(3, 4):
		return 15552000
	default:
		return 86400
	}
}

// goProxy serves a region's ports from within the process, with nginx's manners where they matter.
type goProxy struct {
	address netip.Addr
	region  *Region

	mu      sync.Mutex
	current configuration
	plain   *server
	secure  *server
	port    int
	pair    *tls.Certificate
	before  *tls.Certificate // what an old worker answers with
	linger  int              // how often it still does, after the next handshake
}

type server struct {
	http *http.Server
	done chan struct{}
}

func serve(listener net.Listener, handler http.Handler) *server {
	s := &server{
		http: &http.Server{Handler: handler, ErrorLog: log.New(io.Discard, "", 0), ReadHeaderTimeout: 10 * time.Second},
		done: make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		// Its end is stop's doing.
		_ = s.http.Serve(listener)
	}()
	return s
}

func (s *server) stop() {
	if s != nil {
		// There is nothing to lose.
		_ = s.http.Close()
		<-s.done
	}
}

func (p *goProxy) reload(c configuration) error {
	var pair *tls.Certificate
	port := 0
	if c.hasTLS() {
		loaded, err := tls.X509KeyPair([]byte(c.secret.Cert+c.secret.CACert), []byte(c.secret.Key))
		if err != nil {
			return err
		}
		if key, ok := loaded.PrivateKey.(*rsa.PrivateKey); ok && key.N.BitLen() < 2048 {
			return errors.New("ee key too small")
		}
		pair, port = &loaded, c.secret.Port
	}
	var listener net.Listener
	if port != 0 && port != p.servedPort() {
		if port == 5240 {
			p.mu.Lock()
			p.plain.stop()
			p.plain = nil
			p.mu.Unlock()
		}
		var err error
		if listener, err = p.region.host.Listen("tcp", net.JoinHostPort(p.address.String(), strconv.Itoa(port))); err != nil {
			return err
		}
	}
	return p.swap(c, pair, port, listener)
}

func (p *goProxy) servedPort() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.port
}

func (p *goProxy) swap(c configuration, pair *tls.Certificate, port int, listener net.Listener) error {
	p.mu.Lock()
	p.current, p.pair, p.before = c, pair, p.pair
	old := p.secure
	if listener != nil {
		config := &tls.Config{MinVersion: tls.VersionTLS12, GetCertificate: func(*tls.ClientHelloInfo) (*tls.Certificate, error) {
			p.mu.Lock()
			defer p.mu.Unlock()
			return p.answer(), nil
		}}
		p.secure = serve(tls.NewListener(listener, config), http.HandlerFunc(p.home))
	}
	if port == 0 {
		p.secure = nil
	}
	gone := old != nil && old != p.secure
	p.port = port
	needPlain := p.plain == nil && port != 5240
	p.mu.Unlock()
	if gone {
		old.stop()
	}
	if !needPlain {
		return nil
	}
	plain, err := p.region.host.Listen("tcp", net.JoinHostPort(p.address.String(), "5240"))
	if err != nil {
		return err
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.plain = serve(plain, http.HandlerFunc(p.answerPlain))
	return nil
}

// answer is the certificate for the next handshake: the new one, then the old one while old workers linger.
func (p *goProxy) answer() *tls.Certificate {
	next := p.pair
	if p.before != nil && p.linger > 0 {
		next, p.linger = p.before, p.linger-1
	}
	if p.linger < 0 { // the first handshake after a reload goes to a new worker
		p.linger = -p.linger
	}
	return next
}

// willLinger makes old workers answer n handshakes after the first one that follows the next reload.
func (p *goProxy) willLinger(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.linger = -n
}

func (p *goProxy) stop() {
	p.mu.Lock()
	plain, secure := p.plain, p.secure
	p.plain, p.secure, p.port = nil, nil, 0
	p.mu.Unlock()
	plain.stop()
	secure.stop()
}

func (p *goProxy) configuration() configuration {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.current
}

func (p *goProxy) home(w http.ResponseWriter, r *http.Request) {
	if p.region.isStopped() {
		badGateway(w)
		return
	}
	w.Header().Set("Strict-Transport-Security", fmt.Sprintf("max-age=%d; includeSubdomains", hsts(p.configuration().version)))
	if strings.HasPrefix(r.URL.Path, "/MAAS/api/") {
		p.region.deployment.serveAPI(w, r)
		return
	}
	// A client that hung up does not read the answer.
	_, _ = io.WriteString(w, "MAAS")
}

// stayPlain are the paths that port 5240 answers without TLS even when TLS is on (MAAS fact 2.6).
var stayPlain = []string{
	"/MAAS/rpc/", "/MAAS/metadata/", "/MAAS/api/2.0/machines", "/MAAS/maas-run-scripts", "/MAAS/machine-resources/", "/MAAS/images-stream",
}

// answerPlain answers on port 5240 (MAAS fact 2.6).
func (p *goProxy) answerPlain(w http.ResponseWriter, r *http.Request) {
	p.region.answerPlain(p.configuration(), w, r)
}

// badGateway answers as nginx does while regiond is stopped.
func badGateway(w http.ResponseWriter) {
	w.Header().Set("Content-Type", "text/html")
	w.WriteHeader(http.StatusBadGateway)
	_, _ = io.WriteString(w, "<html><head><title>502 Bad Gateway</title></head></html>")
}

// EventLoops answers GET /MAAS/rpc/: the regions whose regiond runs.
func (d *Deployment) EventLoops() map[string]any {
	loops := map[string]any{}
	for i, r := range d.Regions {
		if !r.isStopped() {
			loops[fmt.Sprintf("region%d:pid=%d", i+1, 1000+i)] = [][]any{{r.Address.String(), 5250}}
		}
	}
	return map[string]any{"eventloops": loops}
}

func (r *Region) answerPlain(c configuration, w http.ResponseWriter, req *http.Request) {
	isPlain := slices.ContainsFunc(stayPlain, func(path string) bool { return strings.HasPrefix(req.URL.Path, path) })
	redirects := c.hasTLS() && !isPlain && strings.HasPrefix(req.URL.Path, "/MAAS")
	if r.isStopped() && !redirects {
		badGateway(w)
		return
	}
	if strings.HasPrefix(req.URL.Path, "/MAAS/api/") && !redirects {
		r.deployment.serveAPI(w, req)
		return
	}
	if isPlain {
		w.Header().Set("Content-Type", "application/json")
		// A client that hung up does not read the answer.
		_, _ = io.WriteString(w, oneLine(r.deployment.EventLoops()))
		return
	}
	host, _, err := net.SplitHostPort(req.Host)
	if err != nil {
		host = req.Host
	}
	if redirects {
		w.Header().Set("Content-Type", "text/html")
		w.Header().Set("Location", fmt.Sprintf("https://%s%s", net.JoinHostPort(host, strconv.Itoa(c.secret.Port)), req.URL.RequestURI()))
		w.WriteHeader(http.StatusMovedPermanently)
		// A client that hung up does not read the answer.
		_, _ = io.WriteString(w, "<html><head><title>301 Moved Permanently</title></head></html>")
		return
	}
	http.NotFound(w, req)
}
