package notify

import (
	"bytes"
	"context"
	"crypto/hmac"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"time"

	"maascert/internal/hint"
	"maascert/internal/secret"
	"maascert/internal/section"
)

// WebhookSection are the keys of a notifier of type webhook.
type WebhookSection struct {
	Keys `yaml:",inline"`
	URL  secret.Reference `yaml:"url"`  // where to post; it may hold a token, so it is a secret
	HMAC secret.Reference `yaml:"hmac"` // signs what is posted; empty: nothing does
	Root string           `yaml:"root,path"`

	url, hmac reader
	roots     *x509.CertPool
}

// Secrets are the references to secrets that there are.
func (s *WebhookSection) Secrets() []secret.Reference { return []secret.Reference{s.URL, s.HMAC} }

// Check finds what is wrong.
func (s *WebhookSection) Check(at section.Place) {
	s.check(at)
	s.url = readerOf(at, "url", s.URL)
	if s.HMAC != "" {
		s.hmac = readerOf(at, "hmac", s.HMAC)
	}
	s.roots = readRoots(at, s.Root)
}

// Ready tells whether the secrets can be read.
func (s *WebhookSection) Ready() error { return areReadable(s.url, s.hmac) }

// readRoots reads the file of who is trusted; nil stands for the system's.
func readRoots(at section.Place, path string) *x509.CertPool {
	if path == "" {
		return nil
	}
	roots := x509.NewCertPool()
	if text := at.Read("root", path); text != nil && !roots.AppendCertsFromPEM(text) {
		at.Fault("root", "%s holds no certificate in PEM", path)
	}
	return roots
}

// Make makes the notifier.
func (s *WebhookSection) Make(parts Parts) Notifier {
	transport := &http.Transport{
		Proxy: http.ProxyFromEnvironment, DialContext: parts.Dial, TLSClientConfig: &tls.Config{RootCAs: s.roots, MinVersion: tls.VersionTLS12},
		DisableKeepAlives: true, MaxResponseHeaderBytes: 64 << 10, ForceAttemptHTTP2: true,
	}
	return &webhook{url: s.url, hmac: s.hmac, now: parts.Now, agent: parts.UserAgent, client: &http.Client{
		Transport: transport,
		// Whoever is told names one place; that it sends us elsewhere is its answer.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// webhook posts events as Standard Webhooks has it (version 1): the event is the body, its ID, the time and a signature of all three stand
// in headers.
type webhook struct {
	url, hmac reader
	now       func() time.Time
	agent     string
	client    *http.Client
}

func (w *webhook) Notify(ctx context.Context, event Event) error {
	address, err := w.url()
	if err != nil {
		return &Refusal{err}
	}
	body, err := event.Document()
	if err != nil {
		return &Refusal{err}
	}
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, address, bytes.NewReader(body))
	if err != nil || request.URL.Scheme != "https" && request.URL.Scheme != "http" || request.URL.Host == "" {
		return &Refusal{hint.Add(errors.New("what url refers to holds no URL"), "one line: https://HOST/PATH")}
	}
	stamp := strconv.FormatInt(w.now().Unix(), 10)
	request.Header.Set("Content-Type", "application/json")
	request.Header.Set("User-Agent", w.agent)
	request.Header.Set("webhook-id", event.ID)
	request.Header.Set("webhook-timestamp", stamp)
	if w.hmac != nil {
		key, err := w.key()
		if err != nil {
			return &Refusal{err}
		}
		request.Header.Set("webhook-signature", "v1,"+sign(key, event.ID, stamp, body))
	}
	response, err := w.client.Do(request)
	if err != nil {
		return withoutURL(err)
	}
	defer response.Body.Close()
	// What it says is nobody's concern, but a connection that is cut off tells the other side that something went wrong.
	_, _ = io.Copy(io.Discard, io.LimitReader(response.Body, 64<<10))
	return judge(response.StatusCode)
}

// key is the one to sign with: Standard Webhooks writes it as "whsec_" and base64; anything else is taken as it is.
func (w *webhook) key() ([]byte, error) {
	text, err := w.hmac()
	if err != nil {
		return nil, err
	}
	encoded, isStandard := strings.CutPrefix(text, "whsec_")
	if !isStandard {
		return []byte(text), nil
	}
	key, err := base64.StdEncoding.DecodeString(encoded)
	if err != nil {
		return nil, errors.New("what hmac refers to begins with whsec_ and goes on with something else than base64")
	}
	return key, nil
}

func sign(key []byte, id, stamp string, body []byte) string {
	mac := hmac.New(sha256.New, key)
	fmt.Fprintf(mac, "%s.%s.%s", id, stamp, body)
	return base64.StdEncoding.EncodeToString(mac.Sum(nil))
}

// judge says what an HTTP status means: nil where the event was taken.
func judge(status int) error {
	switch {
	case status >= 200 && status < 300:
		return nil
	case status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status >= 500:
		return fmt.Errorf("it answers %d", status)
	case status >= 300 && status < 400:
		return &Refusal{hint.Add(fmt.Errorf("it answers %d, which sends us elsewhere", status), "name the place itself: nothing is followed")}
	default:
		return &Refusal{fmt.Errorf("it answers %d", status)}
	}
}

// withoutURL is an error of net/http without the URL, which may hold a token.
func withoutURL(err error) error {
	if failed, ok := errors.AsType[*url.Error](err); ok {
		return failed.Err
	}
	return err
}
