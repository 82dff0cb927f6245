package acmetest

import (
	"net"
	"strings"
	"sync"

	"github.com/miekg/dns"
)

// DNS is the name server that the CA asks. Every name has the address 127.0.0.1 unless a fault says otherwise.
type DNS struct {
	Address string // host:port, TCP

	server *dns.Server
	mu     sync.Mutex
	faults map[string]int
}

func startDNS() (*DNS, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	d := &DNS{Address: listener.Addr().String(), faults: map[string]int{}}
	started := make(chan struct{})
	d.server = &dns.Server{Listener: listener, Handler: dns.HandlerFunc(d.answer), NotifyStartedFunc: func() { close(started) }}
	// The server's end is Stop's doing.
	go func() { _ = d.server.ActivateAndServe() }()
	<-started
	return d, nil
}

func (d *DNS) stop() {
	// It was started, so it can be stopped.
	_ = d.server.Shutdown()
}

// Fail makes the server answer a response code (dns.RcodeNameError, dns.RcodeServerFailure) for a name;
// dns.RcodeSuccess heals it.
func (d *DNS) Fail(name string, rcode int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[strings.ToLower(dns.Fqdn(name))] = rcode
}

func (d *DNS) answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	question := request.Question[0]
	d.mu.Lock()
	reply.Rcode = d.faults[strings.ToLower(question.Name)]
	d.mu.Unlock()
	if reply.Rcode == dns.RcodeSuccess && question.Qtype == dns.TypeA {
		reply.Answer = append(reply.Answer, &dns.A{
			Hdr: dns.RR_Header{Name: question.Name, Rrtype: dns.TypeA, Class: dns.ClassINET, Ttl: 1},
			A:   net.IPv4(127, 0, 0, 1),
		})
	}
	// A client that hung up does not read the answer.
	_ = w.WriteMsg(reply)
}
