// Package acmetest is a real ACME CA, Pebble, inside the test process, with faults on demand.
package acmetest

import (
	"bytes"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"log"
	"maps"
	"math/big"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pebble "github.com/letsencrypt/pebble/v2/acme"
	"github.com/letsencrypt/pebble/v2/ca"
	"github.com/letsencrypt/pebble/v2/db"
	"github.com/letsencrypt/pebble/v2/va"
	"github.com/letsencrypt/pebble/v2/wfe"
	"github.com/stretchr/testify/require"

	"maascert/internal/loopback"
	"maascert/internal/world"
)

// Options are the CA's habits. The zero value is a quick and friendly CA.
type Options struct {
	NonceReject     int           // percent of good nonces to refuse
	Sleep           int           // validation takes 0 to Sleep-1 whole seconds; the slowest of three validators counts
	AuthzReuse      int           // percent of valid authorizations to use again
	ChainLength     int           // intermediates; 0 means 1
	AlternateRoots  int           // further chains
	RetryAfterAuthz int           // seconds, as seconds or as a date at random; 0 sends none
	RetryAfterOrder int           // the same
	Validity        time.Duration // of certificates; 0 is Pebble's own: five years
	RequireEAB      bool
	MACKeys         map[string]string // EAB key IDs and base64url keys
	Blocked         []string          // domains the CA refuses
	Strict          bool
	HTTPPort        int        // on which http-01 is looked for; 0: a free one
	TLSPort         int        // on which tls-alpn-01 is looked for; 0: a free one
	Address         netip.Addr // that the CA and its name server listen on; zero: the loopback's
}

// CA is a running CA.
type CA struct {
	Directory string // URL
	HTTPPort  int    // on which http-01 is validated
	TLSPort   int    // on which tls-alpn-01 is validated
	DNS       *DNS

	server *httptest.Server
	manage http.Handler
	ca     *ca.CAImpl

	mu       sync.Mutex
	issued   []string
	orders   int
	requests []Request
	handler  func(w http.ResponseWriter, r *http.Request, next http.Handler)
	now      func() time.Time // nil: the system's clock
}

// Request is one request that the CA got.
type Request struct{ Method, Path string }

// knobs serialises the creation of CAs: Pebble reads some of its options from the process's environment.
var knobs sync.Mutex

// New starts a CA that is stopped at the test's end.
func New(t testing.TB, options Options) *CA {
	t.Helper()
	running, err := Start(options)
	require.NoError(t, err)
	t.Cleanup(running.Stop)
	return running
}

// Start starts a CA.
func Start(options Options) (*CA, error) {
	for _, port := range []*int{&options.HTTPPort, &options.TLSPort} {
		if *port == 0 {
			free, err := loopback.Port()
			if err != nil {
				return nil, err
			}
			*port = free
		}
	}
	if !options.Address.IsValid() {
		options.Address = netip.AddrFrom4([4]byte{127, 0, 0, 1})
	}
	resolver, err := startDNS(options.Address, 0)
	if err != nil {
		return nil, err
	}
	c := &CA{HTTPPort: options.HTTPPort, TLSPort: options.TLSPort, DNS: resolver}
	if err := c.build(options); err != nil {
		return nil, err
	}
	if !options.Address.IsLoopback() {
		if err := c.listenAt(options.Address); err != nil {
			return nil, err
		}
	}
	c.server.StartTLS()
	c.Directory = c.server.URL + wfe.DirectoryPath
	return c, nil
}

// listenAt has the CA listen on an address for which httptest has no certificate.
func (c *CA) listenAt(address netip.Addr) error {
	listener, err := net.Listen("tcp", net.JoinHostPort(address.String(), "0"))
	if err != nil {
		return err
	}
	if err := c.server.Listener.Close(); err != nil {
		return err
	}
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1), NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().AddDate(1, 0, 0), IPAddresses: []net.IP{address.AsSlice()},
		IsCA: true, BasicConstraintsValid: true, KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign,
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	c.server.Listener, c.server.TLS = listener, &tls.Config{Certificates: []tls.Certificate{{Certificate: [][]byte{der}, PrivateKey: key}}}
	return err
}

