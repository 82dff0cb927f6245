package report

import (
	"bytes"
	"cmp"
	"crypto/sha256"
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"slices"
	"time"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
)

// The status page is another face of the public document: one page that tells a person at a glance how the certificates are. It holds no error's
// text, needs no script, and loads nothing.

//go:embed page.html
var pageText string

//go:embed page.css
var pageStyle string

var page = template.Must(template.New("page").Parse(pageText))

// PageStyleSource is what a content security policy allows as the page's only style (CSP, style-src).
func PageStyleSource() string {
	sum := sha256.Sum256([]byte(pageStyle))
	return "'sha256-" + base64.StdEncoding.EncodeToString(sum[:]) + "'"
}

// PastPass is a pass as the daemon made it: what was done, and why.
type PastPass struct {
	At    time.Time
	Lines []PastLine
}

// PastLine is what a pass did for one certificate. What an error says is for those who may read the log.
type PastLine struct {
	Certificate string // empty: for several, to none of which anything was done
	Words       string
	IsWell      bool
}

// NewPastPass says what a pass did.
func NewPastPass(results []lifecycle.Result, at time.Time) PastPass {
	past, idle := PastPass{At: at}, 0
	for _, r := range results {
		if isIdle(r) {
			idle++
		}
	}
	for _, r := range results {
		if !isIdle(r) || idle == 1 {
			past.Lines = append(past.Lines, PastLine{r.Name, pastWords(r), r.IsWell()})
		}
	}
	if idle > 1 {
		past.Lines = append(past.Lines, PastLine{"", fmt.Sprintf("%d certificates: nothing to do", idle), true})
	}
	return past
}

// isIdle tells whether a pass found a certificate as it should be, and did nothing to it.
func isIdle(r lifecycle.Result) bool {
	return r.IsWell() && !r.Obtained && len(r.Deployed) == 0 && len(r.Revoked) == 0
}

func pastWords(r lifecycle.Result) string {
	version := r.After.Version()
	switch {
	case !r.IsWell() && r.Obtained:
		return fmt.Sprintf("obtained version %d (%s), and then failed (%s)", version, r.Before.Plan.Why.Words(), r.Stage())
	case !r.IsWell() && r.Stage() != "":
		return fmt.Sprintf("failed (%s): %s", r.Stage(), stateWords(r.After.Summary))
	case !r.IsWell():
		return stateWords(r.After.Summary)
	case r.Obtained:
		return fmt.Sprintf("obtained version %d: %s", version, r.Before.Plan.Why.Words())
	case len(r.Deployed) > 0:
		return fmt.Sprintf("brought version %d where it was not served", version)
	case len(r.Revoked) > 0:
		return fmt.Sprintf("had the CA revoke version %d", r.Revoked[0])
	default:
		return fmt.Sprintf("nothing to do: version %d is in use", version)
	}
}

// mostPast is how many passes the page shows.
const mostPast = 20

// Passed has the board show a pass among the last ones.
func (b *Board) Passed(past PastPass) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.past = append([]PastPass{past}, b.past[:min(len(b.past), mostPast-1)]...)
	b.page = nil
}

// Heard has the board show what the other hosts of a fleet said, as a pass of this one read it.
func (b *Board) Heard(own string, nodes []certstore.Node, silence lifecycle.Silence, at time.Time) {
	b.mu.Lock()
	defer b.mu.Unlock()
	fleet := newFleet(own, nodes, nil, silence, at)
	fleet.Nodes = slices.DeleteFunc(fleet.Nodes, func(n Node) bool { return n.Node == own }) // of this one the rest of the page tells
	b.others, b.heardAt, b.page = fleet.Nodes, at, nil
}

// Page is the status page as it is at a moment. It is made once a second at the most.
func (b *Board) Page(now time.Time) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	second := now.Unix()
	if b.page != nil && b.pageAt == second {
		return b.page, nil
	}
	var text bytes.Buffer
	if err := page.Execute(&text, newPageView(b, now)); err != nil {
		return nil, err
	}
	b.page, b.pageAt = text.Bytes(), second
	return b.page, nil
}

// pageView is what the page's template shows.
type pageView struct {
	Style        template.CSS
	Node         string
	Version      string
	HasPassed    bool
	IsWell       bool
	Reasons      []string // why it is not, beside the certificates that are not well
	At, Next     pageTime
	Certificates []pageCertificate // those that are not well first
	HasFolded    bool
	Others       []pageHost
	HeardAt      pageTime // when they were read of
	Past         []pagePast
	Notifiers    []PublicNotifier
}

