package challenge

import (
	"cmp"
	"context"
	"crypto"
	"crypto/rand"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"maascert/internal/hint"
	"maascert/internal/jwk"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Responder answers http-01 challenges (RFC 8555 section 8.3) statelessly: the answer to a token is the token and the
// account key's thumbprint, so it needs to know no token, and any host that knows the thumbprint can answer for any
// order. It listens while an order needs it, or it stands by for other hosts' orders. It is safe for concurrent use.
//
// Several runs on one host share the address without a moment in which nobody answers: the one that has it keeps it while
// another one on this host goes on asking for it, and the other one takes it over when it is free.
//
// The answers for another account than that of the fleet (a rehearsal's before there is one, or the new one in the middle of a
// rollover) are published one by one.
type Responder struct {
	Address string       // where to listen, ":80" for example
	Listen  world.Listen // nil: net.Listen
	Dial    world.Dial   // nil: the network; to see who answers when the address is taken
	Fleet   Fleet        // whose orders StandBy answers for; nil: there is none

	mu       sync.Mutex
	users    int  // orders of this process
	standing bool // it answers for the fleet's
	server   *http.Server
	own      map[string]shown // by token, what this process's orders have made visible
	answers  string           // the thumbprint that any other token is answered with while there are users
	strange  map[string]bool  // thumbprints of users that the fleet does not answer with
	known    latest[Known]    // by the fleet
	done     chan struct{}
	borrowed atomic.Int64 // when another run on this host asked last, in nanoseconds since 1970
}

// shown is an answer that an order has made visible.
type shown struct {
	thumbprint  string
	isPublished bool // for the other hosts as well
}

const Path = "/.well-known/acme-challenge/"

var _ Solver = (*Responder)(nil)

// Type is http-01.
func (r *Responder) Type() string { return "http-01" }

func (r *Responder) Lasts() bool { return false }

func (r *Responder) Remedy() string {
	return "the CA must reach this host under each name on port 80, path " + Path + "; check DNS, firewall and acme.challenge.listen"
}

func (r *Responder) Place(context.Context, string) (string, error) { return "", nil }

// Present has little to do but to see that somebody answers: any token is answered.
func (r *Responder) Present(ctx context.Context, p Proof) error {
	r.mu.Lock()
	if r.own == nil {
		r.own = map[string]shown{}
	}
	isStrange := r.strange[p.Thumbprint]
	r.own[p.Token] = shown{p.Thumbprint, isStrange}
	r.mu.Unlock()
	if isStrange {
		// That whoever has the address looks at what is published was seen when this was opened.
		return wrap(r.Fleet.Publish(ctx, r.Type(), p))
	}
	_, err := r.answered(ctx, p.Thumbprint, 0)
	return err
}

func (r *Responder) Retract(ctx context.Context, p Proof) error {
	r.mu.Lock()
	was := r.own[p.Token]
	delete(r.own, p.Token)
	r.mu.Unlock()
	if was.isPublished {
		return wrap(r.Fleet.Withdraw(ctx, r.Type(), p))
	}
	return nil
}

func wrap(err error) error {
	if err != nil {
		return fmt.Errorf("http-01: %w", err)
	}
	return nil
}

// Open makes sure that challenges are answered until release is called. An address that is taken is fine when whoever
// has it answers with our thumbprint.
func (r *Responder) Open(ctx context.Context, account crypto.PublicKey) (release func(), err error) {
	thumbprint, err := ThumbprintOf(account)
	if err != nil {
		return nil, err
	}
	r.meet(ctx, thumbprint)
	ours, err := r.answered(ctx, thumbprint, 1)
	if err != nil {
		return nil, err
	}
	if !ours {
		return r.borrow(ctx, thumbprint), nil
	}
	return sync.OnceFunc(func() { r.release(ctx) }), nil
}

// meet finds out whether the fleet answers with a thumbprint. While it cannot be asked it is taken to: the CA will tell.
func (r *Responder) meet(ctx context.Context, thumbprint string) {
	if r.Fleet == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	known, err := r.Fleet.Known(ctx)
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.strange == nil {
		r.strange = map[string]bool{}
	}
	r.strange[thumbprint] = err == nil && string(known.Thumbprint) != thumbprint
}

// answerPatience bounds the tries for an address that somebody has who does not answer: he may be about to leave.
const answerPatience = 2 * time.Second

// answered makes sure that somebody answers at the address now, and tells whether it is us; then so many users come to those
// that we have. Without a new user nobody starts to listen: whoever borrows the address does that.
func (r *Responder) answered(ctx context.Context, thumbprint string, newUsers int) (ours bool, err error) {
	for deadline := time.Now().Add(answerPatience); ; {
		r.mu.Lock()
		err = syscall.EADDRINUSE
		if r.server == nil && newUsers > 0 {
			err = r.start(thumbprint)
		}
		if r.standing && r.users == 0 && newUsers > 0 {
			r.answers = thumbprint
		}
		if ours = r.server != nil; ours {
			r.users += newUsers
		}
		isStrange := r.strange[thumbprint]
		r.mu.Unlock()
		switch {
		case ours:
			return true, nil
		case !errors.Is(err, syscall.EADDRINUSE):
		case r.answersAlready(ctx, thumbprint), isStrange && r.answersPublished(ctx, thumbprint):
			return false, nil
		case time.Now().Before(deadline):
			if err := world.Sleep(ctx, borrowLook); err != nil {
				return false, err
			}
			continue
		}
		return false, r.explain(err)
	}
}

// explain says who has the address, and what can be done about that.
func (r *Responder) explain(err error) error {
	if !errors.Is(err, syscall.EADDRINUSE) {
		return hint.Add(fmt.Errorf("http-01: %w", err), "run as a user that may listen there, or set the challenge's listen to an address of this host")
	}
	if who := world.Listener(r.Address); who != "" {
		err = fmt.Errorf("%w: %s has it", err, printable.Phrase(who))
	}
	return hint.Add(fmt.Errorf("http-01: %w", err),
		"have it answer (maascert account snippet haproxy|nginx|apache), or set the challenge's webroot to the folder that it serves, or end it")
}

// borrow uses the address of somebody who answers as we would. Asking him all the time keeps him there; should he end all
// the same, the address is taken over as soon as it is free. Who stands by for the fleet is not asked for what it does not know.
func (r *Responder) borrow(ctx context.Context, thumbprint string) (release func()) {
	asking, stop := context.WithCancel(context.WithoutCancel(ctx))
	done := make(chan struct{})
	taken := false
	go func() {
		defer close(done)
		for world.Sleep(asking, borrowLook) == nil {
			r.mu.Lock()
			tries := r.server != nil || r.strange[thumbprint]
			r.mu.Unlock()
			if !tries && r.answersAlready(asking, thumbprint) {
				continue
			}
			r.mu.Lock()
			if asking.Err() == nil && (r.server != nil || r.start(thumbprint) == nil) {
				r.users++
				taken = true
			}
			r.mu.Unlock()
			if taken {
				return
			}
		}
	}()
	return sync.OnceFunc(func() {
		stop()
		<-done
		if taken {
			r.release(ctx)
		}
	})
}

const (
	// borrowLook is how often a borrowed address is asked.
	borrowLook = 20 * time.Millisecond
	// lingerTime is how long after a borrower's last question the address is free, and longestLinger how long it is kept
	// for borrowers at the most.
	lingerTime    = 10 * borrowLook
	longestLinger = time.Minute
	// answerTime is how long one question and its answer may take.
	answerTime = 3 * time.Second
)

func (r *Responder) start(thumbprint string) error {
	listen := r.Listen
	if listen == nil {
		listen = net.Listen
	}
	listener, err := listen("tcp", r.Address)
	if err != nil {
		return err
	}
	r.borrowed.Store(0)
	server := &http.Server{
		Handler: r.handler(), ReadHeaderTimeout: answerTime, ReadTimeout: answerTime, WriteTimeout: answerTime, MaxHeaderBytes: 16 << 10,
		ErrorLog: log.New(io.Discard, "", 0), // what strangers send is no news
	}
	// A validator asks once; whoever keeps a connection keeps others out.
	server.SetKeepAlivesEnabled(false)
	r.server, r.answers, r.done = server, thumbprint, make(chan struct{})
	go func(done chan struct{}) {
		defer close(done)
		// Serve ends with ErrServerClosed; a listener that breaks shows as a failed validation.
		_ = server.Serve(newCrowd(listener))
	}(r.done)
	return nil
}

// release stops answering when nobody needs it any more. While another run on this host goes on asking, it goes on
// answering, unless the run is interrupted.
func (r *Responder) release(ctx context.Context) {
	for deadline := time.Now().Add(longestLinger); ; {
		r.mu.Lock()
		asked := time.Unix(0, r.borrowed.Load())
		if r.users > 1 || r.standing || time.Since(asked) > lingerTime || time.Now().After(deadline) || ctx.Err() != nil {
			break
		}
		r.mu.Unlock()
		if world.Sleep(ctx, borrowLook) != nil {
			continue
		}
	}
	defer r.mu.Unlock()
	if r.users--; r.users == 0 && !r.standing {
		r.stop()
	}
}

// StandBy answers for the account of the fleet, whichever host orders.
func (r *Responder) StandBy() (release func(), err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.server == nil {
		if err := r.start(""); err != nil {
			return nil, hint.Add(fmt.Errorf("http-01: %w", err), "free the address; or have whoever holds it answer: maascert account snippet haproxy")
		}
	}
	r.standing = true
	return sync.OnceFunc(func() {
		r.mu.Lock()
		defer r.mu.Unlock()
		if r.standing = false; r.users == 0 {
			r.stop()
		}
	}), nil
}

// IsAnswered asks whoever has the address.
func (r *Responder) IsAnswered(ctx context.Context) bool {
	thumbprint := r.known.get(ctx, r.Fleet.Known).Thumbprint
	return thumbprint != "" && r.answersAlready(ctx, string(thumbprint))
}

// thumbprint is what a token is answered with now; empty: nobody knows one.
func (r *Responder) thumbprint(ctx context.Context, token string) string {
	r.mu.Lock()
	own, answers, standing := r.own[token].thumbprint, r.answers, r.standing
	if r.users == 0 && standing {
		answers = ""
	}
	r.mu.Unlock()
	if own != "" || !standing {
		return cmp.Or(own, answers)
	}
	known := r.known.get(ctx, r.Fleet.Known)
	for _, p := range known.Published[r.Type()] {
		if p.Token == token {
			return p.Thumbprint
		}
	}
	return cmp.Or(string(known.Thumbprint), answers)
}

// stop stops answering; the caller holds the mutex.
func (r *Responder) stop() {
	// Nothing is left to lose when closing fails.
	_ = r.server.Close()
	<-r.done
	r.server = nil
}

// tokens are base64url (RFC 8555 section 8.3); the longest seen have 43 characters.
var tokens = regexp.MustCompile(`^[A-Za-z0-9_-]{1,128}$`)

// IsToken tells whether a text can be a challenge's token.
func IsToken(text string) bool { return tokens.MatchString(text) }

// Thumbprint identifies an account key (RFC 7638), as the answer to a challenge has it.
type Thumbprint string

// thumbprints are the base64url of a SHA-256.
var thumbprints = regexp.MustCompile(`^[A-Za-z0-9_-]{43}$`)

// IsValid tells whether the text can be a thumbprint.
func (t Thumbprint) IsValid() bool { return thumbprints.MatchString(string(t)) }

// Respond answers http-01 challenges for an account on an address until the context ends. It needs no key: the answer to
// a token is the token and the thumbprint.
func Respond(ctx context.Context, listen world.Listen, address string, thumbprint Thumbprint) error {
	r := &Responder{Address: address, Listen: listen}
	if err := r.start(string(thumbprint)); err != nil {
		return hint.Add(fmt.Errorf("http-01: %w", err), "free the address, run as a user that may listen there, or name another with --listen")
	}
	select {
	case <-ctx.Done():
	case <-r.done:
		return errors.New("http-01: the listener broke")
	}
	r.stop()
	return nil
}

// Snippet is a proxy's configuration that answers http-01 for an account statelessly, so that any host that runs the
// proxy can answer for any order. The kinds are haproxy (2.2 or later), nginx and apache (2.4).
func Snippet(kind string, thumbprint Thumbprint) (string, bool) {
	text, ok := snippets[kind]
	return strings.ReplaceAll(text, "THUMBPRINT", string(thumbprint)), ok
}

// SnippetKinds are the proxies that there are snippets for.
var SnippetKinds = []string{"haproxy", "nginx", "apache"}

var snippets = map[string]string{
	"haproxy": `# In the frontend that listens on port 80.
acl acme_challenge path_reg ^/\.well-known/acme-challenge/[A-Za-z0-9_-]+$
http-request return status 200 content-type application/octet-stream lf-string "%[path,field(4,/)].THUMBPRINT" if acme_challenge
`,
	"nginx": `# In the server that listens on port 80.
location ~ "^/\.well-known/acme-challenge/([A-Za-z0-9_-]+)$" {
    default_type application/octet-stream;
    return 200 "$1.THUMBPRINT";
}
`,
	"apache": `# In the virtual host that listens on port 80; needs mod_rewrite.
<LocationMatch "^/\.well-known/acme-challenge/(?<token>[A-Za-z0-9_-]+)$">
    ErrorDocument 200 "%{env:MATCH_TOKEN}.THUMBPRINT"
    RewriteEngine On
    RewriteRule "" "-" [R=200,L]
</LocationMatch>
`,
}

// borrower names another run on this host, as User-Agent, when it asks whether somebody answers for its account. One with
// another account waits for the address and cannot borrow it.
func borrower(thumbprint string) string { return "maascert-borrower " + thumbprint }

func (r *Responder) handler() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+Path+"{token}", func(w http.ResponseWriter, req *http.Request) {
		token, thumbprint := req.PathValue("token"), ""
		if IsToken(token) {
			thumbprint = r.thumbprint(req.Context(), token)
		}
		if thumbprint == "" {
			http.NotFound(w, req)
			return
		}
		if req.UserAgent() == borrower(thumbprint) && isFromHere(req) {
			r.borrowed.Store(time.Now().UnixNano())
		}
		w.Header().Set("Content-Type", "application/octet-stream")
		w.Header().Set("X-Content-Type-Options", "nosniff")
		// A validator that hung up does not read the answer.
		_, _ = io.WriteString(w, token+"."+thumbprint)
	})
	return mux
}

