package acme

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	lego "github.com/go-acme/lego/v4/acme"

	"maascert/internal/printable"
)

const (
	// requestTime is how long one request to the CA may take.
	requestTime = 30 * time.Second
	// maxBody is how many bytes of an answer are read; the longest that a CA sends is a certificate chain.
	maxBody = 256 << 10
	// maxHeader is how many bytes the headers of an answer may have.
	maxHeader = 64 << 10
	// maxLinks is how many Link headers of an answer are looked at, each of which may name another chain.
	maxLinks = 10
	// sideBySide is how many requests of one order are under way at the same time.
	sideBySide = 50
)

// transport carries the requests of lego's acme/api and adds what that lacks: the context, a bound on time
// and size, the Retry-After that Orders.Get drops, a count, a directory that is fetched once, and words for an answer
// that is no ACME at all. One transport serves one session.
type transport struct {
	client   *Client
	ctx      context.Context
	requests atomic.Int64
	quickest atomic.Int64 // nanoseconds that the quickest request took; 0 for none yet

	nonces       atomic.Pointer[nonces] // fetched ahead; nil: none
	nonceFailure atomic.Pointer[error]  // why the last request for a nonce failed; nil: it did not

	retryAfter sync.Map // URL to the time.Time of the last answer's Retry-After
}

// RoundTrip also remembers why there is no nonce: what signs requests drops that.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	if nonce, taken := t.nonces.Load().take(t.ctx, req); taken {
		return reply(req, http.StatusOK, http.Header{"Replay-Nonce": {nonce}}, nil), nil
	}
	resp, err := t.roundTrip(req.WithContext(t.ctx))
	if req.Method == http.MethodHead {
		failure := err
		if err == nil && resp.StatusCode >= http.StatusBadRequest {
			failure = &lego.ProblemDetails{HTTPStatus: resp.StatusCode, Detail: printable.Phrase(resp.Status), URL: req.URL.String()}
		}
		if failure == nil {
			t.nonceFailure.Store(nil)
		} else {
			t.nonceFailure.Store(&failure)
		}
	}
	return resp, err
}

// roundTrip sends a request, whose context ends it.
func (t *transport) roundTrip(req *http.Request) (*http.Response, error) {
	address := req.URL.String()
	if req.URL.Scheme != "https" {
		return nil, fmt.Errorf("the CA names a URL that is no https (RFC 8555 section 6.1): %s", printable.Phrase(address))
	}
	isDirectory := req.Method == http.MethodGet && address == t.client.config.Directory
	if isDirectory {
		if body := t.client.freshDirectory(); body != nil {
			return reply(req, http.StatusOK, http.Header{"Content-Type": {"application/json"}}, body), nil
		}
	}
	ctx, cancel := context.WithTimeout(req.Context(), requestTime)
	defer cancel()
	t.requests.Add(1)
	begun := time.Now()
	resp, err := t.client.base.RoundTrip(req.WithContext(ctx))
	t.client.observe(resp)
	if err != nil {
		t.client.logRequest(req, 0, time.Since(begun), err.Error())
		return nil, errors.Join(context.Cause(req.Context()), err)
	}
	t.took(time.Since(begun))
	t.client.noteDate(resp.Header)
	if links := resp.Header["Link"]; len(links) > maxLinks {
		resp.Header["Link"] = links[:maxLinks]
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, maxBody+1))
	problem := ""
	if resp.StatusCode >= http.StatusBadRequest {
		problem = string(body)
	}
	t.client.logRequest(req, resp.StatusCode, time.Since(begun), problem)
	if err != nil {
		return nil, errors.Join(context.Cause(req.Context()), err)
	}
	if len(body) > maxBody {
		return nil, fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	if resp.StatusCode >= 300 && resp.StatusCode < 400 {
		// Whoever follows it would take what is signed for this CA to another host.
		return nil, fmt.Errorf("the CA redirects (%s), which is not followed", printable.Phrase(resp.Status))
	}
	if at, ok := parseRetryAfter(resp.Header.Get("Retry-After"), t.client.config.Now()); ok {
		t.retryAfter.Store(address, at)
	} else {
		t.retryAfter.Delete(address)
	}
	status, body := normalize(resp, body)
	if isDirectory && status == http.StatusOK && isWholeDirectory(body) {
		t.client.keepDirectory(body)
	}
	return reply(req, status, resp.Header, body), nil
}

// logRequest tells the log of a request and its answer; of what was sent it tells nothing but where to. status 0: there was no answer.
func (c *Client) logRequest(req *http.Request, status int, took time.Duration, problem string) {
	if c.config.Log == nil {
		return
	}
	fields := []any{"method", req.Method, "url", printable.Phrase(req.URL.String()), "status", status, "took", took.Round(time.Millisecond)}
	if problem != "" {
		fields = append(fields, "problem", printable.Text(problem))
	}
	c.config.Log.Debug("request to the CA", fields...)
}