// pageTime is a moment as the page shows it, in elements that hold nothing but digits and our own words. The zero pageTime is none.
type pageTime struct {
	At   template.HTML // the moment
	Far  template.HTML // how far away it is
	Both template.HTML
}

func newPageTime(t Time, now time.Time) pageTime {
	if t.IsZero() {
		return pageTime{"–", "–", "–"}
	}
	element := func(words string) string {
		return `<time datetime="` + t.UTC().Format(time.RFC3339) + `">` + words + `</time>`
	}
	at, far := element(printable.Time(t.Time)), printable.From(now, t.Time)
	return pageTime{template.HTML(at), template.HTML(element(far)), template.HTML(at + " (" + far + ")")}
}

type pageCertificate struct {
	Name        string
	Names       []string
	Version     int
	Fingerprint string

	Words     string
	Reason    string
	IsWell    bool
	IsFolded  bool // its details are shown to whoever asks for them
	Bar       *pageBar
	Begins    pageTime
	Ends      pageTime
	Renews    pageTime
	HasWindow bool     // the CA names one
	Opens     pageTime // it does
	Closes    pageTime
	Rehearsal string
	Targets   []pageTarget
	Serving   string // how many of their endpoints serve what they should
}

type pageTarget struct {
	Name      string
	Endpoints []pageEndpoint
}

type pageEndpoint struct {
	Address string
	Words   string
	Ends    pageTime
	IsWell  bool
}

type pagePast struct {
	At    pageTime
	Lines []PastLine
}

// pageHost is another host, by what it said of its last pass.
type pageHost struct {
	Name     string
	Words    string
	Class    string // well, ill, or neither: it was well, and something else is to be said of it
	At       pageTime
	Troubles []string
}

func newPageHost(n Node, version string, now time.Time) pageHost {
	h := pageHost{Name: n.Node, Words: "well", Class: "well", At: newPageTime(n.LastPass, now), Troubles: n.troubles(version)}
	switch {
	case !n.OK:
		h.Words, h.Class = "not well", "ill"
	case len(h.Troubles) > 0:
		h.Words, h.Class = "well at its last pass", ""
	}
	if own := n.proxies(); own != "" {
		h.Words += "; " + own
	}
	return h
}

// pageBar is a lifetime as a bar that is barWidth long.
type pageBar struct {
	Now, Renews            int
	HasRenewal             bool
	WindowFrom, WindowLong int // 0 long: the CA names no window
	Words                  string
}

const barWidth = 1000

func newPageView(b *Board, now time.Time) pageView {
	doc := b.doc
	v := pageView{
		Style: template.CSS(pageStyle), Node: doc.Node, Version: b.Version, HeardAt: newPageTime(Time{b.heardAt}, now), At: newPageTime(doc.At, now), Next: newPageTime(doc.NextPass, now), Notifiers: doc.Notifiers,
	}
	ill := 0
	for _, cert := range doc.Certificates {
		c := newPageCertificate(cert, now)
		c.IsFolded = c.IsWell && c.Reason == "" && (cert.Rehearsal == nil || cert.Rehearsal.OK) && len(doc.Certificates) > mostOpen
		v.HasFolded = v.HasFolded || c.IsFolded
		if !c.IsWell {
			ill++
		}
		v.Certificates = append(v.Certificates, c)
	}
	slices.SortStableFunc(v.Certificates, func(a, b pageCertificate) int { return cmp.Compare(rank(a.IsWell), rank(b.IsWell)) })
	if v.Reasons = unhealthyPass(doc, now, ill > 0); doc.At.IsZero() {
		v.Reasons = []string{noPassYet}
	}
	v.HasPassed, v.IsWell = !doc.At.IsZero(), ill == 0 && len(v.Reasons) == 0
	for _, host := range b.others {
		v.Others = append(v.Others, newPageHost(host, b.Version, now))
	}
	for _, one := range b.past {
		v.Past = append(v.Past, pagePast{newPageTime(Time{one.At}, now), one.Lines})
	}
	return v
}

// mostOpen is of how many certificates the page tells everything at once; of more, only those that are not well.
const mostOpen = 3

