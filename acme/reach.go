package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"net/http"
	"net/netip"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/printable"
)

// CheckAnswers gets ready to answer challenges for some names, for a moment, and then looks as a CA would whether the
// answer can be seen: for http-01 under each name on port 80. The error says that nothing could be answered at all; the
// reasons, by name, why an answer was not seen from here, which need not be true from where the CA is.
func (c *Client) CheckAnswers(ctx context.Context, names []string) (unseen map[string]string, err error) {
	key, err := c.accountKey(ctx)
	if err != nil {
		return nil, err
	}
	opened, err := c.openSolvers(ctx, names, key.Public(), true)
	if err != nil {
		return nil, err
	}
	defer opened.release()
	defer c.withoutFolders(names)()
	reasons := make([]string, len(names))
	var group errgroup.Group
	group.SetLimit(sideBySide)
	for i, name := range names {
		solver := c.config.Solve(name)
		if solver.Type() != "http-01" {
			continue
		}
		group.Go(func() error {
			if err := c.reach(ctx, solver, name, key.Public()); err != nil {
				reasons[i] = printable.Phrase(err.Error())
			}
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	unseen = map[string]string{}
	for i, name := range names {
		if reasons[i] != "" {
			unseen[name] = reasons[i]
		}
	}
	return unseen, nil
}

// accountKey is the account's, or one that would do for a first account.
func (c *Client) accountKey(ctx context.Context) (crypto.Signer, error) {
	account, _, err := certstore.LoadAccount(ctx, c.config.Store)
	if err != nil {
		return nil, err
	}
	if account.Key == "" {
		return certstore.EC256.Generate()
	}
	key, _, err := c.signer(ctx, account)
	return key, err
}

// HoldAnswers answers challenges for some names as while a CA looks, until the context ends, so that a person can look from wherever the
// CA is. show is told of each answer by http-01: its address, and what has to come from there. Names that are proven by dns-01 are left out:
// a record would have to be put there.
func (c *Client) HoldAnswers(ctx context.Context, names []string, show func(address, answer string)) error {
	key, err := c.accountKey(ctx)
	if err != nil {
		return err
	}
	thumbprint, err := challenge.ThumbprintOf(key.Public())
	if err != nil {
		return err
	}
	names = slices.DeleteFunc(slices.Clone(names), func(name string) bool { return c.config.Solve(name).Type() == "dns-01" })
	opened, err := c.openSolvers(ctx, names, key.Public(), false)
	if err != nil {
		return err
	}
	defer opened.release()
	defer c.withoutFolders(names)()
	for _, name := range names {
		solver, p := c.config.Solve(name), challenge.Proof{Name: name, Token: rand.Text(), Thumbprint: thumbprint}
		if err := solver.Present(ctx, p); err != nil {
			return err
		}
		defer func() {
			// It proves nothing to anybody.
			_ = solver.Retract(context.WithoutCancel(ctx), p)
		}()
		if solver.Type() == "http-01" {
			show(addressOf(p), p.KeyAuthorization())
		}
	}
	<-ctx.Done()
	return nil
}

// addressOf is where a CA asks for an answer (RFC 8555 section 8.3).
func addressOf(p challenge.Proof) string {
	host := p.Name
	if strings.Contains(host, ":") {
		host = "[" + host + "]"
	}
	return "http://" + host + challenge.Path + p.Token
}

// withoutFolders returns what removes the folders of webroots that are made meanwhile.
func (c *Client) withoutFolders(names []string) func() {
	var made []func()
	for _, solver := range c.solvers(names) {
		w, ok := solver.(*challenge.Webroot)
		if !ok {
			continue
		}
		root, err := w.FS.OpenRoot(w.Dir)
		if err != nil {
			continue // presenting an answer says it
		}
		folder := filepath.Dir(w.File(challenge.Proof{Token: "x"}))
		for _, dir := range []string{folder, filepath.Dir(folder)} {
			if _, err := root.Stat(dir); errors.Is(err, fs.ErrNotExist) {
				// One that is not empty, because an order uses it meanwhile, cannot be removed.
				made = append(made, func() { _ = root.Remove(dir) })
			}
		}
		made = append(made, func() { _ = root.Close() })
	}
	return func() {
		for _, remove := range made {
			remove()
		}
	}
}

// reachTime bounds the answer under one name.
const reachTime = 5 * time.Second

// reach looks for an answer as a CA would (RFC 8555 section 8.3).
func (c *Client) reach(ctx context.Context, solver challenge.Solver, name string, public crypto.PublicKey) error {
	thumbprint, err := challenge.ThumbprintOf(public)
	if err != nil {
		return err
	}
	p := challenge.Proof{Name: name, Token: rand.Text(), Thumbprint: thumbprint}
	if err := solver.Present(ctx, p); err != nil {
		return err
	}
	defer func() {
		// It proves nothing to anybody.
		_ = solver.Retract(context.WithoutCancel(ctx), p)
	}()
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, addressOf(p), nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", c.config.UserAgent)
	// CAs follow redirects to the usual ports of names, and take any certificate there.
	hops := &hops{client: c, name: name}
	transport := &http.Transport{
		DialContext: hops.dial, MaxResponseHeaderBytes: maxHeader, DisableKeepAlives: true, ResponseHeaderTimeout: reachTime, TLSClientConfig: &tls.Config{InsecureSkipVerify: true},
	}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		req.Header.Del("Referer")
		port := req.URL.Port()
		switch {
		case len(via) > 10:
			return errors.New("more than 10 redirects")
		case port != "" && port != "80" && port != "443":
			return fmt.Errorf("it redirects to port %s, which CAs do not follow", port)
		case certstore.IsAddress(strings.Trim(req.URL.Hostname(), "[]")):
			return fmt.Errorf("it redirects to the address %s, which CAs do not follow", req.URL.Hostname())
		}
		return nil
	}}
	resp, err := client.Do(req)
	if err != nil {
		return unwrapURL(err)
	}
	defer resp.Body.Close()
	body, err := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
	if err != nil {
		return err
	}
	if strings.TrimSpace(string(body)) != p.KeyAuthorization() {
		return fmt.Errorf("somebody else answers there (%s, %s)", printable.Phrase(resp.Status), printable.Phrase(resp.Request.URL.Host))
	}
	return nil
}

// hops are the connections of one look at a name, which redirects may lead elsewhere.
type hops struct {
	client  *Client
	name    string
	private bool // the name itself leads to a private address
}

// dial connects to a name where the resolvers say that it is. A redirect from a public name to a private address is not
// followed: it would have us ask servers inside that whoever redirects cannot.
func (h *hops) dial(ctx context.Context, network, address string) (net.Conn, error) {
	dial := h.client.config.Reach
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	addresses := []string{address}
	if !certstore.IsAddress(host) {
		if addresses, err = challenge.NewView(h.client.config.Resolvers, nil).Addresses(ctx, host+".", port); len(addresses) == 0 && err != nil {
			return nil, fmt.Errorf("DNS does not say where %s is: %w", host, err)
		}
	}
	if len(addresses) == 0 {
		return nil, fmt.Errorf("DNS, which was asked, has no address of %s; /etc/hosts was not asked", host)
	}
	if host == h.name {
		h.private = h.private || slices.ContainsFunc(addresses, isPrivate)
	}
	var failures []error
	for _, one := range addresses {
		if isPrivate(one) && !h.private {
			failures = append(failures, errors.New("it redirects to a private address, which is not asked"))
			continue
		}
		conn, err := dial(ctx, network, one)
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// isPrivate tells whether an address, as host:port, is one that only its own network reaches.
func isPrivate(address string) bool {
	at, err := netip.ParseAddrPort(address)
	if err != nil {
		return true
	}
	ip := at.Addr().Unmap()
	return !ip.IsGlobalUnicast() || ip.IsPrivate() || ip.IsLoopback()
}
