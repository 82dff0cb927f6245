package report

import (
	"cmp"
	"crypto/x509"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"time"

	"maascert/certstore"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/maasconfig"
)

// Severity is what a monitoring plug-in ends with (Monitoring Plugins Development Guidelines, "Plugin Return Codes"); a program's exit
// code.
type Severity int

const (
	MonitorOK       Severity = 0
	MonitorWarning  Severity = 1
	MonitorCritical Severity = 2
	MonitorUnknown  Severity = 3
)

var severities = map[Severity]string{MonitorOK: "OK", MonitorWarning: "WARNING", MonitorCritical: "CRITICAL", MonitorUnknown: "UNKNOWN"}

// rank orders severities: what is known to be bad is worse than what is not known.
func (s Severity) rank() int {
	return slices.Index([]Severity{MonitorOK, MonitorUnknown, MonitorWarning, MonitorCritical}, s)
}

// Monitoring is the one line of a monitoring plug-in, and its exit code.
type Monitoring struct {
	Severity    Severity
	problems    []problem
	summaries   []string // of what is well
	performance []string
}

type problem struct {
	severity Severity
	words    string
}

// Unmonitored is the line of a plug-in that could not find out anything.
func Unmonitored(err error) Monitoring {
	var m Monitoring
	m.note(MonitorUnknown, printable.Error(err))
	return m
}

func (m *Monitoring) note(severity Severity, words string) {
	m.problems = append(m.problems, problem{severity, words})
	if severity.rank() > m.Severity.rank() {
		m.Severity = severity
	}
}

// statesThatMatter are the states that a pass leaves a certificate in and that somebody has to hear of.
var statesThatMatter = map[lifecycle.CertState]Severity{
	lifecycle.StateExpired: MonitorCritical, lifecycle.StateMissing: MonitorCritical,
	lifecycle.StateFailed: MonitorWarning, lifecycle.StateWaiting: MonitorWarning, lifecycle.StateDegraded: MonitorWarning, lifecycle.StateOverdue: MonitorWarning,
}

// NewMonitoring begins with what the last pass said of itself.
func NewMonitoring(doc Public, now time.Time) Monitoring {
	var m Monitoring
	if now.After(doc.StaleAfter.Time) {
		m.note(MonitorCritical, fmt.Sprintf("the last pass was %s, and another should have been made since: systemctl status maascert", dated(doc.At, now)))
	}
	if len(doc.Certificates) == 0 {
		m.note(MonitorUnknown, "the last pass was about no certificate")
	}
	age := max(0, now.Sub(doc.At.Time))
	m.perform("last_pass_age", "%.0fs;;%.0f;0", age.Seconds(), doc.StaleAfter.Sub(doc.At.Time).Seconds())
	return m
}

// Add adds a certificate as the last pass left it and as its endpoints serve it now.
func (m *Monitoring) Add(cert PublicCertificate, endpoints []maasconfig.Endpoint, warn, crit certstore.Left, now time.Time) {
	name := printable.Phrase(cert.Name)
	before := len(m.problems)
	if severity := statesThatMatter[lifecycle.CertState(cert.State)]; severity != MonitorOK {
		why := stageOf(cert.LastFailure)
		if cert.KeysAway {
			why = " (private keys cannot be had: maascert status)"
		}
		m.note(severity, fmt.Sprintf("%s: the last pass left it %s%s", name, printable.Phrase(cert.State), why))
	}
	serving, ends, lifetime := 0, cert.NotAfter.Time, cert.NotAfter.Sub(cert.NotBefore.Time)
	for _, e := range endpoints {
		m.addEndpoint(name, e, now)
		if e.IsTrusted() {
			serving++
		}
		if len(e.Certs) > 0 && e.Certs[0].NotAfter.Before(ends) {
			ends, lifetime = e.Certs[0].NotAfter, e.Certs[0].NotAfter.Sub(e.Certs[0].NotBefore)
		}
	}
	if !slices.ContainsFunc(endpoints, func(e maasconfig.Endpoint) bool { return len(e.Certs) > 0 }) {
		m.note(MonitorCritical, name+": no endpoint serves a certificate")
	}
	if ends.IsZero() {
		return // there is none, which was told
	}
	left, warnLeft, critLeft := ends.Sub(now), warn.Of(lifetime), crit.Of(lifetime)
	switch {
	case left <= 0 && !cert.NotAfter.After(now):
		m.note(MonitorCritical, fmt.Sprintf("%s ended %s", name, dated(Time{ends}, now)))
	case left < critLeft:
		m.note(MonitorCritical, fmt.Sprintf("%s ends %s", name, dated(Time{ends}, now)))
	case left < warnLeft:
		m.note(MonitorWarning, fmt.Sprintf("%s ends %s", name, dated(Time{ends}, now)))
	}
	if len(m.problems) == before {
		m.summaries = append(m.summaries, fmt.Sprintf("%s: %d of %d endpoints serve version %d, until %s", name, serving, len(endpoints), cert.Version, dated(Time{ends}, now)))
	}
	m.perform(label(cert.Name)+"_left", "%.0fs;%.0f:;%.0f:;0;%.0f", max(0, left.Seconds()), warnLeft.Seconds(), critLeft.Seconds(), lifetime.Seconds())
	m.perform(label(cert.Name)+"_endpoints", "%d;%d:;;0;%d", serving, len(endpoints), len(endpoints))
}

