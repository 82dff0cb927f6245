// Package maasapi asks MAAS's REST API 2.0 with an administrator's key: which regions there are, MAAS's own notice of expiry, notices on
// its page, and TXT records in its DNS.
//
// It promises that the key goes to nobody but MAAS: over TLS only to a certificate that clients trust or that is known to be ours, never
// after a redirect to another place; that no answer to a refused key is shown, because it holds the key's secret; that each call ends in
// time and reads no more than it has to; and that what cannot be known is an error, never an empty list.
package maasapi

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"time"

	maas "github.com/canonical/gomaasclient/client"
	"github.com/juju/gomaasapi/v2"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/world"
)

// Config is all that a Client depends on.
type Config struct {
	URL   string // of MAAS, such as http://127.0.0.1:5240/MAAS
	Key   Key
	Trust certstore.Trust // of those who connect to MAAS
	// IsOurs tells whether a certificate that clients do not trust is one that MAAS is known to serve, by its fingerprint; nil: none is.
	IsOurs func(ctx context.Context, fingerprint string) bool
	Dial   world.Dial
	Time   time.Duration // for one request and its answer; 0: ten seconds
	Pause  time.Duration // before a busy MAAS is asked again, longer each time; 0: a second
}

// Client asks MAAS. It is safe for concurrent use.
type Client struct {
	config Config
	host   string // of the URL, which may not change

	mu   sync.Mutex
	base string // where the API answers now; empty: not known
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
	address, err := url.Parse(config.URL)
	if err != nil || address.Hostname() == "" {
		return nil, fmt.Errorf("%q is no URL of MAAS", config.URL)
	}
	config.Time, config.Pause = cmp.Or(config.Time, 10*time.Second), cmp.Or(config.Pause, time.Second)
	return &Client{config: config, host: address.Hostname()}, nil
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
	for try, moved := 1, false; ; try++ {
		t := &transport{client: c, ctx: ctx, most: most}
		err := c.once(ctx, t, do)
		err = t.explain(err)
		var busy *Error
		switch {
		case err == nil:
			return nil
		case (errors.Is(err, errMoved) || t.cut) && !moved && ctx.Err() == nil:
			moved = true // TLS was switched on, off, or to another port (MAAS fact 2.6), or its proxy took another configuration
			c.forget()
			continue
		case !errors.As(err, &busy):
			c.forget() // it may answer elsewhere the next time
			return err
		case !busy.isBusy() || try == tries:
			return err
		}
		if sleepErr := world.Sleep(ctx, min(max(pause, t.retryAfter), longestPause)); sleepErr != nil {
			return fmt.Errorf("%w, and then: %w", err, sleepErr)
		}
		pause *= 2
	}
}

func (c *Client) once(ctx context.Context, t *transport, do func(api) error) error {
	base, err := c.find(ctx)
	if err != nil {
		return err
	}
	full, err := maas.GetClientWithTransport(base, c.config.Key.text(), apiVersion, t)
	if err != nil {
		return errors.New("the API cannot be asked") // the library's words may hold the key
	}
	raw, err := gomaasapi.NewAuthenticatedClient(gomaasapi.AddAPIVersionToURL(base, apiVersion), c.config.Key.text())
	if err != nil {
		return errors.New("the API cannot be asked")
	}
	raw.HTTPClient = &http.Client{Transport: t}
	return do(api{full, *raw})
}

// apiVersion is the one that 3.2 to 3.8 have.
const apiVersion = "2.0"

// find finds out where the API answers. A plain port redirects all of it while TLS is on; the key is sent there only after the redirect
// was looked at, by which nothing but the port and the scheme may change.
func (c *Client) find(ctx context.Context) (string, error) {
	c.mu.Lock()
	base := c.base
	c.mu.Unlock()
	if base != "" {
		return base, nil
	}
	base = c.config.URL
	if strings.HasPrefix(base, "http:") {
		_, location, err := c.version(ctx, base)
		if err != nil {
			return "", err
		}
		if location != "" {
			if base, err = c.movedTo(location); err != nil {
				return "", err
			}
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = base
	return base, nil
}

func (c *Client) forget() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.base = ""
}

// movedTo reads where a plain port leads to: MAAS's own TLS port on the same host, and nowhere else.
func (c *Client) movedTo(location string) (string, error) {
	path, _ := strings.CutPrefix(c.config.URL, "http://")
	_, path, _ = strings.Cut(path, "/")
	address, err := url.Parse(location)
	if err != nil || address.Scheme != "https" || address.Hostname() != c.host || address.User != nil ||
		strings.Trim(address.Path, "/") != strings.Trim(path+"/api/"+apiVersion+"/version", "/") {
		return "", hint.Add(fmt.Errorf("it redirects elsewhere, and the key goes nowhere else than to %s", c.host), "is maas.api.url MAAS's own? %s asks this host's region", UsualURL)
	}
	return "https://" + address.Host + "/" + strings.Trim(path, "/"), nil
}

// Version is MAAS's, which it tells everybody.
func (c *Client) Version(ctx context.Context) (string, error) {
	base, err := c.find(ctx)
	if err != nil {
		return "", c.named(err)
	}
	version, location, err := c.version(ctx, base)
	if err == nil && location != "" {
		c.forget()
		err = errMoved
	}
	return version, c.named(err)
}

// named says whose error it is.
func (c *Client) named(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("MAAS's API at %s: %w", c.config.URL, err)
}