func rank(isWell bool) int {
	if isWell {
		return 1
	}
	return 0
}

func newPageCertificate(cert PublicCertificate, now time.Time) pageCertificate {
	state := lifecycle.CertState(cert.State)
	c := pageCertificate{
		Name: cert.Name, Names: cert.Names, Version: cert.Version, Fingerprint: cert.Fingerprint, Words: stateWords(state), IsWell: state.IsHealthy(), Begins: newPageTime(cert.NotBefore, now), Ends: newPageTime(cert.NotAfter, now), Renews: newPageTime(cert.RenewAt, now),
	}
	if lifecycle.Reason(cert.Reason) != lifecycle.Fresh {
		c.Reason = reasonWords(cert.Reason)
	}
	if w := cert.Window; w != nil {
		c.HasWindow, c.Opens, c.Closes = true, newPageTime(w.Start, now), newPageTime(w.End, now)
	}
	switch r := cert.Rehearsal; {
	case r == nil:
		c.Rehearsal = "none came to a result yet"
	case r.OK:
		c.Rehearsal = "worked at " + printable.Time(r.At.Time)
	default:
		c.Rehearsal = "failed at " + printable.Time(r.At.Time)
	}
	c.Bar = newPageBar(cert, now)
	for _, target := range cert.Targets {
		t := pageTarget{Name: target.Name}
		for _, e := range target.Endpoints {
			t.Endpoints = append(t.Endpoints, pageEndpoint{e.Address, endpointWords(e), newPageTime(e.NotAfter, now), e.isMatch()})
		}
		c.Targets = append(c.Targets, t)
	}
	c.Serving = c.serving()
	return c
}

// stateWords say how a certificate is, in a few words.
func stateWords(state lifecycle.CertState) string {
	words := map[lifecycle.CertState]string{
		lifecycle.StateOK: "in use, and not due", lifecycle.StateDue: "due: the next pass renews it", lifecycle.StateHeld: "held: renewal waits", lifecycle.StateOverdue: "overdue: it should have been renewed",
		lifecycle.StateDegraded: "not every endpoint serves it", lifecycle.StateWaiting: "waiting to be tried again", lifecycle.StateFailed: "failed: a person is needed",
		lifecycle.StateMissing: "there is none yet", lifecycle.StateExpired: "expired",
	}[state]
	return cmp.Or(words, string(state))
}

// endpointWords say what an endpoint serves, by what the document keeps of it.
func endpointWords(e Endpoint) string {
	switch {
	case e.State == "match" && e.Chain != "incomplete":
		return "serves the version in use"
	case e.State == "match":
		return "serves the version in use without its whole chain"
	case e.State == "other" && e.Version != nil:
		return fmt.Sprintf("still serves version %d", *e.Version)
	case e.State == "other":
		return "serves another certificate"
	case e.State == "none":
		return "serves no certificate"
	default:
		return "could not be asked"
	}
}

func newPageBar(cert PublicCertificate, now time.Time) *pageBar {
	l := lifetime{begin: cert.NotBefore.Time, end: cert.NotAfter.Time, now: now, renewal: cert.RenewAt.Time}
	if !l.isKnown() {
		return nil
	}
	bar := &pageBar{Now: l.at(now, barWidth), HasRenewal: !l.renewal.IsZero(), Renews: l.at(l.renewal, barWidth), Words: l.words()}
	if w := cert.Window; w != nil {
		bar.WindowFrom = l.at(w.Start.Time, barWidth)
		bar.WindowLong = max(l.at(w.End.Time, barWidth)-bar.WindowFrom, 4)
	}
	return bar
}

// Verdict says that all is well.
func (v pageView) Verdict() string {
	if all := len(v.Certificates); all != 1 {
		return fmt.Sprintf("All %d certificates are as they should be.", all)
	}
	return "The certificate is as it should be."
}

// serving counts the endpoints of a certificate, and those that serve what they should.
func (c pageCertificate) serving() string {
	all, well := 0, 0
	for _, target := range c.Targets {
		for _, e := range target.Endpoints {
			all++
			if e.IsWell {
				well++
			}
		}
	}
	if all == 1 {
		return fmt.Sprintf("%d of 1 endpoint serves what it should", well)
	}
	return fmt.Sprintf("%d of %d endpoints serve what they should", well, all)
}
