package acmetest

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
)

// DNS is a name server on the loopback, TCP and UDP: the only one of every top-level domain, each of which is one zone. Every
// name has the address 127.0.0.1 unless a fault says otherwise. TXT records come by Put, or by dynamic updates (RFC 2136)
// that are signed with Key.
type DNS struct {
	Address string // host:port

	servers []*dns.Server
	mu      sync.Mutex
	faults  map[string]int
	host    netip.Addr
	txt     map[string][]string
	alias   map[string]string
	records map[string][]dns.RR
	put     []string
	hook    func(name, value string)
	asked   func(name string)
}

const (
	// KeyName and Key are what dynamic updates are signed with, by HMAC-SHA256.
	KeyName = "maascert-test."
	Key     = "bWFhc2NlcnQtdGVzdC1rZXktb2YtMzItYnl0ZXMtMDA="
)

// StartDNS starts a name server on the loopback; port 0 stands for a free one.
func StartDNS(port int) (*DNS, error) { return startDNS(netip.AddrFrom4([4]byte{127, 0, 0, 1}), port) }

func startDNS(address netip.Addr, port int) (*DNS, error) {
	listener, err := net.Listen("tcp", net.JoinHostPort(address.String(), strconv.Itoa(port)))
	if err != nil {
		return nil, err
	}
	d := &DNS{
		Address: listener.Addr().String(), faults: map[string]int{}, host: netip.AddrFrom4([4]byte{127, 0, 0, 1}),
		txt: map[string][]string{}, alias: map[string]string{}, records: map[string][]dns.RR{},
	}
	packets, err := net.ListenPacket("udp", d.Address)
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	for _, server := range []*dns.Server{{Listener: listener}, {PacketConn: packets}} {
		started := make(chan struct{})
		server.Handler, server.NotifyStartedFunc = dns.HandlerFunc(d.answer), func() { close(started) }
		server.TsigSecret = map[string]string{KeyName: Key}
		server.MsgAcceptFunc = func(dns.Header) dns.MsgAcceptAction { return dns.MsgAccept }
		// The server's end is Stop's doing.
		go func() { _ = server.ActivateAndServe() }()
		<-started
		d.servers = append(d.servers, server)
	}
	return d, nil
}

// Stop ends the server.
func (d *DNS) Stop() {
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
	defer cancel()
	for _, server := range d.servers {
		// It was started, so it can be stopped; whoever still waits for an answer is left alone.
		_ = server.ShutdownContext(ctx)
	}
}

// Fail makes the server answer a response code (dns.RcodeNameError, dns.RcodeServerFailure) for a name;
// dns.RcodeSuccess heals it.
func (d *DNS) Fail(name string, rcode int) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.faults[dns.CanonicalName(name)] = rcode
}

// Point makes every name lead to another address.
func (d *DNS) Point(host netip.Addr) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.host = host
}

// Alias makes a name a CNAME of another.
func (d *DNS) Alias(name, target string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.alias[dns.CanonicalName(name)] = dns.CanonicalName(target)
}

// Put adds a TXT record.
func (d *DNS) Put(name, value string) {
	d.mu.Lock()
	name = dns.CanonicalName(name)
	d.txt[name] = append(d.txt[name], value)
	d.put = append(d.put, name)
	hook := d.hook
	d.mu.Unlock()
	if hook != nil {
		hook(name, value)
	}
}

// Remove takes a TXT record away.
func (d *DNS) Remove(name, value string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name = dns.CanonicalName(name)
	d.txt[name] = slices.DeleteFunc(d.txt[name], func(one string) bool { return one == value })
	if len(d.txt[name]) == 0 {
		delete(d.txt, name)
	}
}

// Set sets the records of a name and type other than TXT, in zone file syntax.
func (d *DNS) Set(lines ...string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, line := range lines {
		rr, err := dns.NewRR(line)
		if err != nil {
			return err
		}
		key := recordKey(rr.Header().Name, rr.Header().Rrtype)
		d.records[key] = append(d.records[key], rr)
	}
	return nil
}

func recordKey(name string, qtype uint16) string {
	return dns.CanonicalName(name) + " " + dns.TypeToString[qtype]
}

// TXT are all TXT records that are there now, as "name value".
func (d *DNS) TXT() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for name, values := range d.txt {
		for _, value := range values {
			all = append(all, name+" "+value)
		}
	}
	slices.Sort(all)
	return all
}

