package challenge

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"
	"golang.org/x/sync/errgroup"

	"maascert/internal/world"
)

// View asks DNS from this host. It keeps what resolvers said for as long as an order takes.
type View struct {
	dial      world.Dial
	resolvers []string // none: the system's

	mu    sync.Mutex
	asked map[question]*lookup
	turns chan struct{} // each question to a server takes one
}

// A zone chooses how many servers it names and where they are; so many of them are asked, at so many addresses each, and
// so many questions are under way at the same time.
const (
	maxServers   = 16
	maxAddresses = 8
	maxQuestions = 50
)

type question struct {
	name  string
	qtype uint16
}

// lookup is one question to the resolvers, asked once.
type lookup struct {
	done   chan struct{}
	answer *dns.Msg
	err    error
}

// NewView asks resolvers, or without any this host's; a dial of nil is the network's.
func NewView(resolvers []string, dial world.Dial) *View {
	return &View{dial: dial, resolvers: resolvers, asked: map[question]*lookup{}, turns: make(chan struct{}, maxQuestions)}
}

// exchangeTime bounds one question to one server.
const exchangeTime = 3 * time.Second

// servers are the resolvers.
func (v *View) servers() ([]string, error) {
	if len(v.resolvers) > 0 {
		return v.resolvers, nil
	}
	config, err := dns.ClientConfigFromFile("/etc/resolv.conf")
	if err != nil {
		return nil, fmt.Errorf("this host's resolvers: %w", err)
	}
	servers := make([]string, len(config.Servers))
	for i, server := range config.Servers {
		servers[i] = net.JoinHostPort(server, config.Port)
	}
	if len(servers) == 0 {
		return nil, errors.New("this host has no resolver")
	}
	return servers, nil
}

