package lifecycle

import (
	"context"
	"encoding/json"
	"log/slog"
	"slices"
	"sync"
	"time"

	"maascert/certstore"
	"maascert/internal/printable"
	"maascert/notify"
)

// Teller tells people of what passes came to. What is to be told is written down before it is told, with who tells it: hosts that share
// a store speak with one voice, and what a killed run did not tell is told by the next, under the same ID. A channel that fails holds
// up no other, and hears of the event later.
type Teller struct {
	Channels []notify.Channel
	Store    certstore.Store
	Memory   Memory // of this host; nil: none
	Node     string
	Silence  time.Duration // after which a host that says nothing is silent
	Now      func() time.Time
	Log      *slog.Logger

	mu         sync.Mutex
	remembered *hostMemory // as this host left it; nil: it was not read yet
}

// hostMemory is what a host remembers of what was told.
type hostMemory struct {
	Certificates map[string]mail `json:"certificates"`
	Notices      map[string]int  `json:"notices"` // numbers of notices on MAAS's page, by their ident
}

// Memory keeps on this host what was told, for while the store cannot be reached.
type Memory interface {
	// Load reads it; what is not there or cannot be read is nothing.
	Load() []byte
	Save(text []byte) error
}

// mail is what was told and is to be told of a certificate.
type mail struct {
	Told   []certstore.Told   `json:"told"`
	Outbox []certstore.Untold `json:"outbox"`
	Apart  bool               `json:"apart,omitempty"` // the store does not have it
}

// Telling is how it went with one channel.
type Telling struct {
	Channel, Type string
	Told          int   // events that it took
	Err           error // why it did not take the next; nil: it took all
}

const (
	// lastSave bounds writing down what was told when the program is to end.
	lastSave = 300 * time.Millisecond
	// takenTime is for how long a host that tells an event is waited for.
	takenTime = 10 * time.Minute
	// untoldAge is for how long an event is worth telling.
	untoldAge = 7 * day
	// mostUntold bounds the events of a certificate that are kept.
	mostUntold = 30
	// mostUntoldText is how many bytes they may have: their words come from outside.
	mostUntoldText = 64 << 10
)

// retellings are how long after a try, with all its repetitions, an event is told again; the last one counts from then on.
var retellings = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

// Tell tells what results are worth, and what could not be told before. It returns how it went with each channel that was told something,
// and when to look again because of what is left; zero for no such time.
func (t *Teller) Tell(ctx context.Context, certs []Certificate, results []Result) (tellings []Telling, again time.Time) {
	if len(t.Channels) == 0 {
		return nil, time.Time{}
	}
	first := ""
	for _, cert := range certs {
		if first == "" || cert.Name < first {
			first = cert.Name
		}
	}
	byChannel := map[string]*Telling{}
	for _, r := range results {
		at := slices.IndexFunc(certs, func(cert Certificate) bool { return cert.Name == r.Name })
		if at < 0 {
			continue
		}
		about := Tellable{Now: t.now(), Node: t.Node, Cert: certs[at], Result: r, Channels: t.Channels, Hosts: r.Name == first, Silence: t.Silence}
		mine, later := t.write(ctx, about)
		done := t.deliver(ctx, mine, byChannel)
		t.conclude(ctx, r.Name, done)
		again = earlier(again, earlier(later, t.nextTry(r.Name)))
	}
	for _, channel := range t.Channels {
		if one := byChannel[channel.Name]; one != nil {
			tellings = append(tellings, *one)
		}
	}
	return tellings, again
}

func (t *Teller) now() time.Time { return t.Now().Round(0) }

// write writes down what is worth telling and takes what is to be told now.
func (t *Teller) write(ctx context.Context, about Tellable) (mine []certstore.Untold, again time.Time) {
	t.change(ctx, about.Cert.Name, func(m *mail) {
		now := about.now()
		about.Told = m.Told
		var letters []Letter
		letters, m.Told, again = Tell(about)
		for _, letter := range letters {
			m.post(letter, now)
		}
		mine = m.take(t.Node, now)
	})
	return mine, again
}

func (t Tellable) now() time.Time { return t.Now.UTC() }

