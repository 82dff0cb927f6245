package maasapi

import (
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/juju/gomaasapi/v2"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

// transport carries the requests of one call. The library above it knows no context, follows redirects, sleeps for as long as a server
// likes, reads without end, and puts the answers to a refused key into its errors: all that ends here.
type transport struct {
	client *Client
	ctx    context.Context
	most   int64 // bytes of an answer

	key        Key
	cut        bool // the connection failed
	retryAfter time.Duration
	skew       time.Duration // by how much MAAS's clock is ahead of ours, by the answer to a refused key
}

// errMoved says that the API answers elsewhere now.
var errMoved = errors.New("it redirects to another place")

// RoundTrip sends one request.
func (t *transport) RoundTrip(request *http.Request) (*http.Response, error) {
	ctx, cancel := t.client.within(t.ctx)
	began := time.Now()
	response, err := t.client.transport().RoundTrip(request.WithContext(ctx))
	t.client.logRequest(request, response, time.Since(began), err)
	if err != nil {
		t.cut = ctx.Err() == nil
		if !t.cut {
			err = context.Cause(ctx)
		}
		cancel()
		return nil, err
	}
	response.Body = &bounded{Reader: io.LimitReader(response.Body, t.most+1), body: response.Body, left: t.most, ctx: ctx, cancel: cancel}
	if seconds, err := strconv.Atoi(response.Header.Get("Retry-After")); err == nil && seconds > 0 && seconds < 3600 {
		t.retryAfter = time.Duration(seconds) * time.Second
	}
	response.Header.Del("Retry-After") // the library would sleep
	switch {
	case response.StatusCode >= 300 && response.StatusCode < 400:
		err = errMoved
	case response.StatusCode == http.StatusUnauthorized:
		if said, parseErr := http.ParseTime(response.Header.Get("Date")); parseErr == nil {
			t.skew = time.Until(said)
		}
		err = &Error{Status: response.StatusCode}
	case response.StatusCode < 300 && strings.HasPrefix(response.Header.Get("Content-Type"), "text/html"):
		err = errPage
	}
	if err != nil {
		// What it says is not read.
		_ = response.Body.Close()
		return nil, err
	}
	return response, nil
}

// logRequest tells the log of a request and its answer; of the key and of what was sent it tells nothing.
func (c *Client) logRequest(request *http.Request, response *http.Response, took time.Duration, err error) {
	if c.config.Log == nil {
		return
	}
	fields := []any{"method", request.Method, "url", printable.Phrase(request.URL.Redacted()), "took", took.Round(time.Millisecond)}
	if err != nil {
		fields = append(fields, "error", printable.Error(err))
	} else {
		fields = append(fields, "status", response.StatusCode)
	}
	c.config.Log.Debug("request to MAAS's API", fields...)
}

// within bounds one request and its answer.
func (c *Client) within(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeoutCause(ctx, c.config.Time, fmt.Errorf("no answer within %v", c.config.Time))
}

// errPage says that somebody answers who is no API.
var errPage = hint.Add(errors.New("it answers with a page (text/html), as MAAS's API never does"), "is maas.api.url MAAS's own, and does it end with /MAAS?")

// bounded is an answer's body, of which only so much is read.
type bounded struct {
	io.Reader
	body   io.Closer
	left   int64
	ctx    context.Context
	cancel func()
}

func (b *bounded) Read(p []byte) (int, error) {
	n, err := b.Reader.Read(p)
	if b.left -= int64(n); b.left < 0 {
		return 0, errors.New("it answers with more than it has to say")
	}
	if err != nil && !errors.Is(err, io.EOF) && b.ctx.Err() != nil {
		err = context.Cause(b.ctx)
	}
	return n, err
}

func (b *bounded) Close() error {
	defer b.cancel()
	return b.body.Close()
}

// transport makes one for one request. A connection is not kept: the certificate may change, and with it who may be asked.
func (c *Client) transport() *http.Transport {
	return &http.Transport{
		DialContext: c.config.Dial, DisableKeepAlives: true, MaxResponseHeaderBytes: 16 << 10, Proxy: nil,
		DialTLSContext: func(ctx context.Context, network, address string) (net.Conn, error) {
			conn, err := c.config.Dial(ctx, network, address)
			if err != nil {
				return nil, err
			}
			secure := tls.Client(conn, &tls.Config{
				ServerName: c.url.Hostname(), MinVersion: tls.VersionTLS12, InsecureSkipVerify: true, // VerifyConnection does
				VerifyConnection: func(state tls.ConnectionState) error { return c.verify(ctx, state) },
			})
			if err := secure.HandshakeContext(ctx); err != nil {
				// The handshake failed; there is nothing to lose.
				_ = conn.Close()
				return nil, err
			}
			if _, port, err := net.SplitHostPort(address); err == nil {
				c.spoken(c.at("https", port))
			}
			return secure, nil
		},
	}
}

// verify takes a certificate that clients trust under the URL's name, or one that MAAS is known to serve: when the served one has expired
// or its CA is not known, that is the one thing that tells MAAS from whoever took its port. One that is revoked is never taken.
func (c *Client) verify(ctx context.Context, state tls.ConnectionState) error {
	leaf, known := state.PeerCertificates[0], Unknown
	if c.config.Known != nil {
		known = c.config.Known(ctx, certstore.Fingerprint(leaf))
	}
	err := c.config.Trust.Check(leaf, state.PeerCertificates[1:])
	if err == nil {
		err = leaf.VerifyHostname(c.url.Hostname())
	}
	switch {
	case known == Revoked:
		return errors.New("nothing is sent to whoever serves this certificate: it is revoked, and others may have its key")
	case known == Untold:
		return errors.New("nothing is sent to whoever serves this certificate: whether it is revoked cannot be told, because the store cannot be read")
	case known == Ours, err == nil:
		return nil
	}
	return hint.Add(fmt.Errorf("nothing is sent to whoever serves this certificate: %s", printable.Phrase(err.Error())),
		"it is neither trusted for %s nor the one that MAAS is known to serve: set maas.api.url to a name that the certificate has, or ask this host's region (%s)", c.url.Hostname(), UsualURL)
}

// version asks who answers at a base URL, without the key. It returns where a redirect leads instead.
func (c *Client) version(ctx context.Context, base string) (version, location string, err error) {
	ctx, cancel := c.within(ctx)
	defer cancel()
	fail := func(err error) (string, string, error) {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return "", "", bare(err)
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, base+"/api/"+apiVersion+"/version/", nil)
	if err != nil {
		return fail(err)
	}
	response, err := c.transport().RoundTrip(request)
	if err != nil {
		return fail(err)
	}
	defer response.Body.Close()
	switch response.StatusCode {
	case http.StatusMovedPermanently, http.StatusFound, http.StatusTemporaryRedirect, http.StatusPermanentRedirect:
		return "", response.Header.Get("Location"), nil
	case http.StatusOK:
	default:
		return fail(&Error{Status: response.StatusCode})
	}
	if strings.HasPrefix(response.Header.Get("Content-Type"), "text/html") {
		return fail(errPage)
	}
	var answer struct {
		Version      *string  `json:"version"`
		Capabilities []string `json:"capabilities"`
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxAnswer+1))
	switch {
	case err != nil:
		return fail(err)
	case len(text) > maxAnswer:
		return fail(errors.New("it answers with more than it has to say"))
	case json.Unmarshal(text, &answer) != nil || answer.Version == nil:
		return fail(errNoJSON)
	}
	return printable.Phrase(*answer.Version), "", nil
}