// isFromHere tells whether a request comes from this host: from an address to which it is sent.
func isFromHere(req *http.Request) bool {
	local, ok := req.Context().Value(http.LocalAddrContextKey).(net.Addr)
	if !ok {
		return false
	}
	to, _, toErr := net.SplitHostPort(local.String())
	from, _, fromErr := net.SplitHostPort(req.RemoteAddr)
	return toErr == nil && fromErr == nil && to == from
}

// answersAlready asks whoever listens at the address for the answer to a token nobody knows.
func (r *Responder) answersAlready(ctx context.Context, thumbprint string) bool {
	return r.gives(ctx, rand.Text(), thumbprint)
}

// answersPublished asks whoever listens at the address for an answer that was published.
func (r *Responder) answersPublished(ctx context.Context, thumbprint string) bool {
	p := Proof{Token: rand.Text(), Thumbprint: thumbprint}
	if r.Fleet.Publish(ctx, r.Type(), p) != nil {
		return false
	}
	defer func() {
		// It proves nothing to anybody, and is not given for long.
		_ = r.Fleet.Withdraw(context.WithoutCancel(ctx), r.Type(), p)
	}()
	return r.gives(ctx, p.Token, thumbprint)
}

// gives asks whoever listens at the address for the answer to a token.
func (r *Responder) gives(ctx context.Context, token, thumbprint string) bool {
	address, ok := localAddress(r.Address)
	if !ok {
		return false
	}
	ctx, cancel := context.WithTimeout(ctx, answerTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+address+Path+token, nil)
	if err != nil {
		return false
	}
	req.Header.Set("User-Agent", borrower(thumbprint))
	transport := &http.Transport{DialContext: r.Dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10}
	resp, err := transport.RoundTrip(req)
	if err != nil {
		return false
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	return err == nil && string(body) == token+"."+thumbprint
}

// localAddress is where this host reaches who listens at an address; false for none.
func localAddress(listened string) (string, bool) {
	host, port, err := net.SplitHostPort(listened)
	if err != nil {
		return "", false
	}
	if host == "" || net.ParseIP(host).IsUnspecified() {
		host = "127.0.0.1"
	}
	return net.JoinHostPort(host, port), true
}

// ThumbprintOf is the account key's (RFC 7638), base64url.
func ThumbprintOf(public crypto.PublicKey) (string, error) {
	sum, err := jwk.Thumbprint(public)
	if err != nil {
		return "", err
	}
	return base64.RawURLEncoding.EncodeToString(sum[:]), nil
}
