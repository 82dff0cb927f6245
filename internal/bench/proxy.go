package main

import (
	"net"
	"sync"
	"time"
)

// proxy forwards connections and adds a round trip's time: half of it to each direction, and a whole one before a new
// connection carries anything, for TCP's handshake.
type proxy struct {
	address string

	listener net.Listener
	to       string
	trip     time.Duration
	open     sync.WaitGroup
}

func newProxy(to string, trip time.Duration) (*proxy, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	p := &proxy{address: listener.Addr().String(), listener: listener, to: to, trip: trip}
	p.open.Go(p.accept)
	return p, nil
}

func (p *proxy) close() {
	// Nothing is left to lose.
	_ = p.listener.Close()
	p.open.Wait()
}

func (p *proxy) accept() {
	for {
		client, err := p.listener.Accept()
		if err != nil {
			return
		}
		p.open.Go(func() { p.forward(client) })
	}
}

func (p *proxy) forward(client net.Conn) {
	defer client.Close()
	ca, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer ca.Close()
	ready := time.Now().Add(p.trip)
	var both sync.WaitGroup
	both.Go(func() { p.pipe(ca, client, ready) })
	both.Go(func() { p.pipe(client, ca, ready) })
	both.Wait()
}

// piece holds what was read at some time.
type piece struct {
	data []byte
	due  time.Time
}

// pipe hands on what it reads, each piece half a round trip later, without holding up what comes behind it.
func (p *proxy) pipe(to, from net.Conn, ready time.Time) {
	pieces := make(chan piece, 1024)
	go func() {
		defer close(pieces)
		for {
			data := make([]byte, 32<<10)
			n, err := from.Read(data)
			if n > 0 {
				due := time.Now()
				if due.Before(ready) {
					due = ready
				}
				pieces <- piece{data[:n], due.Add(p.trip / 2)}
			}
			if err != nil {
				return
			}
		}
	}()
	for one := range pieces {
		time.Sleep(time.Until(one.due))
		if _, err := to.Write(one.data); err != nil {
			break
		}
	}
	// The other side sees the end; what still comes is thrown away.
	if half, ok := to.(interface{ CloseWrite() error }); ok {
		_ = half.CloseWrite()
	}
	_ = from.Close()
	for range pieces {
	}
}
