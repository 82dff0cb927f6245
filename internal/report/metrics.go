package report

import (
	"runtime"
	"strconv"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"maascert/internal/lifecycle"
)

// The metrics are a face of the public document: what the last passes found, asked of nobody. Their labels are the configuration's own
// words, but for endpoints, of which there are as many as regions are believed.

// descriptions of the gauges, by their names without the common beginning.
var gauges = map[string]*prometheus.Desc{}

func gauge(name, help string, labels ...string) string {
	gauges[name] = prometheus.NewDesc("maascert_"+name, help, labels, nil)
	return name
}

var (
	notBefore   = gauge("certificate_not_before_timestamp_seconds", "When the version in use begins to be valid.", "cert")
	notAfter    = gauge("certificate_not_after_timestamp_seconds", "When the version in use ends.", "cert")
	renewAt     = gauge("certificate_renew_at_timestamp_seconds", "When another certificate gets due by time.", "cert")
	failures    = gauge("certificate_failures", "Orders that failed in a row.", "cert")
	state       = gauge("certificate_state", "1 for the state that the certificate is in.", "cert", "state")
	lastAttempt = gauge("last_attempt_timestamp_seconds", "When the last order was made.", "cert")
	lastSuccess = gauge("last_success_timestamp_seconds", "When the last order that succeeded was made.", "cert")
	match       = gauge("endpoint_match", "1 where the endpoint serves the version in use with its whole chain.", "cert", "target", "endpoint")
	served      = gauge("endpoint_not_after_timestamp_seconds", "When what the endpoint serves ends.", "cert", "target", "endpoint")
	converged   = gauge("endpoint_converged_seconds", "How long after its target was first told of the version in use every endpoint was seen to serve it.", "cert", "target", "endpoint")
	lastPass    = gauge("last_pass_timestamp_seconds", "When the last pass ended.", "node")
	passSuccess = gauge("last_pass_success", "1 where the last pass left everything as it should be.", "node")
	rehearsed   = gauge("rehearsal_timestamp_seconds", "When the next renewal was last rehearsed with a result.", "cert")
	rehearsal   = gauge("rehearsal_success", "1 where that rehearsal worked.", "cert")
	keys        = gauge("keys_available", "0 where private keys that are kept apart could not be had at the last pass; missing where it could not look.", "cert")
	notTelling  = gauge("notify_failures", "Passes in a row after which the notifier did not take what it was told.", "notifier")
	buildInfo   = gauge("build_info", "1, with the version of maascert.", "version", "goversion")
)

// Board holds what the last pass found, for whoever asks. It is a prometheus.Collector, and safe for concurrent use.
type Board struct {
	Version string // of maascert

	mu      sync.Mutex
	doc     Public
	past    []PastPass // the last ones, newest first
	others  []Node     // of the fleet, as they were read of at heardAt
	heardAt time.Time
	page    []byte // as it was made at pageAt; nil: it is to be made anew
	pageAt  int64  // seconds since 1970
}

var _ prometheus.Collector = (*Board)(nil)

// Show has the board show another document.
func (b *Board) Show(doc Public) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.doc, b.page = doc, nil
}

// Shown is the document that the board shows; one without a time: none yet.
func (b *Board) Shown() Public {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.doc
}

// Describe lists the gauges.
func (b *Board) Describe(descriptions chan<- *prometheus.Desc) {
	for _, description := range gauges {
		descriptions <- description
	}
}

// Collect writes the gauges.
func (b *Board) Collect(metrics chan<- prometheus.Metric) {
	set := func(name string, value float64, labels ...string) {
		metrics <- prometheus.MustNewConstMetric(gauges[name], prometheus.GaugeValue, value, labels...)
	}
	at := func(name string, t Time, labels ...string) {
		if !t.IsZero() {
			set(name, float64(t.UnixMilli())/1000, labels...)
		}
	}
	set(buildInfo, 1, b.Version, runtime.Version())
	doc := b.Shown()
	if doc.At.IsZero() {
		return
	}
	at(lastPass, doc.At, doc.Node)
	set(passSuccess, number(doc.OK), doc.Node)
	for _, one := range doc.Notifiers {
		set(notTelling, float64(one.Failures), one.Name)
	}
	for _, cert := range doc.Certificates {
		at(notBefore, cert.NotBefore, cert.Name)
		at(notAfter, cert.NotAfter, cert.Name)
		at(renewAt, cert.RenewAt, cert.Name)
		at(lastAttempt, cert.LastAttempt, cert.Name)
		at(lastSuccess, cert.LastSuccess, cert.Name)
		set(failures, float64(cert.Failures), cert.Name)
		if !cert.KeysUnknown {
			set(keys, number(!cert.KeysAway), cert.Name)
		}
		if cert.Rehearsal != nil {
			at(rehearsed, cert.Rehearsal.At, cert.Name)
			set(rehearsal, number(cert.Rehearsal.OK), cert.Name)
		}
		for _, one := range lifecycle.CertStates {
			set(state, number(cert.State == string(one)), cert.Name, string(one))
		}
		for _, target := range cert.Targets {
			for _, e := range target.Endpoints {
				set(match, number(e.isMatch()), cert.Name, target.Name, e.Address)
				at(served, e.NotAfter, cert.Name, target.Name, e.Address)
				if e.ConvergedSeconds > 0 && e.isMatch() {
					set(converged, e.ConvergedSeconds, cert.Name, target.Name, e.Address)
				}
			}
		}
	}
}

// isMatch tells whether the endpoint serves the version in use with its whole chain.
func (e Endpoint) isMatch() bool { return e.State == "match" && e.Chain != "incomplete" }

func number(is bool) float64 {
	if is {
		return 1
	}
	return 0
}

// NewRequests counts requests to CAs, by the CA's host and the answer's status.
func NewRequests() *prometheus.CounterVec {
	return prometheus.NewCounterVec(prometheus.CounterOpts{Name: "maascert_acme_requests_total", Help: "Requests to the CA."}, []string{"host", "code"})
}

// Code is an answer's status as a label.
func Code(status int) string { return strconv.Itoa(status) }
