package challenge

import (
	"net"
	"sync"
	"time"
)

// How many connections a challenge's port takes, and how many of one source that are held for longer than a validator needs,
// who is served within milliseconds. One that validates many names side by side, or the proxy before it, is one source.
const (
	maxConnections = 2048
	maxPerSource   = 32
	servedWithin   = time.Second
)

// crowd is a listener that nobody can occupy. It takes every connection, and closes the oldest one of a source that holds
// too many, or of all when there are too many altogether.
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
	since  time.Time
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
	g := &guest{Conn: conn, source: source, since: time.Now()}
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
		switch {
		case full:
			return other
		case crowded && other.source == g.source && g.since.Sub(other.since) > servedWithin:
			return other
		case !crowded, g.since.Sub(other.since) <= servedWithin:
			return nil // all others are younger
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