// post puts an event into the outbox.
func (m *mail) post(letter Letter, now time.Time) {
	// An event always marshals.
	text, _ := json.Marshal(letter.Event)
	m.Outbox = append(m.Outbox, certstore.Untold{ID: letter.Event.ID, Event: text, To: letter.To, Since: now})
	m.Outbox = m.Outbox[max(0, len(m.Outbox)-mostUntold):]
	for len(m.Outbox) > 1 && m.length() > mostUntoldText {
		m.Outbox = m.Outbox[1:]
	}
}

// length is how many bytes the events in the outbox have.
func (m *mail) length() int {
	n := 0
	for _, one := range m.Outbox {
		n += len(one.Event)
	}
	return n
}

// take takes what is to be told now and is not being told by another host, and forgets what nobody wants to know any more.
func (m *mail) take(node string, now time.Time) []certstore.Untold {
	m.Outbox = slices.DeleteFunc(m.Outbox, func(one certstore.Untold) bool { return now.Sub(one.Since) > untoldAge })
	var mine []certstore.Untold
	for i := range m.Outbox {
		one := &m.Outbox[i]
		isTaken := !one.Taken.IsZero() && one.By != node && now.Sub(one.Taken).Abs() < takenTime
		if isTaken || one.Next.After(now) {
			continue
		}
		one.Taken, one.By = now, node
		mine = append(mine, *one)
	}
	return mine
}

// deliver tells events, each channel in their order and all channels side by side. It returns what became of each.
func (t *Teller) deliver(ctx context.Context, events []certstore.Untold, byChannel map[string]*Telling) []certstore.Untold {
	left := make([]map[string]bool, len(events)) // by event: channels that did not take it
	for i, one := range events {
		left[i] = map[string]bool{}
		for _, name := range one.To {
			left[i][name] = true
		}
	}
	var mu sync.Mutex
	var group sync.WaitGroup
	for _, channel := range t.Channels {
		group.Go(func() {
			telling := Telling{Channel: channel.Name, Type: channel.Type}
			for i, one := range events {
				var event notify.Event
				if !slices.Contains(one.To, channel.Name) || json.Unmarshal(one.Event, &event) != nil {
					continue
				}
				if telling.Err == nil { // where one was not taken, the next would not be either
					telling.Err = channel.Tell(ctx, event)
				}
				if telling.Err != nil {
					continue
				}
				telling.Told++
				mu.Lock()
				delete(left[i], channel.Name)
				mu.Unlock()
			}
			if telling.Told > 0 || telling.Err != nil {
				mu.Lock()
				defer mu.Unlock()
				byChannel[channel.Name] = join(byChannel[channel.Name], telling)
			}
		})
	}
	group.Wait()
	for i := range events {
		events[i].To = slices.DeleteFunc(slices.Clone(events[i].To), func(name string) bool { return !left[i][name] })
	}
	return events
}

// join is how it went with a channel in several certificates.
func join(before *Telling, now Telling) *Telling {
	if before != nil {
		now.Told += before.Told
		if now.Err == nil {
			now.Err = before.Err
		}
	}
	return &now
}

// conclude writes down what became of events that this host took.
func (t *Teller) conclude(ctx context.Context, cert string, done []certstore.Untold) {
	if len(done) == 0 {
		return
	}
	now := t.now().UTC()
	t.change(ctx, cert, func(m *mail) {
		for _, one := range done {
			i := slices.IndexFunc(m.Outbox, func(have certstore.Untold) bool { return have.ID == one.ID })
			switch {
			case i < 0:
			case len(one.To) == 0:
				m.Outbox = slices.Delete(m.Outbox, i, i+1)
			default:
				m.Outbox[i].To, m.Outbox[i].Taken, m.Outbox[i].By = one.To, time.Time{}, ""
				m.Outbox[i].Tries = one.Tries + 1
				m.Outbox[i].Next = now.Add(retellings[min(one.Tries, len(retellings)-1)])
			}
		}
	})
}

// nextTry is when the next event of a certificate is to be told again that one of this host's channels did not take.
func (t *Teller) nextTry(cert string) time.Time {
	var next time.Time
	for _, one := range t.here(cert).Outbox {
		isOurs := slices.ContainsFunc(t.Channels, func(c notify.Channel) bool { return slices.Contains(one.To, c.Name) })
		switch {
		case isOurs && !one.Next.IsZero():
			next = earlier(next, one.Next)
		case isOurs && !one.Taken.IsZero():
			next = earlier(next, one.Taken.Add(takenTime))
		}
	}
	return next
}

