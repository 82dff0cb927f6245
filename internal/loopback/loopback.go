// Package loopback finds free places on this machine's loopback network for servers under test.
package loopback

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"syscall"
)

// Hosts returns n addresses of 127.0.0.0/8, one after another, on which nobody listens on any of the ports. All of
// 127.0.0.0/8 is the loopback on Linux, so servers with fixed ports can stand side by side.
func Hosts(n int, ports ...int) ([]netip.Addr, error) {
	for range 100 {
		first := netip.AddrFrom4([4]byte{127, byte(1 + rand.N(250)), byte(rand.N(250)), byte(1 + rand.N(200))})
		hosts := make([]netip.Addr, 0, n)
		for host := first; len(hosts) < n && isFree(host, ports); host = host.Next() {
			hosts = append(hosts, host)
		}
		if len(hosts) == n {
			return hosts, nil
		}
	}
	return nil, errors.New("no free loopback addresses")
}

// given are the ports that this process was given: some are used only now and then, and look free in between.
var given sync.Map

// Port returns a port that is free on all of the machine's addresses, and not the same twice. It lies below the range from which
// the kernel takes the ports of outgoing connections.
func Port() (int, error) {
	for range 100 {
		port := 10000 + rand.N(20000)
		if _, again := given.LoadOrStore(port, true); !again && isFree(netip.IPv4Unspecified(), []int{port}) {
			return port, nil
		}
	}
	return 0, errors.New("no free port")
}

// isFree listens for a moment. No program is started meanwhile: until it runs, it would have the listener too.
func isFree(host netip.Addr, ports []int) bool {
	syscall.ForkLock.RLock()
	defer syscall.ForkLock.RUnlock()
	for _, port := range ports {
		listener, err := net.Listen("tcp", net.JoinHostPort(host.String(), strconv.Itoa(port)))
		if err != nil {
			return false
		}
		if err := listener.Close(); err != nil {
			panic(fmt.Sprintf("closing a listener: %v", err))
		}
	}
	return true
}
