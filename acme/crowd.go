package acme

import (
	"net"
	"sync"
)

// How many connections a challenge's port takes: many more than the validators of all CAs make together.
const (
	maxConnections = 2048
	maxPerSource   = 32
)

// crowd is a listener that nobody can occupy. It takes every connection, and closes the oldest one of a source that holds
// too many, or of all: a validator is served within milliseconds, so the oldest are those that somebody holds.
type crowd struct {
	net.Listener

	mu    sync.Mutex
	held  []*guest // oldest first
	count map[string]int
}

// guest is one connection of a crowd.
type guest struct {
	net.Conn
	source string
	leave  func() error
}

func newCrowd(listener net.Listener) *crowd {
	return &crowd{Listener: listener, count: map[string]int{}}
}

func (c *crowd) Accept() (net.Conn, error) {
	conn, err := c.Listener.Accept()
	if err != nil {
		return nil, err
	}
	source, _, err := net.SplitHostPort(conn.RemoteAddr().String())
	if err != nil {
		source = conn.RemoteAddr().String()
	}
	g := &guest{Conn: conn, source: source}
	g.leave = sync.OnceValue(func() error {
		c.forget(g)
		return conn.Close()
	})
	if oldest := c.admit(g); oldest != nil {
		// Whoever held it has gone or wants nothing good.
		_ = oldest.Close()
	}
	return g, nil
}

// admit takes a connection in and returns one that has to go for it, if any.
func (c *crowd) admit(g *guest) (oldest *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.held = append(c.held, g)
	c.count[g.source]++
	full := len(c.held) > maxConnections
	crowded := c.count[g.source] > maxPerSource
	for _, other := range c.held {
		if full || crowded && other.source == g.source {
			return other
		}
	}
	return nil
}

func (c *crowd) forget(g *guest) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i, other := range c.held {
		if other == g {
			c.held = append(c.held[:i], c.held[i+1:]...)
			break
		}
	}
	if c.count[g.source]--; c.count[g.source] == 0 {
		delete(c.count, g.source)
	}
}

func (g *guest) Close() error { return g.leave() }
