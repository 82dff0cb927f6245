package lifecycle

import (
	"cmp"
	"fmt"
	"net/url"
	"strings"
	"sync"
	"time"

	"maascert/acme"
	"maascert/maasconfig"
)

// Progress is a word on how a pass comes along, for a person who watches it. Nothing is decided by it, and nothing remembers it.
type Progress struct {
	Certificate string
	// Subject is whom the word is about: "CA HOST", a name that is proven to it, "target NAME", or "NAME ADDRESS" for one of its endpoints.
	Subject string
	Words   string
	Phase   Phase
}

// Phase is how far a subject is.
type Phase int

const (
	Underway Phase = iota
	Waiting        // still underway after a while
	Done
	Failed
)

// shows tells whoever watches how a subject comes along. Several may be told of at once.
func (p *pass) shows(subject string, phase Phase, format string, args ...any) {
	if p.Progress != nil {
		p.Progress(Progress{p.cert.Name, subject, fmt.Sprintf(format, args...), phase})
	}
}

// proofs tells how an order comes along at its CA.
type proofs struct {
	*pass
	plan  Plan
	began time.Time
	ca    string

	mu   sync.Mutex
	open map[string]bool // names that are being proven
}

func (p *pass) newProofs(plan Plan) *proofs {
	ca := plan.Wish.Directory
	if directory, err := url.Parse(ca); err == nil {
		ca = cmp.Or(directory.Host, ca)
	}
	return &proofs{pass: p, plan: plan, began: p.Now(), ca: "CA " + ca, open: map[string]bool{}}
}

func (o *proofs) reached(step acme.Step, name string) {
	switch step {
	case acme.Ordered, acme.Resumed:
		o.news("order began", "ca", o.plan.Wish.Directory, "names", len(o.plan.Names), "why", o.plan.Why, "resumed", step == acme.Resumed)
		words := "asked for a certificate"
		if step == acme.Resumed {
			words = "asked for the certificate of the order that was begun"
		}
		o.shows(o.ca, Underway, "%s", words)
	case acme.Answering:
		o.turn(name, Underway, "the answer is being made visible")
	case acme.Judging:
		o.turn(name, Underway, "the CA was asked to look")
	case acme.Reused:
		o.turn(name, Done, "proven earlier, which the CA goes by")
	case acme.Unproven:
		o.turn(name, Failed, "not proven")
	case acme.Proven:
		if name != "" {
			o.turn(name, Done, "proven")
			return
		}
		o.news("names proven", "took", o.took(o.began))
		o.close(Done, "proven")
	}
}

// turn brings a name into a phase.
func (o *proofs) turn(name string, phase Phase, words string) {
	o.mu.Lock()
	if phase == Underway {
		o.open[name] = true
	} else {
		delete(o.open, name)
	}
	o.mu.Unlock()
	o.shows(name, phase, "%s", words)
}

// close brings all names that are still being proven into a phase.
func (o *proofs) close(phase Phase, words string) {
	for _, name := range o.plan.Names {
		o.mu.Lock()
		isOpen := o.open[name]
		o.mu.Unlock()
		if isOpen {
			o.turn(name, phase, words)
		}
	}
}

// ended tells how the order came out.
func (o *proofs) ended(issued *acme.Issued, err error) {
	o.close(Failed, "not proven: the order ended before")
	switch {
	case err != nil:
		o.shows(o.ca, Failed, "issued nothing")
	case o.Rehearses:
		o.shows(o.ca, Done, "rehearsed, %d requests", issued.Requests)
	default:
		o.shows(o.ca, Done, "issued a certificate, %d requests", issued.Requests)
	}
}

// deployed tells how a target and its endpoints come along with a version.
type deployed struct {
	*pass
	target  string
	version int

	told      bool
	endpoints int // that the log was told of
}

// mostNews is how many endpoints of a target the log tells of one by one.
const mostNews = 10

// shows tells nothing of a rehearsal, whose targets only say what they would do.
func (d *deployed) shows(subject string, phase Phase, format string, args ...any) {
	if !d.Rehearses {
		d.pass.shows(subject, phase, format, args...)
	}
}

func (d *deployed) beginsTry() {
	d.shows("target "+d.target, Underway, "is told of version %d", d.version)
}

func (d *deployed) wasTold() {
	d.told = true
	d.news("told", "target", d.target, "version", d.version)
	d.shows("target "+d.target, Done, "took version %d", d.version)
}

func (d *deployed) endpoint(e maasconfig.Endpoint) string { return d.target + " " + e.Address }

// looked tells what the endpoints were just seen to serve.
func (d *deployed) looked(endpoints []maasconfig.Endpoint) {
	for _, e := range endpoints {
		if e.IsServing() {
			d.shows(d.endpoint(e), Done, "serves version %d", d.version)
		} else {
			d.shows(d.endpoint(e), Underway, "%s", serves(e))
		}
	}
}

// serves says what an endpoint serves.
func serves(e maasconfig.Endpoint) string { return strings.TrimPrefix(e.String(), e.Address+" ") }

func (d *deployed) seen(endpoint string, after time.Duration) {
	if d.endpoints++; d.endpoints <= mostNews {
		d.news("serves it", "target", d.target, "endpoint", endpoint, "version", d.version, "after", after.Round(time.Millisecond))
	}
}

func (d *deployed) waits(words string) {
	if d.options.ByHand { // the daemon's log tells what came of it
		d.news("waiting", "target", d.target, "for", words)
	}
	d.shows("target "+d.target, Waiting, "%s", words)
}

// ended tells how the deployment came out.
func (d *deployed) ended(outcome maasconfig.Outcome, failure error) {
	if d.endpoints > mostNews {
		d.news("serves it", "target", d.target, "more", d.endpoints-mostNews)
	}
	switch {
	case outcome.RolledBack:
		d.shows("target "+d.target, Failed, "version %d was not served anywhere; the one before it was put back", d.version)
	case failure != nil && !d.told:
		d.shows("target "+d.target, Failed, "did not take version %d", d.version)
	}
	for _, e := range outcome.Endpoints {
		if !e.IsServing() {
			d.shows(d.endpoint(e), Failed, "%s", serves(e))
		}
	}
}

// news tells the log how a pass comes along. A rehearsal is none.
func (p *pass) news(what string, fields ...any) {
	if !p.Rehearses {
		p.Log.Info(what, append([]any{"cert", p.cert.Name}, fields...)...)
	}
}

func (p *pass) took(began time.Time) time.Duration { return p.Now().Sub(began).Round(time.Millisecond) }