// Puts are the names of all TXT records that were ever added, in order.
func (d *DNS) Puts() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.put)
}

// OnPut has a function called after each TXT record that is added.
func (d *DNS) OnPut(hook func(name, value string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.hook = hook
}

// OnAsked has a function called before each question about a name is answered, which waits for it.
func (d *DNS) OnAsked(hook func(name string)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.asked = hook
}

func (d *DNS) answer(w dns.ResponseWriter, request *dns.Msg) {
	reply := new(dns.Msg).SetReply(request)
	if request.Opcode == dns.OpcodeUpdate {
		reply.Rcode = d.update(w, request)
		if tsig := request.IsTsig(); tsig != nil {
			reply.SetTsig(tsig.Hdr.Name, tsig.Algorithm, 300, int64(tsig.TimeSigned))
		}
	} else {
		d.mu.Lock()
		asked := d.asked
		d.mu.Unlock()
		if asked != nil {
			asked(dns.CanonicalName(request.Question[0].Name))
		}
		d.resolve(request.Question[0], reply)
	}
	// A client that hung up does not read the answer.
	_ = w.WriteMsg(reply)
}

// update makes the changes of a dynamic update that is signed (RFC 2136 section 2.5).
func (d *DNS) update(w dns.ResponseWriter, request *dns.Msg) int {
	if request.IsTsig() == nil || w.TsigStatus() != nil {
		return dns.RcodeNotAuth
	}
	for _, rr := range request.Ns {
		header := rr.Header()
		record, isTXT := rr.(*dns.TXT)
		switch {
		case header.Class == dns.ClassANY:
			d.mu.Lock()
			delete(d.txt, dns.CanonicalName(header.Name))
			d.mu.Unlock()
		case !isTXT:
			return dns.RcodeNotImplemented
		case header.Class == dns.ClassNONE:
			d.Remove(header.Name, strings.Join(record.Txt, ""))
		default:
			d.Put(header.Name, strings.Join(record.Txt, ""))
		}
	}
	return dns.RcodeSuccess
}

func (d *DNS) resolve(question dns.Question, reply *dns.Msg) {
	d.mu.Lock()
	defer d.mu.Unlock()
	name := dns.CanonicalName(question.Name)
	reply.Authoritative, reply.RecursionAvailable = true, true
	if name == "." {
		return
	}
	if reply.Rcode = d.faults[name]; reply.Rcode != dns.RcodeSuccess {
		return
	}
	header := func(qtype uint16) dns.RR_Header {
		return dns.RR_Header{Name: question.Name, Rrtype: qtype, Class: dns.ClassINET, Ttl: 1}
	}
	for d.alias[name] != "" {
		reply.Answer = append(reply.Answer, &dns.CNAME{Hdr: header(dns.TypeCNAME), Target: d.alias[name]})
		name, question.Name = d.alias[name], d.alias[name]
	}
	if known, ok := d.records[recordKey(name, question.Qtype)]; ok {
		reply.Answer = append(reply.Answer, known...)
		return
	}
	labels := dns.SplitDomainName(name)
	zone := dns.Fqdn(labels[len(labels)-1])
	switch question.Qtype {
	case dns.TypeA:
		reply.Answer = append(reply.Answer, &dns.A{Hdr: header(dns.TypeA), A: d.host.AsSlice()})
	case dns.TypeTXT:
		for _, value := range d.txt[name] {
			reply.Answer = append(reply.Answer, &dns.TXT{Hdr: header(dns.TypeTXT), Txt: []string{value}})
		}
	case dns.TypeNS:
		if name == zone {
			reply.Answer = append(reply.Answer, &dns.NS{Hdr: header(dns.TypeNS), Ns: "ns1.example."})
		}
	}
	if len(reply.Answer) == 0 || question.Qtype == dns.TypeSOA {
		soa := &dns.SOA{Hdr: header(dns.TypeSOA), Ns: "ns1.example.", Mbox: "root.example.", Serial: 1, Refresh: 60, Retry: 60, Expire: 60, Minttl: 1}
		soa.Hdr.Name = zone
		if question.Qtype == dns.TypeSOA && name == zone {
			reply.Answer = append(reply.Answer, soa)
		} else {
			reply.Ns = append(reply.Ns, soa)
		}
	}
}