// Address returns the CA's own, as host:port.
func (c *CA) Address() string { return c.server.Listener.Addr().String() }

// Stop ends the CA.
func (c *CA) Stop() {
	c.server.CloseClientConnections()
	c.server.Close()
	c.DNS.Stop()
}

func (c *CA) build(options Options) error {
	knobs.Lock()
	defer knobs.Unlock()
	restore, err := world.Setenv(map[string]string{
		"PEBBLE_WFE_NONCEREJECT": strconv.Itoa(options.NonceReject),
		"PEBBLE_VA_NOSLEEP":      map[bool]string{true: "1", false: "0"}[options.Sleep == 0],
		"PEBBLE_VA_SLEEPTIME":    strconv.Itoa(options.Sleep),
		"PEBBLE_AUTHZREUSE":      strconv.Itoa(options.AuthzReuse),
		"PEBBLE_VA_ALWAYS_VALID": "0",
	})
	if err != nil {
		return err
	}
	defer restore()
	logger := log.New(logWatcher{c}, "", 0)
	store := db.NewMemoryStore()
	for id, key := range options.MACKeys {
		if err := store.AddExternalAccountKeyByID(id, key); err != nil {
			return err
		}
	}
	for _, domain := range options.Blocked {
		if err := store.AddBlockedDomain(domain); err != nil {
			return err
		}
	}
	profiles := map[string]ca.Profile{"default": {Description: "the only one", ValidityPeriod: uint64(options.Validity / time.Second)}}
	c.ca = ca.New(logger, store, "", "ecdsa", options.AlternateRoots, max(1, options.ChainLength), profiles)
	validator := va.New(logger, options.HTTPPort, options.TLSPort, options.Strict, c.DNS.Address, store)
	front := wfe.New(logger, store, validator, c.ca, []string{"ca.example"}, options.Strict, options.RequireEAB,
		options.RetryAfterAuthz, options.RetryAfterOrder)
	c.manage = front.ManagementHandler()
	c.server = httptest.NewUnstartedServer(c.middleware(withoutZeroRetryAfter(untangled(store, forgetful(store, options, front.Handler())))))
	c.server.Config.ErrorLog = log.New(io.Discard, "", 0)
	c.server.EnableHTTP2 = true
	return nil
}

// untangled keeps Pebble 2.10.1 from locking itself up for ever. Its requests take their locks in different orders
// (letsencrypt/pebble#554), so they are handled one after another. And whoever looks at an authorization keeps the read locks of
// the challenges that are not shown, on which the validation then waits: they are given back.
func untangled(store *db.MemoryStore, next http.Handler) http.Handler {
	var turn sync.Mutex
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		turn.Lock()
		defer turn.Unlock()
		defer watch(r.URL.Path).Stop()
		authorization := store.GetAuthorizationByID(strings.TrimPrefix(r.URL.Path, Authz))
		if authorization == nil {
			next.ServeHTTP(w, r)
			return
		}
		answer := httptest.NewRecorder()
		next.ServeHTTP(answer, r)
		var shown struct {
			Challenges []struct{ URL string }
		}
		if err := json.Unmarshal(answer.Body.Bytes(), &shown); err == nil && answer.Code == http.StatusOK {
			for _, challenge := range authorization.Challenges {
				if !slices.ContainsFunc(shown.Challenges, func(c struct{ URL string }) bool { return c.URL == challenge.URL }) {
					challenge.RUnlock()
				}
			}
		}
		maps.Copy(w.Header(), answer.Header())
		w.WriteHeader(answer.Code)
		// A client that hung up does not read it.
		_, _ = w.Write(answer.Body.Bytes())
	})
}

// forgetful keeps Pebble from using an authorization again where it is to use none: by itself it does with one in a hundred. What was
// proven for an earlier order is renamed, so that it is not found for the next.
func forgetful(store *db.MemoryStore, options Options, next http.Handler) http.Handler {
	if options.AuthzReuse > 0 {
		return next
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Method == http.MethodPost && r.URL.Path == NewOrder {
			body, err := io.ReadAll(io.LimitReader(r.Body, 1<<20))
			if err == nil {
				forget(store, body)
			}
			r.Body = io.NopCloser(bytes.NewReader(body))
		}
		next.ServeHTTP(w, r)
	})
}