// Resolve asks the resolvers one after another until one answers. A name that does not exist is an answer.
func (v *View) Resolve(ctx context.Context, name string, qtype uint16) (*dns.Msg, error) {
	q := question{dns.CanonicalName(name), qtype}
	v.mu.Lock()
	one, known := v.asked[q]
	if !known {
		one = &lookup{done: make(chan struct{})}
		v.asked[q] = one
	}
	v.mu.Unlock()
	if known {
		select {
		case <-one.done:
			return one.answer, one.err
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
	one.answer, one.err = v.resolveNow(ctx, q)
	if one.err != nil {
		v.mu.Lock()
		delete(v.asked, q) // it may answer the next time
		v.mu.Unlock()
	}
	close(one.done)
	return one.answer, one.err
}

func (v *View) resolveNow(ctx context.Context, q question) (*dns.Msg, error) {
	servers, err := v.servers()
	if err != nil {
		return nil, err
	}
	var failures []error
	for _, server := range servers {
		answer, err := v.exchange(ctx, server, q, true)
		if err == nil && answer.Rcode != dns.RcodeSuccess && answer.Rcode != dns.RcodeNameError {
			err = errors.New(dns.RcodeToString[answer.Rcode])
		}
		if err == nil {
			return answer, nil
		}
		failures = append(failures, fmt.Errorf("resolver %s: %s: %w", server, q.name, err))
	}
	return nil, errors.Join(failures...)
}

// exchange asks one server one question, by UDP and, where the answer does not fit, by TCP.
func (v *View) exchange(ctx context.Context, server string, q question, recursive bool) (*dns.Msg, error) {
	select {
	case v.turns <- struct{}{}:
		defer func() { <-v.turns }()
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
	ctx, cancel := context.WithTimeout(ctx, exchangeTime)
	defer cancel()
	message := new(dns.Msg).SetQuestion(q.name, q.qtype)
	message.RecursionDesired = recursive
	message.SetEdns0(1232, false)
	for _, network := range []string{"udp", "tcp"} {
		answer, err := v.exchangeBy(ctx, network, server, message)
		if err != nil || !answer.Truncated {
			return answer, err
		}
	}
	return nil, errors.New("the answer is too long")
}

func (v *View) exchangeBy(ctx context.Context, network, server string, message *dns.Msg) (*dns.Msg, error) {
	dial := v.dial
	if dial == nil {
		dial = new(net.Dialer).DialContext
	}
	conn, err := dial(ctx, network, server)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	// The library looks at the deadline, but not at a cancel.
	defer context.AfterFunc(ctx, func() { _ = conn.Close() })()
	answer, _, err := (&dns.Client{Net: network}).ExchangeWithConnContext(ctx, message, &dns.Conn{Conn: conn})
	return answer, err
}

// follow follows CNAMEs from a name to where its records stand; a name that does not exist has none.
func (v *View) follow(ctx context.Context, name string) (string, error) {
	name = dns.CanonicalName(name)
	for range 10 {
		answer, err := v.Resolve(ctx, name, dns.TypeCNAME)
		if err != nil {
			return "", err
		}
		at := slices.IndexFunc(answer.Answer, func(rr dns.RR) bool {
			_, ok := rr.(*dns.CNAME)
			return ok && dns.CanonicalName(rr.Header().Name) == name
		})
		if at < 0 {
			return name, nil
		}
		name = dns.CanonicalName(answer.Answer[at].(*dns.CNAME).Target)
	}
	return "", fmt.Errorf("%s: too many CNAMEs in a row", name)
}

// Zone is the one that a name (absolute, in small letters) is in: the nearest name above that has a start of authority.
func (v *View) Zone(ctx context.Context, name string) (string, error) {
	for _, at := range dns.Split(name) {
		above := name[at:]
		answer, err := v.Resolve(ctx, above, dns.TypeSOA)
		if err != nil {
			return "", err
		}
		for _, rr := range answer.Answer {
			if soa, ok := rr.(*dns.SOA); ok && dns.CanonicalName(soa.Hdr.Name) == above {
				return above, nil
			}
		}
		// A server that has no such name says which zone it looked in.
		for _, rr := range answer.Ns {
			if soa, ok := rr.(*dns.SOA); ok && dns.IsSubDomain(soa.Hdr.Name, above) {
				return dns.CanonicalName(soa.Hdr.Name), nil
			}
		}
	}
	return "", fmt.Errorf("no zone holds %s", name)
}

// server is one name server, which may have several addresses.
type server struct {
	name      string
	addresses []string // host:port
}

// authorities are the servers of the zone that a name is in.
func (v *View) authorities(ctx context.Context, name string) ([]server, error) {
	zone, err := v.Zone(ctx, name)
	if err != nil {
		return nil, err
	}
	answer, err := v.Resolve(ctx, zone, dns.TypeNS)
	if err != nil {
		return nil, err
	}
	var servers []server
	for _, rr := range answer.Answer {
		if ns, ok := rr.(*dns.NS); ok && len(servers) < maxServers {
			servers = append(servers, server{name: dns.CanonicalName(ns.Ns)})
		}
	}
	if len(servers) == 0 {
		return nil, fmt.Errorf("zone %s has no name servers", zone)
	}
	group, ctx := errgroup.WithContext(ctx)
	for i := range servers {
		group.Go(func() error {
			// A server without an address is one that does not answer.
			servers[i].addresses, _ = v.Addresses(ctx, servers[i].name, "53")
			return nil
		})
	}
	return servers, group.Wait()
}

// Addresses are a name's, with a port. The error says that it is not known whether there are others.
func (v *View) Addresses(ctx context.Context, name, port string) ([]string, error) {
	var found []string
	var failures []error
	for _, qtype := range []uint16{dns.TypeA, dns.TypeAAAA} {
		answer, err := v.Resolve(ctx, name, qtype)
		if err != nil {
			failures = append(failures, err)
			continue
		}
		for _, rr := range answer.Answer {
			switch address := rr.(type) {
			case *dns.A:
				found = append(found, net.JoinHostPort(address.A.String(), port))
			case *dns.AAAA:
				found = append(found, net.JoinHostPort(address.AAAA.String(), port))
			}
		}
	}
	return found[:min(len(found), maxAddresses)], errors.Join(failures...)
}

// lookAt asks servers, side by side, whether they have a record.
func (v *View) lookAt(ctx context.Context, servers []server, r TXT, recursive bool) look {
	seen := make(look, len(servers))
	var group errgroup.Group
	group.SetLimit(maxQuestions)
	for i, one := range servers {
		group.Go(func() error {
			seen[i] = v.ask(ctx, one, r, recursive)
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	return seen
}

// ask asks a server at all its addresses. One that says no outweighs one that says yes; one that is silent does not count
// beside one that speaks.
func (v *View) ask(ctx context.Context, one server, r TXT, recursive bool) sight {
	found := sight{server: strings.TrimSuffix(one.name, "."), why: "it has no address"}
	answers := make([]sight, len(one.addresses))
	var group errgroup.Group
	for i, address := range one.addresses {
		group.Go(func() error {
			answers[i] = v.askAt(ctx, address, r, recursive)
			return nil
		})
	}
	// The functions above return no error.
	_ = group.Wait()
	for _, answer := range answers {
		if found.said == silent || answer.said == lacks {
			found.said, found.why = answer.said, answer.why
		}
	}
	return found
}

func (v *View) askAt(ctx context.Context, address string, r TXT, recursive bool) sight {
	answer, err := v.exchange(ctx, address, question{r.FQDN, dns.TypeTXT}, recursive)
	switch {
	case err != nil:
		return sight{said: silent, why: err.Error()}
	case answer.Rcode == dns.RcodeNameError:
		return sight{said: lacks, why: "it does not have the name"}
	case answer.Rcode != dns.RcodeSuccess: // it is lame, or ill
		return sight{said: silent, why: dns.RcodeToString[answer.Rcode]}
	}
	for _, rr := range answer.Answer {
		if txt, ok := rr.(*dns.TXT); ok && strings.Join(txt.Txt, "") == r.Value {
			return sight{said: has}
		}
	}
	return sight{said: lacks, why: "it does not have it yet"}
}
