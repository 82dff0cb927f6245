package acme

import (
	"context"
	"crypto/sha256"
	"crypto/x509"
	"encoding/base64"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"time"

	lego "github.com/go-acme/lego/v4/acme"

	"maascert/internal/printable"
)

// Window is the time in which a CA suggests to renew a certificate (RFC 9773 section 4.2).
type Window struct {
	Start, End  time.Time
	Explanation string    // URL for the operator; most often empty
	Asked       time.Time // when the CA answered
	AskAgain    time.Time // the answer is good until then
	id          string
}

// NewWindow is a window for a certificate.
func NewWindow(leaf *x509.Certificate, start, end time.Time) (Window, error) {
	id, ok := certID(leaf)
	if !ok {
		return Window{}, ErrNoWindow
	}
	if start.IsZero() || !start.Before(end) {
		return Window{}, errors.New("renewalInfo: the CA's window does not begin before it ends")
	}
	if start.UTC().Year() < 1 || end.UTC().Year() > 9999 {
		return Window{}, errors.New("renewalInfo: the CA's window is in no year that can be written down")
	}
	return Window{Start: start, End: end, id: id}, nil
}

// ErrNoWindow says that the CA has no renewal information for a certificate.
var ErrNoWindow = errors.New("the CA offers no renewal information (ARI)")

// The bounds of a Retry-After on renewal information (RFC 9773 section 4.3.2), and what to assume without one.
const (
	soonestAsk = time.Minute
	LatestAsk  = 24 * time.Hour
	defaultAsk = 6 * time.Hour
)

// Moment picks the time of renewal within the window: the same on every host and at every look, and spread evenly over
// certificates.
func (w Window) Moment() time.Time {
	text := fmt.Sprintf("%s %d %d", w.id, w.Start.Unix(), w.End.Unix())
	sum := sha256.Sum256([]byte(text))
	width := uint64(w.End.Sub(w.Start))
	return w.Start.Add(time.Duration(binary.BigEndian.Uint64(sum[:8]) % width))
}

// Window asks the CA when to renew a certificate; within the answer's Retry-After it repeats the last answer. The error
// is ErrNoWindow when there is no such information: the CA has none, and AskAgain is then until when not to ask anew; or the
// certificate is expired, which must not be asked about, and AskAgain is zero.
func (c *Client) Window(ctx context.Context, leaf *x509.Certificate) (Window, error) {
	id, ok := certID(leaf)
	if !ok || !leaf.NotAfter.After(c.config.Now()) {
		return Window{}, ErrNoWindow
	}
	c.mu.Lock()
	window, known := c.windows[id]
	c.mu.Unlock()
	if known && Counts(window.Asked, window.AskAgain, c.config.Now()) {
		return window, nil
	}
	window, err := c.askWindow(ctx, leaf, id)
	if err != nil {
		return window, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for known, kept := range c.windows {
		if !Counts(kept.Asked, kept.AskAgain, c.config.Now()) {
			delete(c.windows, known)
		}
	}
	c.windows[id] = window
	return window, nil
}

// Counts tells whether what a CA answered at a moment need not be asked again yet. A clock that was set back since then, or to which the
// rest is longer than any CA may ask for, makes it asked again; clocks of hosts that share an answer may differ by a minute.
func Counts(asked, again, now time.Time) bool {
	asked, again, now = asked.Round(0), again.Round(0), now.Round(0) // a machine may have been suspended
	return !now.Before(asked.Add(-time.Minute)) && now.Before(again) && again.Sub(now) <= LatestAsk+time.Minute
}

func (c *Client) askWindow(ctx context.Context, leaf *x509.Certificate, id string) (Window, error) {
	wire := &transport{client: c, ctx: ctx}
	s := &session{Client: c, ctx: ctx, wire: wire}
	directory, err := get[lego.Directory](s, "directory", c.config.Directory)
	if err != nil {
		return Window{}, err
	}
	if directory.RenewalInfo == "" {
		now := c.config.Now().Round(0)
		return Window{Asked: now, AskAgain: now.Add(defaultAsk)}, ErrNoWindow
	}
	url := directory.RenewalInfo + "/" + id
	info, err := get[lego.RenewalInfoResponse](s, "renewalInfo", url)
	if err != nil {
		return Window{}, err
	}
	window, err := NewWindow(leaf, info.SuggestedWindow.Start, info.SuggestedWindow.End)
	if err != nil {
		return Window{}, err
	}
	window.Explanation = printable.Phrase(info.ExplanationURL)
	wait := defaultAsk
	if said, ok := wire.wait(url); ok {
		wait = min(max(said, soonestAsk), LatestAsk)
	}
	window.Asked = c.config.Now().Round(0)
	window.AskAgain = window.Asked.Add(wait)
	return window, nil
}

// get fetches a public resource. lego's own GetRenewalInfo does not look at the status.
func get[T any](s *session, op, url string) (T, error) {
	return call(s, op, func() (T, error) {
		var into T
		req, err := http.NewRequestWithContext(s.ctx, http.MethodGet, url, nil)
		if err != nil {
			return into, err
		}
		req.Header.Set("User-Agent", s.config.UserAgent)
		resp, err := s.wire.RoundTrip(req)
		if err != nil {
			return into, err
		}
		body, err := answered(resp, url)
		if err != nil {
			return into, err
		}
		return into, json.Unmarshal(body, &into)
	})
}

// certID identifies a certificate to the CA that issued it (RFC 9773 section 4.1); there is none without an authority
// key identifier.
func certID(leaf *x509.Certificate) (string, bool) {
	if len(leaf.AuthorityKeyId) == 0 || leaf.SerialNumber == nil {
		return "", false
	}
	serial := leaf.SerialNumber.Bytes()
	if len(serial) == 0 || serial[0]&0x80 != 0 {
		serial = append([]byte{0}, serial...) // as DER writes a positive integer
	}
	encode := base64.RawURLEncoding.EncodeToString
	return encode(leaf.AuthorityKeyId) + "." + encode(serial), true
}
