package acmetest

import (
	"errors"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// DNS is a name server on the loopback, TCP and UDP. Every name has the address 127.0.0.1 unless a fault says otherwise.
type DNS struct {
	Address string // host:port

	servers []*dns.Server
	mu      sync.Mutex
	faults  map[string]int
	host    netip.Addr
}

// StartDNS starts a name server; port 0 stands for a free one.
func StartDNS(port int) (*DNS, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort("127.0.0.1", strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	d := &DNS{Address: listener.Addr().String(), faults: map[string]int{}, host: netip.AddrFrom4([4]byte{127, 0, 0, 1})}
	packets, err := net.ListenPacket("udp", d.Address)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	for _, server := range []*dns.Server{{Listener: listener}, {PacketConn: packets}} {
		started := make(chan struct{})
		server.Handler, server.NotifyStartedFunc = dns.HandlerFunc(d.answer), func() { close(started) }
		// The server's end is Stop's doing.
		go func() { _ = server.ActivateAndServe() }()
		<-started
		d.servers = append(d.servers, server)
	}
	return d, nil
}

// Stop ends the server.
func (d *DNS) Stop() {
	for _, server := range d.servers {
		// It was started, so it can be stopped.
		_ = server.Shutdown()
	}
}

// Fail makes the server answer a response code (dns.RcodeNameError, dns.RcodeServerFailure) for a name;
// dns.RcodeSuccess heals it.
func (d *DNS) Fail(name string, rcode int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[strings.ToLower(dns.Fqdn(name))] = rcode
}

// Point makes every name lead to another address.
func (d *DNS) Point(host netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host = host
}

func (d *DNS) answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	question := request.Question[0]
	d.mu.Lock()
	reply.Rcode = d.faults[strings.ToLower(question.Name)]
	host := d.host
	d.mu.Unlock()
	if reply.Rcode == dns.RcodeSuccess && question.Qtype == dns.TypeA {
		reply.Answer = append(reply.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
			A:   host.AsSlice(),
		})
	}
	// A client that hung up does not read the answer.
	_ = w.WriteMsg(reply)
}
