package lifecycle

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
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
	Period   time.Duration // between two passes of the schedule
	Now      func() time.Time
	Log      *slog.Logger
	// Config is why a changed configuration is not in force, as far as a daemon knows; nil: nobody knows.
	Config func() error

	changing   sync.Mutex // held while what was told is changed
	mu         sync.Mutex
	remembered *hostMemory // as this host left it; nil: it was not read yet
	naming     sync.Once
	self       string          // this process, among all that share the store
	begun      map[string]bool // certificates of which this process told something
	failing    map[string]failing
}

// failing is a channel that could not be told.
type failing struct {
	passes int // in a row
	err    error
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
	Done   []string           `json:"done,omitempty"`  // IDs of events that are not to be told any more, which the store does not know
}

// Telling is how it went with one channel.
type Telling struct {
	Channel, Type string
	Told          int   // events that it took
	Err           error // why it did not take the next; nil: it took all
}

const (
	// lastSave bounds writing down what was told when the program is to end.
	lastSave = 150 * time.Millisecond
	// takenTime is for how long a process that tells an event is waited for.
	takenTime = 10 * time.Minute
	// untoldAge is for how long an event is worth telling. What lasts is told anew then.
	untoldAge = 7 * day
	// mostUntold bounds the events of a certificate that are kept, and mostUntoldText how many bytes they may have: their words come
	// from outside.
	mostUntold     = 30
	mostUntoldText = 64 << 10
	// mostDone bounds what is remembered of events that left the outbox while the store could not be reached.
	mostDone = 100
)

// retellings are how long after a try, with all its repetitions, an event is told again; the last one counts from then on.
var retellings = []time.Duration{time.Minute, 5 * time.Minute, 15 * time.Minute, time.Hour, 6 * time.Hour}

// silentPasses is after how many passes in a row a channel counts as silent: more than an hour, as retellings has it.
const silentPasses = 5

// errand is an event that is to be told now.
type errand struct {
	cert string
	certstore.Untold
}

// Tell tells what results are worth, and what could not be told before. It returns how it went with each channel that was told something,
// and when to look again because of what is left; zero for no such time. When the context has ended it only writes down what the passes
// did.
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
	silence := SilenceOf(t.Period, Views(results)...)
	var errands []errand
	for _, r := range results {
		at := slices.IndexFunc(certs, func(cert Certificate) bool { return cert.Name == r.Name })
		if at < 0 {
			continue
		}
		about := Tellable{
			Now: t.now(), Node: t.Node, Cert: certs[at], Result: r, Channels: t.Channels, Hosts: r.Name == first, Silence: silence, ActsOnly: ctx.Err() != nil,
		}
		if about.ActsOnly && len(about.acts()) == 0 {
			continue // and the program ends without a look into the store
		}
		if r.Name == first && t.Config != nil {
			about.Here = &Here{Config: t.Config(), Silent: t.silent()}
		}
		mine, later := t.write(ctx, about)
		errands, again = append(errands, mine...), earlier(again, later)
	}
	tellings = t.deliver(ctx, errands)
	t.count(tellings)
	for _, r := range results {
		again = earlier(again, t.nextTry(r.Name))
	}
	return tellings, again
}

// count counts the passes in a row after which a channel could not be told.
func (t *Teller) count(tellings []Telling) {
	if t.failing == nil {
		t.failing = map[string]failing{}
	}
	for _, one := range tellings {
		if one.Err == nil {
			delete(t.failing, one.Channel)
		} else {
			t.failing[one.Channel] = failing{t.failing[one.Channel].passes + 1, one.Err}
		}
	}
}

// silent are the channels that could not be told for a while, and why.
func (t *Teller) silent() map[string]error {
	silent := map[string]error{}
	for name, one := range t.failing {
		if one.passes >= silentPasses {
			silent[name] = one.err
		}
	}
	return silent
}

func (t *Teller) now() time.Time { return t.Now().Round(0).UTC() }

// process is this one, among all that share the store.
func (t *Teller) process() string {
	t.naming.Do(func() { t.self = t.Node + "/" + rand.Text()[:8] })
	return t.self
}

// write writes down what is worth telling and takes what is to be told now.
func (t *Teller) write(ctx context.Context, about Tellable) (errands []errand, again time.Time) {
	process := t.process()
	change := func(m *mail) {
		about.Told = m.Told
		var letters []Letter
		letters, m.Told, again = Tell(about)
		for _, letter := range letters {
			m.post(letter, about.Now, process)
		}
		m.discard(about.Now)
		errands = nil
		if about.ActsOnly {
			return
		}
		for _, one := range m.take(process, about.Now, !t.begun[about.Cert.Name]) {
			errands = append(errands, errand{about.Cert.Name, one})
		}
	}
	if !t.isIdle(about, change) {
		t.change(ctx, about.Cert.Name, change)
	}
	if t.begun == nil {
		t.begun = map[string]bool{}
	}
	t.begun[about.Cert.Name] = true
	return errands, again
}

