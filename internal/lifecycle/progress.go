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

// orderWatch tells how an order comes along at its CA.
type orderWatch struct {
	*pass
	plan     Plan
	began    time.Time
	ca       string // whom the order was made at: a rehearsal may make it elsewhere
	isProven bool   // all names are

	mu   sync.Mutex
	open map[string]bool // names that are being proven
}

func (p *pass) watchOrder(plan Plan) *orderWatch {
	return &orderWatch{pass: p, plan: plan, began: p.Now(), ca: caOf(plan.Wish.Directory), open: map[string]bool{}}
}

// caOf names a CA by its directory.
func caOf(directory string) string {
	at, err := url.Parse(directory)
	if err != nil {
		return "CA " + directory
	}
	return "CA " + cmp.Or(at.Host, directory)
}

func (o *orderWatch) reached(p acme.Progress) {
	switch p.Step {
	case acme.Ordered, acme.Resumed:
		o.news("order began", "ca", p.Directory, "names", len(o.plan.Names), "why", o.plan.Why, "resumed", p.Step == acme.Resumed)
		o.ca = caOf(p.Directory)
		words := "asked for a certificate"
		switch {
		case o.Rehearses:
			words = "asked for an order, to rehearse it"
		case p.Step == acme.Resumed:
			words = "asked for the certificate of the order that was begun"
		}
		o.shows(o.ca, Underway, "%s", words)
	case acme.Answering:
		o.turn(p.Name, Underway, "the answer is being made visible")
	case acme.Judging:
		o.turn(p.Name, Underway, "the CA was asked to look")
	case acme.Reused:
		o.turn(p.Name, Done, "proven earlier, which the CA goes by")
	case acme.Unproven:
		o.turn(p.Name, Failed, "not proven")
	case acme.Proven:
		if p.Name != "" {
			o.turn(p.Name, Done, "proven")
			return
		}
		o.news("names proven", "took", o.took(o.began))
		o.isProven = true
		o.close(Done, "proven")
	}
}

// turn brings a name into a phase.
func (o *orderWatch) turn(name string, phase Phase, words string) {
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
func (o *orderWatch) close(phase Phase, words string) {
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
func (o *orderWatch) ended(issued *acme.Issued, err error) {
	o.close(Failed, "not known: the order ended before")
	switch {
	case err != nil && o.Rehearses:
		o.shows(o.ca, Failed, "the order could not be rehearsed")
	case err != nil:
		o.shows(o.ca, Failed, "no certificate was had")
	case o.Rehearses && o.isProven:
		o.shows(o.ca, Done, "the order was rehearsed, %d requests", issued.Requests)
	case o.Rehearses: // an account would have been bound for good
		o.shows(o.ca, Done, "asked for no order, %d requests", issued.Requests)
	default:
		o.shows(o.ca, Done, "issued a certificate, %d requests", issued.Requests)
	}
}

// deployWatch tells how a target and its endpoints come along with a version.
type deployWatch struct {
	*pass
	target  string
	version int
	serving int // endpoints that the log was told of
}

// mostNews is how many endpoints of a target the log tells of one by one.
const mostNews = 10

// shows tells nothing of a rehearsal, whose targets only say what they would do.
func (d *deployWatch) shows(subject string, phase Phase, format string, args ...any) {
	if !d.Rehearses {
		d.pass.shows(subject, phase, format, args...)
	}
}

func (d *deployWatch) beginsTry() {
	d.shows("target "+d.target, Underway, "is told of version %d", d.version)
}

func (d *deployWatch) wasTold() {
	d.news("told", "target", d.target, "version", d.version)
	d.shows("target "+d.target, Done, "was told of version %d", d.version)
}

// looked tells what the endpoints were just seen to serve, and for how much longer they are waited for.
func (d *deployWatch) looked(endpoints []maasconfig.Endpoint, left time.Duration) {
	for _, e := range endpoints {
		if e.IsTrusted() {
			d.shows(d.target+" "+e.Address, Done, "serves version %d", d.version)
		} else {
			d.shows(d.target+" "+e.Address, Underway, "%v left: %s", left.Round(time.Second), serves(e))
		}
	}
}

// serves says what an endpoint serves.
func serves(e maasconfig.Endpoint) string { return strings.TrimPrefix(e.String(), e.Address+" ") }

func (d *deployWatch) seen(endpoint string, after time.Duration) {
	if d.serving++; d.serving <= mostNews {
		d.news("serves it", "target", d.target, "endpoint", endpoint, "version", d.version, "after", after.Round(time.Millisecond))
	}
}

func (d *deployWatch) waits(words string) {
	d.news("waiting", "target", d.target, "for", words)
	d.shows("target "+d.target, Waiting, "%s", words)
}

// ended tells how the deployment came out.
func (d *deployWatch) ended(outcome maasconfig.Outcome, failure error) {
	if d.serving > mostNews {
		d.news("serves it", "target", d.target, "more", d.serving-mostNews)
	}
	switch {
	case outcome.RolledBack:
		d.shows("target "+d.target, Failed, "version %d was not served anywhere; the one before it was put back", d.version)
	case outcome.Telling == maasconfig.Unsure:
		d.shows("target "+d.target, Failed, "whether it took version %d is not known", d.version)
	case failure != nil && outcome.Telling != maasconfig.Told:
		d.shows("target "+d.target, Failed, "was not told of version %d", d.version)
	}
	for _, e := range outcome.Endpoints {
		if !e.IsTrusted() {
			d.shows(d.target+" "+e.Address, Failed, "%s", serves(e))
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
