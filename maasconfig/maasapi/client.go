// Package maasapi asks MAAS's REST API 2.0 with an administrator's key: which regions there are, MAAS's own notice of expiry, notices on
// its page, and TXT records in its DNS.
//
// It promises that the key goes to nobody but MAAS: over TLS only to a certificate that clients trust or that is known to be ours, never
// after a redirect to another place; that no answer to a refused key is shown, because it holds the key's secret; that each call ends in
// time and reads no more than it has to; and that what cannot be known is an error, never an empty list.
//
// Start reading at [Client]; how a request is signed and where it may go is in transport.go.
package maasapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"net/url"
	"strconv"
	"strings"
	"sync"
	"time"

	maas "github.com/canonical/gomaasclient/client"
	"github.com/juju/gomaasapi/v2"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Config is all that a Client depends on.
type Config struct {
	URL   string              // of MAAS, such as http://127.0.0.1:5240/MAAS
	Key   func() (Key, error) // reads the key, for each call
	Trust certstore.Trust     // of those who connect to MAAS
	// Known tells what is known of a certificate, by its fingerprint; nil: nothing is.
	Known func(ctx context.Context, fingerprint string) Knowledge
	// TLSPort is where MAAS serves TLS as this host knows it, 0 for nowhere; nil, or not known: MAAS's plain port is asked for it.
	TLSPort func(ctx context.Context) (port int, known bool)
	// MayBePlain tells why a key must not be sent to a plain port; nil: it may.
	MayBePlain func(host, port string) error
	Dial       world.Dial
	Time       time.Duration // for one request and its answer; 0: ten seconds
	Pause      time.Duration // before a busy MAAS is asked again, longer each time; 0: a second
	Log        *slog.Logger  // is told of each request at the level debug; nil: nobody is
}

// Knowledge is what is known of a certificate that somebody serves.
type Knowledge int

const (
	Unknown Knowledge = iota
	Ours              // MAAS is known to serve it, trusted or not
	Revoked           // somebody else may have its key
	Untold            // whether it is revoked cannot be told
)

// Client asks MAAS. It is safe for concurrent use.
type Client struct {
	config Config
	url    *url.URL // whose host may not change

	mu     sync.Mutex
	secure string // where TLS was spoken with MAAS; empty: nowhere yet
}

const (
	// tries is how often a busy MAAS is asked.
	tries = 4
	// longestPause bounds the obedience to a Retry-After of MAAS's.
	longestPause = 10 * time.Second
	// maxAnswer bounds, in bytes, an answer; maxRegions that of the regions, each of which may have many interfaces.
	maxAnswer  = 256 << 10
	maxRegions = 4 << 20
)

// New makes a client. It asks nothing yet.
func New(config Config) (*Client, error) {
	address, err := url.Parse(strings.TrimRight(config.URL, "/"))
	if err != nil || address.Hostname() == "" {
		return nil, fmt.Errorf("%q is no URL of MAAS", config.URL)
	}
	config.Time, config.Pause = cmp.Or(config.Time, 10*time.Second), cmp.Or(config.Pause, time.Second)
	return &Client{config: config, url: address}, nil
}

// URL is the configured one.
func (c *Client) URL() string { return c.config.URL }

// api is what one call may use: Canonical's client, and below it what that does not know.
type api struct {
	*maas.Client
	raw gomaasapi.Client
}

// get asks for a resource that Canonical's client does not know, or does not read whole.
func (a api) get(path string, parameters url.Values) ([]byte, error) {
	return a.raw.Get(&url.URL{Path: path}, "", parameters)
}

// call makes a call, and makes it again while MAAS is busy (502, 503), moved to another port, or hung up. It may be made more than once, so
// it looks at what is there before it adds to it.
func (c *Client) call(ctx context.Context, most int64, do func(api) error) error {
	pause := c.config.Pause
	for try, again := 1, false; ; try++ {
		t := &transport{client: c, ctx: ctx, most: most}
		err := c.once(ctx, t, again, do)
		err = t.explain(err)
		var busy *Error
		switch {
		case err == nil:
			return nil
		case (errors.Is(err, errMoved) || t.cut) && !again && ctx.Err() == nil:
			again = true // TLS was switched on, or to another port (MAAS fact 2.6), or its proxy took another configuration
			continue
		case !errors.As(err, &busy) || !busy.isBusy() || try == tries:
			return err
		}
		if world.Sleep(ctx, min(max(pause, t.retryAfter), longestPause)) != nil {
			return err // the caller's patience is over
		}
		pause *= 2
	}
}