// observe tells of an answer, or of none. The host is the directory's: a CA may name any number of others.
func (c *Client) observe(resp *http.Response) {
	if c.config.Observe == nil {
		return
	}
	status, host := 0, ""
	if resp != nil {
		status = resp.StatusCode
	}
	if directory, err := url.Parse(c.config.Directory); err == nil {
		host = directory.Host
	}
	c.config.Observe(host, status)
}

func (t *transport) took(d time.Duration) {
	for {
		quickest := t.quickest.Load()
		if quickest != 0 && quickest <= int64(d) || t.quickest.CompareAndSwap(quickest, int64(d)) {
			return
		}
	}
}

// trip is about what the network takes to the CA and back.
func (t *transport) trip() time.Duration { return time.Duration(t.quickest.Load()) }

// wait returns the pause that the last answer from a URL asked for, if it did.
func (t *transport) wait(url string) (time.Duration, bool) {
	at, ok := t.retryAfter.Load(url)
	if !ok {
		return 0, false
	}
	return max(0, at.(time.Time).Sub(t.client.config.Now())), true
}

func (c *Client) freshDirectory() []byte {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.directory == nil || c.config.Now().Sub(c.directory.fetched) > directoryAge {
		return nil
	}
	return c.directory.body
}

// isWholeDirectory tells whether a document can be worked with for the next hour.
func isWholeDirectory(body []byte) bool {
	var directory lego.Directory
	return json.Unmarshal(body, &directory) == nil && directory.NewNonceURL != "" && directory.NewAccountURL != "" && directory.NewOrderURL != ""
}

func (c *Client) keepDirectory(body []byte) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.directory = &cachedDirectory{body: body, fetched: c.config.Now()}
}

func reply(req *http.Request, status int, header http.Header, body []byte) *http.Response {
	return &http.Response{
		StatusCode: status, Status: strconv.Itoa(status) + " " + http.StatusText(status),
		Proto: "HTTP/1.1", ProtoMajor: 1, ProtoMinor: 1,
		Header: header, Body: io.NopCloser(bytes.NewReader(body)), ContentLength: int64(len(body)), Request: req,
	}
}

// normalize turns an answer that is no ACME, such as a proxy's error page, into a problem document (RFC 7807) that says
// so in one line, and hides badNonce from lego: its retries pause up to five seconds and give up after twenty, where
// signing again with the nonce that came along (RFC 8555 section 6.5) costs one round trip.
func normalize(resp *http.Response, body []byte) (status int, _ []byte) {
	kind, _, _ := mime.ParseMediaType(resp.Header.Get("Content-Type"))
	isJSON := strings.HasSuffix(kind, "json")
	if resp.StatusCode >= http.StatusBadRequest {
		var problem lego.ProblemDetails
		if !isJSON || json.Unmarshal(body, &problem) != nil {
			problem = lego.ProblemDetails{Detail: fmt.Sprintf("%s (%s, not an ACME answer)", resp.Status, kindWords(kind))}
		}
		if problem.Type == lego.BadNonceErr {
			problem.Type = badNonce
		}
		if strings.TrimPrefix(problem.Type, urn) == "userActionRequired" {
			problem.Detail += actionRequired(resp.Header, problem.Instance)
		}
		problem.HTTPStatus = resp.StatusCode
		return resp.StatusCode, mustJSON(problem)
	}
	isChain := strings.HasPrefix(kind, "application/pem")
	if resp.Request.Method == http.MethodHead || len(body) == 0 || isChain || isJSON && json.Valid(body) {
		return resp.StatusCode, body
	}
	return http.StatusNotAcceptable, mustJSON(lego.ProblemDetails{
		HTTPStatus: http.StatusNotAcceptable, Detail: fmt.Sprintf("not an ACME answer: %s", kindWords(kind)),
	})
}

// actionRequired names the page that a person has to visit before the CA goes on (RFC 8555 section 7.3.3).
func actionRequired(header http.Header, instance string) string {
	var words strings.Builder
	for _, link := range header.Values("Link") {
		if url, rest, ok := strings.Cut(strings.TrimPrefix(link, "<"), ">"); ok && strings.Contains(rest, `"terms-of-service"`) {
			words.WriteString("; the terms of service: " + url)
		}
	}
	if instance != "" {
		words.WriteString("; visit: " + instance)
	}
	return words.String()
}

func kindWords(kind string) string {
	if kind == "" {
		return "no content type"
	}
	return kind
}

func mustJSON(problem lego.ProblemDetails) []byte {
	// A struct of strings and numbers always marshals.
	text, _ := json.Marshal(problem)
	return text
}

// parseRetryAfter reads both forms of Retry-After (RFC 9110 section 10.2.3): seconds and a date.
func parseRetryAfter(value string, now time.Time) (time.Time, bool) {
	if seconds, err := strconv.Atoi(strings.TrimSpace(value)); err == nil && seconds >= 0 {
		return now.Add(time.Duration(min(seconds, 10*365*24*3600)) * time.Second), true
	}
	if at, err := http.ParseTime(value); err == nil {
		return at, true
	}
	return time.Time{}, false
}