// isIdle tells whether a change makes no difference to what the pass read of the record: then nobody has to ask the store again.
func (t *Teller) isIdle(about Tellable, change func(*mail)) bool {
	if about.Result.After.Blind || t.here(about.Cert.Name).Apart {
		return false
	}
	record := about.Result.After.State.Record
	before := mail{Told: record.Told, Outbox: record.Outbox}
	after := mail{Told: slices.Clone(record.Told), Outbox: slices.Clone(record.Outbox)}
	change(&after)
	if len(before.Told)+len(before.Outbox)+len(after.Told)+len(after.Outbox) > 0 {
		was, _ := json.Marshal(before) // what was read from JSON marshals
		is, err := json.Marshal(after)
		if err != nil || string(was) != string(is) {
			return false
		}
	}
	t.remember(func(known *hostMemory) { known.Certificates[about.Cert.Name] = after })
	return true
}

// post puts an event into the outbox. Of what lasts only the last word counts: who did not hear the one before need not hear it any more.
func (m *mail) post(letter Letter, now time.Time, process string) {
	// An event always has a document.
	text, _ := letter.Event.Document()
	isLasting := slices.ContainsFunc(m.Told, func(one certstore.Told) bool { return one.Topic == letter.Event.Topic })
	for i := range m.Outbox {
		if one := &m.Outbox[i]; isLasting && one.Topic == letter.Event.Topic && !isTaken(*one, process, now) {
			one.To = without(one.To, letter.To)
		}
	}
	m.Outbox = append(m.Outbox, certstore.Untold{ID: letter.Event.ID, Topic: letter.Event.Topic, Event: json.RawMessage(text), To: letter.To, Since: now})
}

// discard forgets events that everybody was told, that are old news, or too many. Who was not told of something that lasts is told anew.
func (m *mail) discard(now time.Time) {
	length := 0
	for _, one := range m.Outbox {
		length += len(one.Event)
	}
	n := len(m.Outbox)
	m.Outbox = slices.DeleteFunc(m.Outbox, func(one certstore.Untold) bool {
		isTooMuch := (n > mostUntold || length > mostUntoldText) && !one.Since.Equal(now)
		if len(one.To) > 0 && !isTooMuch && now.Sub(one.Since) <= untoldAge {
			return false
		}
		for i := range m.Told {
			if m.Told[i].Topic == one.Topic && !m.Told[i].Over {
				m.Told[i].To = without(m.Told[i].To, one.To)
			}
		}
		n, length = n-1, length-len(one.Event)
		return true
	})
}

// take takes what is to be told now, or all that there is where this process has only begun: somebody may have mended what kept it from
// being told. What another process tells just now it is left to tell, and what follows on that waits.
func (m *mail) take(process string, now time.Time, all bool) []certstore.Untold {
	var mine []certstore.Untold
	waiting := map[string]bool{} // topics of which something else is told first
	for i := range m.Outbox {
		one := &m.Outbox[i]
		isLater := !all && one.Next.After(now) && one.Next.Sub(now) <= retellings[len(retellings)-1]+time.Minute // else a clock was ahead
		if waiting[one.Topic] || isLater || isTaken(*one, process, now) {
			waiting[one.Topic] = true
			continue
		}
		one.Taken, one.By = now, process
		mine = append(mine, *one)
	}
	return mine
}

// isTaken tells whether another process tells an event just now.
func isTaken(one certstore.Untold, process string, now time.Time) bool {
	return !one.Taken.IsZero() && one.By != process && now.Sub(one.Taken).Abs() < takenTime
}

// deliver tells events, each channel in their order and all channels side by side. What became of them is written down as soon as a
// channel has ended.
func (t *Teller) deliver(ctx context.Context, errands []errand) []Telling {
	tellings := make([]Telling, len(t.Channels))
	var group sync.WaitGroup
	for i, channel := range t.Channels {
		group.Go(func() {
			tellings[i] = Telling{Channel: channel.Name, Type: channel.Type}
			took := map[string][]string{} // by certificate: IDs of events
			for _, one := range errands {
				var event notify.Event
				if !slices.Contains(one.To, channel.Name) || json.Unmarshal(one.Event, &event) != nil {
					continue
				}
				err := channel.Tell(ctx, event)
				var partial *notify.Partial
				if err != nil {
					tellings[i].Err = err
				}
				if err != nil && !errors.As(err, &partial) {
					break // the next it would not take either
				}
				tellings[i].Told++
				took[one.cert] = append(took[one.cert], one.ID)
			}
			for cert, ids := range took {
				t.conclude(ctx, cert, channel.Name, ids)
			}
		})
	}
	group.Wait()
	t.giveBack(ctx, errands)
	return slices.DeleteFunc(tellings, func(one Telling) bool { return one.Told == 0 && one.Err == nil })
}