func (c *Client) once(ctx context.Context, t *transport, again bool, do func(api) error) error {
	base, err := c.find(ctx, again)
	if err != nil {
		return err
	}
	key, err := c.config.Key()
	if err != nil {
		return err
	}
	t.key = key
	full, err := maas.GetClientWithTransport(base, key.text(), apiVersion, t)
	if err != nil {
		return errors.New("the API cannot be asked") // the library's words may hold the key
	}
	raw, err := gomaasapi.NewAuthenticatedClient(gomaasapi.AddAPIVersionToURL(base, apiVersion), key.text())
	if err != nil {
		return errors.New("the API cannot be asked")
	}
	raw.HTTPClient = &http.Client{Transport: t}
	return do(api{full, *raw})
}

// apiVersion is the one that 3.2 to 3.8 have.
const apiVersion = "2.0"

// errPlain says that the key is not sent by plain HTTP to whoever answers where MAAS served TLS.
var errPlain = errors.New("it answers without TLS, which it served before, so the key is not sent to it")

// find finds out where the API answers. What this host knows of MAAS's TLS port decides; where it knows nothing, the plain port is asked
// without the key: it redirects all of the API while TLS is on (MAAS fact 2.6), and nothing but scheme and port may change by that. Once
// TLS was spoken, the plain port is asked again only where that failed, and the key does not go to it unless this host knows that TLS is
// off.
func (c *Client) find(ctx context.Context, again bool) (string, error) {
	if c.url.Scheme != "http" {
		return c.url.String(), nil
	}
	port, known := 0, false
	if c.config.TLSPort != nil {
		port, known = c.config.TLSPort(ctx)
	}
	secure := c.spoken("")
	switch {
	case known && port != 0:
		return c.at("https", strconv.Itoa(port)), nil
	case secure != "" && !known && !again:
		return secure, nil
	}
	_, location, err := c.version(ctx, c.url.String())
	switch {
	case err != nil:
		return "", err
	case location != "":
		return c.movedTo(location)
	case secure != "" && !known:
		return "", errPlain
	case c.config.MayBePlain != nil:
		return c.url.String(), c.config.MayBePlain(c.url.Hostname(), cmp.Or(c.url.Port(), "80"))
	}
	return c.url.String(), nil
}

// at is the URL with another scheme and port.
func (c *Client) at(scheme, port string) string {
	other := *c.url
	other.Scheme, other.Host = scheme, net.JoinHostPort(c.url.Hostname(), port)
	return other.String()
}

// spoken remembers a base URL by which TLS is spoken, and returns it; for an empty one the last.
func (c *Client) spoken(base string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if base != "" {
		c.secure = base
	}
	return c.secure
}

// movedTo reads where a plain port leads to: MAAS's own TLS port on the same host, and nowhere else.
func (c *Client) movedTo(location string) (string, error) {
	address, err := url.Parse(location)
	if err == nil && address.Scheme == "https" && address.User == nil && strings.EqualFold(address.Hostname(), c.url.Hostname()) {
		base := c.at("https", cmp.Or(address.Port(), "443"))
		if strings.Trim(address.Path, "/") == strings.Trim(c.url.Path+"/api/"+apiVersion+"/version", "/") {
			return base, nil
		}
	}
	return "", hint.Add(fmt.Errorf("it redirects elsewhere, and the key goes nowhere else than to %s", c.url.Hostname()), "is maas.api.url MAAS's own? %s asks this host's region", UsualURL)
}

// Version is MAAS's, which it tells everybody.
func (c *Client) Version(ctx context.Context) (string, error) {
	base, err := c.find(ctx, true)
	if err != nil {
		return "", c.named(err)
	}
	version, location, err := c.version(ctx, base)
	if err == nil && location != "" {
		err = errMoved
	}
	return version, c.named(err)
}

// named says whose error it is.
func (c *Client) named(err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, errUnreachable) && strings.HasPrefix(c.config.URL, "https:") {
		err = hint.Add(err, "does MAAS serve TLS already? With maas.api.url %s its plain port is asked, which leads to TLS when there is any", UsualURL)
	}
	return printable.Tame(fmt.Errorf("MAAS's API at %s: %w", c.config.URL, err))
}