// errNoJSON says that an answer could not be read.
var errNoJSON = hint.Add(errors.New("it answers with something else than MAAS's API would"), "is maas.api.url MAAS's own, and does it end with /MAAS?")

var errUnreachable = errors.New("it cannot be reached")

// bare takes from an error what the libraries wrap around it: addresses with their queries, and doubled words.
func bare(err error) error {
	if address, ok := errors.AsType[*url.Error](err); ok {
		err = address.Err
	}
	var op *net.OpError
	if errors.As(err, &op) && op.Op == "dial" {
		return fmt.Errorf("%w: %w", errUnreachable, op.Err)
	}
	return err
}

// explain makes an error of the libraries one of ours.
func (t *transport) explain(err error) error {
	if err == nil {
		return nil
	}
	err = bare(err)
	server, ok := gomaasapi.GetServerError(err)
	if ok || errors.As(err, &server) {
		err = &Error{Status: server.StatusCode, Words: t.harmless(wordsOf(server.BodyMessage, server.Header.Get("Content-Type")))}
	}
	var syntax *json.SyntaxError
	var mistyped *json.UnmarshalTypeError
	if errors.As(err, &syntax) || errors.As(err, &mistyped) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errNoJSON
	}
	var refused *Error
	switch {
	case !errors.As(err, &refused) && t.harmless(err.Error()) == "":
		return errors.New("its answer cannot be shown: something of the key is in it")
	case !errors.As(err, &refused):
		return err
	case refused.Status == http.StatusUnauthorized && t.skew > oldest:
		return hint.Add(err, "MAAS's clock is %v ahead of this host's, and takes nothing that is older than five minutes: set the clock", t.skew.Round(time.Second))
	case refused.Status == http.StatusUnauthorized:
		return hint.Add(err, "make another: maas apikey --username ADMIN --generate; write it where maas.api.key refers to")
	case refused.Status == http.StatusForbidden:
		return hint.Add(err, "maas.api.key must be an administrator's: maas apikey --username ADMIN")
	case refused.isBusy():
		return hint.Add(err, "regiond does not answer behind its proxy: is it running?")
	default:
		return err
	}
}

// harmless are words in which nothing of the key is: a proxy may repeat what it was sent.
func (t *transport) harmless(words string) string {
	if strings.Contains(words, "oauth_") || t.key.secret != "" && (strings.Contains(words, t.key.secret) || strings.Contains(words, t.key.token)) {
		return ""
	}
	return words
}

// oldest is how far this host's clock may be behind MAAS's (MAAS fact 4.1).
const oldest = 5*time.Minute - 10*time.Second
