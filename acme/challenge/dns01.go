package challenge

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"regexp"
	"strings"
	"sync"
	"time"

	"github.com/miekg/dns"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/world"
)

// Records puts and removes TXT records at a DNS provider. It is safe for concurrent use.
type Records interface {
	// Put makes a record visible beside others of its name. It may be visible already.
	Put(ctx context.Context, r TXT) error
	// Remove takes a record away, also one that another process put there, where the provider can find it.
	Remove(ctx context.Context, r TXT) error
	// Patience is how long a record may take from Put until every server of the zone has it; 0 for no opinion.
	Patience() time.Duration
}

// Published are Records of a provider that knows the servers which publish them. All of these have to have a record before the CA is told
// to look, and one that does not answer is waited for as long as one that lacks it.
type Published interface {
	Records
	// Nameservers are the servers, as host:port, and for how long others are waited for that cannot be asked; 0: there are none.
	Nameservers(ctx context.Context) (servers []string, others time.Duration, err error)
}

// TXT is a record that proves a name.
type TXT struct {
	FQDN  string // where it stands, CNAMEs followed; with the final dot
	Value string

	// What providers of lego's want to know instead.
	Name             string // without the wildcard
	Token            string
	KeyAuthorization string
}

// DNS answers dns-01 challenges (RFC 8555 section 8.4) by TXT records. The CA is told to look when every authoritative
// server of the zone has the record. It is safe for concurrent use.
type DNS struct {
	// Connect makes the provider ready; it is called before the first order, and again after it failed.
	Connect func(ctx context.Context) (Records, error)
	// Resolvers, as host:port, are asked where a record belongs; none: the system's.
	Resolvers []string
	// Nameservers, as host:port, are asked whether a record is there, instead of all authoritative ones.
	Nameservers []string
	Dial        world.Dial // nil: the network

	mu      sync.Mutex
	records Records
	view    *View
}

var _ Solver = (*DNS)(nil)

const (
	// defaultPatience is how long a record may take until every server has it, where the provider has no opinion.
	defaultPatience = 2 * time.Minute
	// longestPatience is how long it may take whatever the provider says.
	longestPatience = 10 * time.Minute
	// grace is how long servers that do not answer are waited for when all others have the record.
	grace = 10 * time.Second
	// The pauses between two looks at a zone's servers.
	firstDNSLook   = 50 * time.Millisecond
	longestDNSLook = 2 * time.Second
)

// Type is dns-01.
func (d *DNS) Type() string { return "dns-01" }

func (d *DNS) Lasts() bool { return true }

func (d *DNS) Remedy() string {
	return "the CA must find the TXT record at _acme-challenge.NAME; ask as it does: dig +trace TXT _acme-challenge.NAME; is the name delegated to the zone that the provider changes?"
}

// Open makes the provider ready. What was found out about zones is forgotten: they may have moved since.
func (d *DNS) Open(ctx context.Context, _ crypto.PublicKey) (func(), error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil {
		records, err := d.Connect(ctx)
		if err != nil {
			return nil, hint.Add(fmt.Errorf("dns-01: %w", err), "check the challenge's dns settings and secrets")
		}
		d.records = records
	}
	d.view = NewView(d.Resolvers, d.Dial)
	return func() {}, nil
}

// parts are the provider and what DNS looks like; an error before open.
func (d *DNS) parts() (Records, *View, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.records == nil || d.view == nil {
		return nil, nil, errors.New("dns-01: the provider is not ready")
	}
	return d.records, d.view, nil
}

// Place finds out where the record for a name belongs: a wildcard shares it with its base name, and names whose CNAMEs lead
// to one Place share that.
func (d *DNS) Place(ctx context.Context, name string) (string, error) {
	_, view, err := d.parts()
	if err != nil {
		return "", err
	}
	own := dns.CanonicalName("_acme-challenge." + name + ".")
	at, err := view.follow(ctx, own)
	if err == nil && at != own {
		err = checkPlace(ctx, view, at)
	}
	if err != nil {
		return "", hint.Add(fmt.Errorf("dns-01: where _acme-challenge.%s leads cannot be found out: %s", name, printable.Phrase(err.Error())),
			"where this host's resolvers do not know the name as the CA does, set resolvers")
	}
	return at, nil
}

// places are names at which a record may be put: letters, digits, hyphens (not first) and underscores. They are handed to
// programs, and to providers that may take other signs for something else.
var places = regexp.MustCompile(`^([A-Za-z0-9_]([A-Za-z0-9_-]*)\.)+$`)

// checkPlace refuses a place that a CNAME names and that nobody would delegate for this: DNS answers can be forged, and some
// providers replace all records of a name.
func checkPlace(ctx context.Context, view *View, at string) error {
	if len(at) > 254 || !places.MatchString(at) {
		return errors.New("the CNAME leads to a name that is none for a record")
	}
	zone, err := view.Zone(ctx, at)
	if err == nil && zone == at {
		return fmt.Errorf("the CNAME leads to %s, which is a whole zone: its own records would be in danger", at)
	}
	return err
}

