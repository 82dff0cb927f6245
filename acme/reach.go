package acme

import (
	"context"
	"crypto"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"time"

	"golang.org/x/sync/errgroup"

	"maascert/certstore"
)

// CheckAnswers gets ready to answer challenges for some names, for a moment, and then looks as a CA would whether the
// answer can be seen: for http-01 under each name on port 80. The error says that nothing could be answered at all; the
// reasons, by name, why an answer was not seen from here, which need not be true from where the CA is.
func (c *Client) CheckAnswers(ctx context.Context, names []string) (unseen map[string]string, err error) {
	account, _, err := certstore.LoadAccount(ctx, c.config.Store)
	if err != nil {
		return nil, err
	}
	key, err := account.Signer()
	if account.Key == "" {
		key, err = certstore.EC256.Generate()
	}
	if err != nil {
		return nil, err
	}
	release, err := c.openSolvers(ctx, names, key.Public())
	if err != nil {
		return nil, err
	}
	defer release()
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
				reasons[i] = clean(err.Error())
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

// reachTime is how long a name may take to answer.
const reachTime = 5 * time.Second

// reach looks for an answer as a CA would (RFC 8555 section 8.3).
func (c *Client) reach(ctx context.Context, solver Solver, name string, public crypto.PublicKey) error {
	thumbprint, err := thumbprint(public)
	if err != nil {
		return err
	}
	p := proof{name: name, token: rand.Text(), thumbprint: thumbprint}
	if err := solver.present(ctx, p); err != nil {
		return err
	}
	defer func() {
		// It proves nothing to anybody.
		_ = solver.retract(context.WithoutCancel(ctx), p)
	}()
	ctx, cancel := context.WithTimeout(ctx, reachTime)
	defer cancel()
	host := name
	if strings.Contains(name, ":") {
		host = "[" + name + "]"
	}
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+host+challengePath+p.token, nil)
	if err != nil {
		return err
	}
	req.Header.Set("User-Agent", c.config.UserAgent)
	transport := &http.Transport{DialContext: c.dialAsCA, DisableKeepAlives: true, ResponseHeaderTimeout: reachTime}
	client := &http.Client{Transport: transport, CheckRedirect: func(req *http.Request, via []*http.Request) error {
		if len(via) > 10 {
			return errors.New("more than 10 redirects")
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
	if strings.TrimSpace(string(body)) != p.keyAuthorization() {
		return fmt.Errorf("somebody else answers there (%s, %s)", resp.Status, resp.Request.URL.Host)
	}
	return nil
}

// dialAsCA connects to a name where the resolvers say that it is.
func (c *Client) dialAsCA(ctx context.Context, network, address string) (net.Conn, error) {
	dial := c.config.Reach
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	host, port, err := net.SplitHostPort(address)
	if err != nil || certstore.IsAddress(host) {
		return dial(ctx, network, address)
	}
	addresses := newView(c.config.Resolvers, nil).addresses(ctx, host+".", port)
	if len(addresses) == 0 {
		return nil, fmt.Errorf("%s has no address in DNS", host)
	}
	var failures []error
	for _, one := range addresses {
		conn, err := dial(ctx, network, one)
		if err == nil {
			return conn, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}