// change changes what was told and is to be told of a certificate, in the store and here; while the store cannot be reached, here alone.
// The change may be made several times, each time on what there is.
func (t *Teller) change(ctx context.Context, cert string, change func(*mail)) {
	most := saveTime
	if ctx.Err() != nil {
		most = lastSave
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()
	var after mail
	ledger, err := certstore.OpenLedger(ctx, t.Store, cert)
	if err == nil {
		err = ledger.Update(ctx, func(r *certstore.Record) {
			after = mail{Told: r.Told, Outbox: r.Outbox}
			if here := t.here(cert); here.Apart {
				after = after.joined(here, t.Node)
			}
			change(&after)
			r.Told, r.Outbox = after.Told, after.Outbox
		})
	}
	if err != nil {
		t.Log.Warn("what was told is remembered on this host alone", "cert", cert, "error", printable.Error(err))
		after = t.here(cert)
		after.Told, after.Outbox, after.Apart = slices.Clone(after.Told), slices.Clone(after.Outbox), true
		change(&after)
	}
	t.remember(func(known *hostMemory) { known.Certificates[cert] = after })
}

// joined is what a store says together with what a host remembered without it: what that host told counts, and what it sent is sent.
func (m mail) joined(here mail, node string) mail {
	both := mail{}
	for _, one := range m.Told {
		if !slices.ContainsFunc(here.Told, func(t certstore.Told) bool { return t.Topic == one.Topic && !t.At.Before(one.At) }) {
			both.Told = append(both.Told, one)
		}
	}
	for _, one := range here.Told {
		if !slices.ContainsFunc(both.Told, func(t certstore.Told) bool { return t.Topic == one.Topic }) {
			both.Told = append(both.Told, one)
		}
	}
	both.Outbox = slices.DeleteFunc(slices.Clone(m.Outbox), func(one certstore.Untold) bool { return one.By == node })
	for _, one := range here.Outbox {
		if !slices.ContainsFunc(both.Outbox, func(have certstore.Untold) bool { return have.ID == one.ID }) {
			both.Outbox = append(both.Outbox, one)
		}
	}
	return both
}

// recall is what this host remembers, read once. The caller holds the mutex.
func (t *Teller) recall() *hostMemory {
	if t.remembered != nil {
		return t.remembered
	}
	t.remembered = &hostMemory{}
	if t.Memory != nil {
		if text := t.Memory.Load(); len(text) > 0 {
			if err := json.Unmarshal(text, t.remembered); err != nil {
				t.Log.Warn("what was told cannot be read on this host; it is begun anew", "error", printable.Error(err))
				t.remembered = &hostMemory{}
			}
		}
	}
	if t.remembered.Certificates == nil {
		t.remembered.Certificates = map[string]mail{}
	}
	if t.remembered.Notices == nil {
		t.remembered.Notices = map[string]int{}
	}
	return t.remembered
}

// here is what this host remembers of a certificate.
func (t *Teller) here(cert string) mail {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recall().Certificates[cert]
}

// remember changes what this host remembers, and writes it down where that made a difference.
func (t *Teller) remember(change func(*hostMemory)) {
	t.mu.Lock()
	defer t.mu.Unlock()
	known := t.recall()
	before, _ := json.Marshal(known) // what was read from JSON marshals
	change(known)
	after, err := json.Marshal(known)
	if string(before) == string(after) || t.Memory == nil {
		return
	}
	if err == nil {
		err = t.Memory.Save(append(after, '\n'))
	}
	if err != nil {
		t.Log.Warn("what was told cannot be written down on this host", "error", printable.Error(err))
	}
}

// Recall is the number of a notice on MAAS's page, 0 where none is known.
func (t *Teller) Recall(ident string) int {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.recall().Notices[ident]
}

// Remember remembers it; 0 forgets it.
func (t *Teller) Remember(ident string, number int) {
	t.remember(func(known *hostMemory) {
		if number == 0 {
			delete(known.Notices, ident)
		} else {
			known.Notices[ident] = number
		}
	})
}