func record(p Proof) TXT {
	return TXT{FQDN: p.Place, Value: p.Digest(), Name: p.Name, Token: p.Token, KeyAuthorization: p.KeyAuthorization()}
}

func (d *DNS) Present(ctx context.Context, p Proof) error {
	records, _, err := d.parts()
	if err != nil {
		return err
	}
	r := record(p)
	if err := records.Put(ctx, r); err != nil {
		said := fmt.Errorf("dns-01: %s: %s", p.Name, printable.Phrase(err.Error()))
		if known := hint.Of(err); known != "" {
			return hint.Add(said, "%s", known)
		}
		return hint.Add(said, "check the challenge's dns settings and secrets, and that the provider has a zone for %s", r.FQDN)
	}
	if err := d.await(ctx, r); err != nil {
		return fmt.Errorf("dns-01: %s: %w", p.Name, err)
	}
	return nil
}

func (d *DNS) Retract(ctx context.Context, p Proof) error {
	records, _, err := d.parts()
	if err != nil {
		return err
	}
	if p.Place == "" {
		if p.Place, err = d.Place(ctx, p.Name); err != nil {
			return err
		}
	}
	r := record(p)
	if err := records.Remove(ctx, r); err != nil {
		return fmt.Errorf("dns-01: the TXT record %s with %q: %s", r.FQDN, r.Value, printable.Phrase(err.Error()))
	}
	return nil
}

// await waits until every server of the zone has a record. Servers that do not answer are given a while; then it is the
// others that count, because the CA asks others too.
func (d *DNS) await(ctx context.Context, r TXT) error {
	records, view, err := d.parts()
	if err != nil {
		return err
	}
	patience := defaultPatience
	if wanted := records.Patience(); wanted > 0 {
		patience = min(wanted, longestPatience)
	}
	servers, forgives, others := d.Nameservers, min(grace, patience/2), time.Duration(0)
	if published, ok := records.(Published); ok && len(servers) == 0 {
		if servers, others, err = published.Nameservers(ctx); err != nil {
			return fmt.Errorf("which servers publish it cannot be told: %s", printable.Phrase(err.Error()))
		}
		forgives = patience
	}
	begun := time.Now()
	for pause := firstDNSLook; ; pause = min(pause*8/5, longestDNSLook) {
		waited := time.Since(begun)
		look, err := d.look(ctx, view, r, servers, waited > forgives)
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case err == nil && look.isEverywhere() && waited >= others:
			return nil
		case err == nil && look.isWhereAsked() && waited > forgives:
			return nil
		case waited > patience:
			if err == nil {
				err = look.missing()
			}
			return hint.Add(fmt.Errorf("after %v the TXT record %s is not where the CA looks: %w", patience, r.FQDN, err),
				"is the name delegated to the zone that the provider changes? Where this host sees another zone than the CA does, set resolvers; where these servers cannot be asked from here, dns.nameservers; for a slow zone raise the provider's …_PROPAGATION_TIMEOUT")
		}
		if err := world.Sleep(ctx, pause); err != nil {
			return err
		}
	}
}

// look asks all servers that should have a record, side by side: those that are known, or else those of its zone. Where none of a zone's answers, such as behind a
// firewall, the resolvers may be asked; not at once, because they remember what is not there yet.
func (d *DNS) look(ctx context.Context, view *View, r TXT, known []string, resolvers bool) (look, error) {
	servers := make([]server, len(known))
	for i, address := range known {
		servers[i] = server{name: address, addresses: []string{address}}
	}
	if len(servers) == 0 {
		var err error
		if servers, err = view.authorities(ctx, r.FQDN); err != nil {
			return nil, err
		}
	}
	seen := view.lookAt(ctx, servers, r, false)
	if resolvers && len(known) == 0 && !seen.anyAnswered() {
		addresses, err := view.servers()
		if err != nil {
			return nil, err
		}
		for _, address := range addresses {
			servers = append(servers, server{name: "resolver " + address, addresses: []string{address}})
		}
		asked := view.lookAt(ctx, servers[len(seen):], r, true)
		seen = append(seen, asked...)
	}
	return seen, nil
}

// look holds the answers of all servers about one record.
type look []sight

type sight struct {
	server string
	said   said
	why    string
}

type said int

const (
	silent said = iota
	lacks
	has
)

func (l look) count(what said) int {
	n := 0
	for _, one := range l {
		if one.said == what {
			n++
		}
	}
	return n
}

func (l look) anyAnswered() bool { return l.count(silent) < len(l) }

func (l look) isEverywhere() bool { return len(l) > 0 && l.count(has) == len(l) }

func (l look) isWhereAsked() bool { return l.count(has) > 0 && l.count(lacks) == 0 }

func (l look) missing() error {
	var words []string
	for _, one := range l {
		if one.said != has {
			words = append(words, one.server+": "+one.why)
		}
	}
	return fmt.Errorf("%s", printable.Phrase(strings.Join(words, ", ")))
}