func (m *Monitoring) addEndpoint(name string, e maasconfig.Endpoint, now time.Time) {
	if e.IsTrusted() {
		return
	}
	severity := MonitorWarning
	if e.Distrust != nil || e.Chain == maasconfig.Incomplete {
		severity = MonitorCritical
	}
	words := e.String()
	if len(e.Certs) > 0 && e.Certs[0].NotAfter.Before(now) {
		words = fmt.Sprintf("%s serves a certificate that ended %s", e.Address, dated(Time{e.Certs[0].NotAfter}, now))
	} else if e.State == maasconfig.Other && e.Distrust != nil {
		words += ", which clients do not trust: " + printable.Phrase(e.Distrust.Error())
	}
	m.note(severity, name+": "+printable.Text(words))
}

func stageOf(failure *PublicFailure) string {
	if failure == nil {
		return ""
	}
	return fmt.Sprintf(" (%s failed at %s)", printable.Phrase(failure.Stage), failure.Time)
}

// label is a text as performance data may name a value.
func label(text string) string {
	return strings.Map(func(r rune) rune {
		if r == '\'' || r == '=' || r == '|' || r == ' ' {
			return '_'
		}
		return r
	}, printable.Phrase(text))
}

func (m *Monitoring) perform(label, format string, values ...any) {
	m.performance = append(m.performance, "'"+label+"'="+fmt.Sprintf(format, values...))
}

// mostProblems is how many problems the line tells of.
const mostProblems = 4

// Words writes the line for people and the monitoring server: the worst first. No text has what ends it or begins its performance data.
func (m Monitoring) Words(w io.Writer) {
	slices.SortStableFunc(m.problems, func(a, b problem) int { return cmp.Compare(b.severity.rank(), a.severity.rank()) })
	words := m.summaries
	if len(m.problems) > 0 {
		words = nil
		for i, one := range m.problems {
			if i == mostProblems {
				words = append(words, fmt.Sprintf("and %d more: maascert status", len(m.problems)-i))
				break
			}
			words = append(words, one.words)
		}
	}
	line := fmt.Sprintf("MAASCERT %s - %s", severities[m.Severity], strings.ReplaceAll(strings.Join(words, "; "), "|", "/"))
	if len(m.performance) > 0 {
		line += " | " + strings.Join(m.performance, " ")
	}
	fmt.Fprintln(w, line)
}

// Wanted is the leaf and chain of a certificate's public copy, as far as it is the version that a pass left in use.
func (p PublicCertificate) Wanted(chain []byte) ([]*x509.Certificate, error) {
	certs, err := certstore.ParseCertificates(chain)
	if err == nil && (len(certs) == 0 || certstore.Fingerprint(certs[0]) != p.Fingerprint) {
		err = errors.New("the public copy is another version than the one in use")
	}
	return certs, err
}