// conclude writes down that a channel took some events.
func (t *Teller) conclude(ctx context.Context, cert, channel string, ids []string) {
	t.change(ctx, cert, func(m *mail) {
		for i := range m.Outbox {
			if one := &m.Outbox[i]; slices.Contains(ids, one.ID) {
				one.To = without(one.To, []string{channel})
			}
		}
		m.Outbox = slices.DeleteFunc(m.Outbox, func(one certstore.Untold) bool { return len(one.To) == 0 })
	})
}

// giveBack leaves what was not taken to whoever comes next.
func (t *Teller) giveBack(ctx context.Context, errands []errand) {
	certs := map[string]bool{}
	for _, one := range errands {
		certs[one.cert] = true
	}
	for cert := range certs {
		if !slices.ContainsFunc(t.here(cert).Outbox, func(one certstore.Untold) bool { return one.By == t.process() }) {
			continue
		}
		now := t.now()
		t.change(ctx, cert, func(m *mail) {
			for i := range m.Outbox {
				if one := &m.Outbox[i]; one.By == t.process() {
					one.Next = now.Add(retellings[min(one.Tries, len(retellings)-1)])
					one.Tries, one.Taken, one.By = one.Tries+1, time.Time{}, ""
				}
			}
		})
	}
}

// nextTry is when the next event of a certificate is to be told again that one of this host's channels did not take.
func (t *Teller) nextTry(cert string) time.Time {
	var moments []time.Time
	for _, one := range t.here(cert).Outbox {
		isOurs := slices.ContainsFunc(t.Channels, func(c notify.Channel) bool { return slices.Contains(one.To, c.Name) })
		switch {
		case isOurs && !one.Taken.IsZero():
			moments = append(moments, one.Taken.Add(takenTime))
		case isOurs && !one.Next.IsZero():
			moments = append(moments, one.Next)
		}
	}
	return soonest(moments, t.now()) // what was due before was tried
}

// change changes what was told and is to be told of a certificate, in the store and here; while the store cannot be reached, here alone.
// The change may be made several times, each time on what there is.
func (t *Teller) change(ctx context.Context, cert string, change func(*mail)) {
	t.changing.Lock()
	defer t.changing.Unlock()
	most := saveTime
	if ctx.Err() != nil {
		most = lastSave
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), most)
	defer cancel()
	here := t.here(cert)
	var after mail
	ledger, err := certstore.OpenLedger(ctx, t.Store, cert)
	if err == nil {
		err = ledger.Update(ctx, func(r *certstore.Record) {
			after = mail{Told: r.Told, Outbox: r.Outbox}
			if here.Apart {
				after = after.joined(here)
			}
			change(&after)
			r.Told, r.Outbox = after.Told, after.Outbox
		})
	}
	t.remember(func(known *hostMemory) {
		if err != nil {
			before := known.Certificates[cert]
			after = mail{Told: slices.Clone(before.Told), Outbox: slices.Clone(before.Outbox), Apart: true}
			change(&after)
			after.Done = after.done(before)
		}
		known.Certificates[cert] = after
	})
	if err != nil {
		t.Log.Warn("what was told is remembered on this host alone", "cert", cert, "error", printable.Error(err))
	}
}

// done are the IDs of events that left the outbox while the store could not be reached.
func (m mail) done(before mail) []string {
	ids := before.Done
	for _, one := range before.Outbox {
		if !slices.ContainsFunc(m.Outbox, func(left certstore.Untold) bool { return left.ID == one.ID }) {
			ids = append(ids, one.ID)
		}
	}
	return ids[max(0, len(ids)-mostDone):]
}

// joined is what a store says together with what a host remembered without it: what that host told counts, and what it sent is sent.
func (m mail) joined(here mail) mail {
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
	both.Outbox = slices.Clone(here.Outbox)
	for _, one := range m.Outbox {
		isKnown := slices.ContainsFunc(here.Outbox, func(have certstore.Untold) bool { return have.ID == one.ID })
		if !isKnown && !slices.Contains(here.Done, one.ID) {
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