// forget renames the valid authorizations of an account for the names that a request orders.
func forget(store *db.MemoryStore, request []byte) {
	var signed struct{ Protected, Payload string }
	var header struct{ Kid string }
	var order struct{ Identifiers []pebble.Identifier }
	decode := func(text string, into any) bool {
		plain, err := base64.RawURLEncoding.DecodeString(text)
		return err == nil && json.Unmarshal(plain, into) == nil
	}
	if json.Unmarshal(request, &signed) != nil || !decode(signed.Protected, &header) || !decode(signed.Payload, &order) {
		return // which Pebble says
	}
	account := header.Kid[strings.LastIndexByte(header.Kid, '/')+1:]
	for _, identifier := range order.Identifiers {
		for authorization := store.FindValidAuthorization(account, identifier); authorization != nil; authorization = store.FindValidAuthorization(account, identifier) {
			authorization.Lock()
			authorization.Identifier.Value = "proven-before." + authorization.Identifier.Value
			authorization.Unlock()
		}
	}
}

// watch ends the test when Pebble does not answer at all: a validation that takes its locks in another order than a request can
// still meet it, once in some hundred thousand failing orders.
func watch(path string) *time.Timer {
	return time.AfterFunc(time.Minute, func() {
		stacks := make([]byte, 4<<20)
		panic(fmt.Sprintf("acmetest: Pebble locked itself up at %s\n%s", path, stacks[:runtime.Stack(stacks, true)]))
	})
}

// withoutZeroRetryAfter drops the header that Pebble sends when it is told to send none: "0", or the present second.
func withoutZeroRetryAfter(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		next.ServeHTTP(&headerFilter{ResponseWriter: w}, r)
	})
}

type headerFilter struct {
	http.ResponseWriter
	wrote bool
}

func (f *headerFilter) WriteHeader(status int) {
	if !f.wrote {
		f.wrote = true
		value := f.Header().Get("Retry-After")
		at, err := http.ParseTime(value)
		if value == "0" || err == nil && time.Until(at) <= 0 {
			f.Header().Del("Retry-After")
		}
	}
	f.ResponseWriter.WriteHeader(status)
}

func (f *headerFilter) Write(p []byte) (int, error) {
	if !f.wrote {
		f.WriteHeader(http.StatusOK)
	}
	return f.ResponseWriter.Write(p)
}

func (c *CA) middleware(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		c.mu.Lock()
		c.requests = append(c.requests, Request{r.Method, r.URL.Path})
		handler, now := c.handler, c.now
		c.mu.Unlock()
		if now != nil {
			w.Header().Set("Date", now().UTC().Format(http.TimeFormat))
		}
		if r.URL.Path == NewOrder {
			watch := &statusWatcher{ResponseWriter: w}
			defer func() {
				c.mu.Lock()
				defer c.mu.Unlock()
				if watch.status == http.StatusCreated {
					c.orders++
				}
			}()
			w = watch
		}
		if handler != nil {
			handler(w, r, next)
			return
		}
		next.ServeHTTP(w, r)
	})
}

// statusWatcher remembers what was answered.
type statusWatcher struct {
	http.ResponseWriter
	status int
}

func (s *statusWatcher) WriteHeader(status int) {
	s.status = status
	s.ResponseWriter.WriteHeader(status)
}

// Orders counts the orders that the CA made; a request for one that it refused made none.
func (c *CA) Orders() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.orders
}

// Intercept puts a handler before the CA's own, which is next; nil takes it away.
func (c *CA) Intercept(handler func(w http.ResponseWriter, r *http.Request, next http.Handler)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.handler = handler
}

// SetClock has the CA say what time it is by another clock than the system's, by which it goes on issuing; nil takes that away.
func (c *CA) SetClock(now func() time.Time) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.now = now
}

// Requests are all that the CA got so far.
func (c *CA) Requests() []Request {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.requests)
}

// Count counts the requests to the CA whose path contains part.
func (c *CA) Count(part string) int {
	n := 0
	for _, request := range c.Requests() {
		if strings.Contains(request.Path, part) {
			n++
		}
	}
	return n
}

// The parts of Pebble's paths, for Count and Intercept.
const (
	NewOrder    = "/order-plz"
	NewAccount  = "/sign-me-up"
	NewNonce    = "/nonce-plz"
	Finalize    = "/finalize-order/"
	Order       = "/my-order/"
	Authz       = "/authZ/"
	Challenge   = "/chalZ/"
	Certificate = "/certZ/"
	RenewalInfo = "/draft-ietf-acme-ari"
)

// Issued are the serial numbers of all certificates issued so far, in order.
func (c *CA) Issued() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.issued)
}

var issuedLine = regexp.MustCompile(`^Issued certificate serial ([0-9a-f]+) for order`)

// logWatcher reads Pebble's log, the only place where it says what it issued.
type logWatcher struct{ ca *CA }

func (l logWatcher) Write(p []byte) (int, error) {
	if match := issuedLine.FindSubmatch(p); match != nil {
		l.ca.mu.Lock()
		defer l.ca.mu.Unlock()
		l.ca.issued = append(l.ca.issued, string(match[1]))
	}
	return len(p), nil
}

// DirectoryRoot is the root, as PEM, that the directory's own server certificate verifies with.
func (c *CA) DirectoryRoot() []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.server.Certificate().Raw})
}

// Root is the n-th root, as PEM, that issued certificates lead to; 0 is the one of the default chain.
func (c *CA) Root(n int) []byte {
	return pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: c.ca.GetRootCert(n).DER})
}

// Pool makes a pool of PEM certificates.
func Pool(text ...[]byte) *x509.CertPool {
	pool := x509.NewCertPool()
	for _, one := range text {
		if !pool.AppendCertsFromPEM(one) {
			panic("acmetest: no certificate in the PEM")
		}
	}
	return pool
}

// SetRenewalInfo makes the CA answer any text when asked for a certificate's renewal information.
func (c *CA) SetRenewalInfo(cert *x509.Certificate, response string) error {
	body, err := json.Marshal(map[string]string{
		"certificate": string(pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: cert.Raw})),
		"ariResponse": response,
	})
	if err != nil {
		return err
	}
	req := httptest.NewRequest(http.MethodPost, "/set-renewal-info/", bytes.NewReader(body))
	req.Header.Set("User-Agent", "acmetest")
	recorder := httptest.NewRecorder()
	c.manage.ServeHTTP(recorder, req)
	if recorder.Code != http.StatusOK {
		return fmt.Errorf("set-renewal-info: %d: %s", recorder.Code, recorder.Body)
	}
	return nil
}

// IsRevoked tells whether the CA revoked a certificate.
func (c *CA) IsRevoked(cert *x509.Certificate) bool {
	req := httptest.NewRequest(http.MethodGet, "/cert-status-by-serial/"+cert.SerialNumber.Text(16), nil)
	req.Header.Set("User-Agent", "acmetest")
	recorder := httptest.NewRecorder()
	c.manage.ServeHTTP(recorder, req)
	return strings.Contains(recorder.Body.String(), "Revoked")
}

// RenewalWindow is a well-formed renewal information document.
func RenewalWindow(start, end time.Time) string {
	return fmt.Sprintf(`{"suggestedWindow":{"start":%q,"end":%q}}`, start.UTC().Format(time.RFC3339), end.UTC().Format(time.RFC3339))
}

// Paths lists the paths of requests with how often each came, for a test's message.
func Paths(requests []Request) string {
	counts := map[string]int{}
	for _, request := range requests {
		counts[request.Method+" "+request.Path]++
	}
	var lines []string
	for _, path := range slices.Sorted(maps.Keys(counts)) {
		lines = append(lines, fmt.Sprintf("%s ×%d", path, counts[path]))
	}
	return strings.Join(lines, "\n")
}
