package command

import (
	"context"
	"log/slog"
	"maps"
	"regexp"
	"slices"
	"strings"
	"time"

	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
)

// runLog tells the daemon's log what passes come to. What lasts is said once, again each time that half of what is left of the certificate
// has gone, and when it is over.
type runLog struct {
	log  *slog.Logger
	said map[saying]*lastSaid
}

func newRunLog(log *slog.Logger) *runLog { return &runLog{log: log, said: map[saying]*lastSaid{}} }

// saying is what a trouble or a warning is about.
type saying struct{ cert, target, stage string }

type lastSaid struct {
	words string        // without what differs each time
	since time.Time     // when it was seen first
	at    time.Time     // when it was said last
	left  time.Duration // of the certificate then; 0: nobody knew
}

// dailyWord is how long after the last word a trouble is said again where nobody knows what is left.
const dailyWord = 24 * time.Hour

// fleeting are parts of a text that differ each time that the same is said: moments, durations, and our own end of a connection.
var fleeting = regexp.MustCompile(`20\d\d-\d\d-\d\d[T ]\d\d:\d\d(:\d\d(\.\d+)?)?( UTC|Z|[+-]\d\d:\d\d)?|\b(\d+(\.\d+)?(ns|µs|ms|s|m|h))+\b|:\d+->`)

// isWorthSaying tells whether a trouble is new, or has lasted long enough to be said again, and since when it lasts.
func (l *runLog) isWorthSaying(about saying, words string, ends, now time.Time) (isWorth bool, since time.Time) {
	words = fleeting.ReplaceAllString(words, "#")
	left := time.Duration(0)
	if !ends.IsZero() {
		left = max(0, ends.Sub(now))
	}
	one := l.said[about]
	switch {
	case one == nil || one.words != words:
		if one == nil {
			one = &lastSaid{since: now}
			l.said[about] = one
		}
	case left > one.left && one.left > 0: // what is served was renewed meanwhile
		one.left = left
		return false, one.since
	case one.left > 0 && left > one.left/2, one.left == 0 && now.Sub(one.at) < dailyWord:
		return false, one.since
	}
	one.words, one.at, one.left = words, now, left
	return true, one.since
}

// tell says what a pass over a certificate came to, and when the next one is.
func (l *runLog) tell(r lifecycle.Result, next, now time.Time, stopping bool) {
	log := l.log.With("cert", r.Name)
	if len(r.Troubles) > 0 && stopping {
		log.Info("stopped while at work; the next pass goes on", "stage", r.Stage())
		return
	}
	if r.IsLeftToOthers() {
		log.Info("left to another run", "error", printable.Error(r.Err()), "next", utc(next))
		return
	}
	open := map[saying]bool{}
	for _, t := range r.WorstAtEach() {
		about := saying{r.Name, t.Target, string(t.Stage)}
		open[about] = true
		l.tellTrouble(log, about, t, r, next, now)
	}
	for _, warning := range r.After.Warnings {
		about := saying{r.Name, fleeting.ReplaceAllString(warning, "#"), "warning"}
		open[about] = true
		if isWorth, _ := l.isWorthSaying(about, warning, r.After.Ends(), now); isWorth {
			log.Warn("warning", "warning", printable.Text(warning))
		}
	}
	l.tellRecovered(log, r.Name, open, now)
	switch {
	case len(r.Troubles) > 0:
	case r.Changed:
		log.Info("as it should be", "version", r.After.Version(), "obtained", r.Obtained, "deployed", strings.Join(slices.Sorted(maps.Keys(r.Deployed)), ","), "renewal", utc(r.After.Plan.RenewAt), "took", r.Duration.Round(time.Millisecond))
	default:
		fields := []any{"version", r.After.Version(), "renewal", utc(r.After.Plan.RenewAt), "next", utc(next)}
		if changes := report.ChangesOf(r.Before).String(); changes != "" {
			fields = append(fields, "changes", changes)
		}
		log.Info("nothing to do", fields...)
	}
}

func (l *runLog) tellTrouble(log *slog.Logger, about saying, t lifecycle.Trouble, r lifecycle.Result, next, now time.Time) {
	isWorth, since := l.isWorthSaying(about, t.Err.Error(), r.After.Ends(), now)
	level := slog.LevelError
	if !isWorth {
		level = slog.LevelDebug
	}
	fields := []any{"state", string(r.After.Summary), "stage", string(t.Stage)}
	if t.Target != "" {
		fields = append(fields, "target", t.Target)
	}
	fields = append(fields, "error", printable.Error(t.Err))
	if advice := hint.Of(t.Err); advice != "" {
		fields = append(fields, "hint", printable.Text(advice))
	}
	if since.Before(now) {
		fields = append(fields, "since", utc(since))
	}
	if ends := r.After.Ends(); !ends.IsZero() {
		fields = append(fields, "ends", utc(ends))
	}
	log.Log(context.Background(), level, "not as it should be", append(fields, "next", utc(next))...)
}

// tellRecovered says which troubles of a certificate are over.
func (l *runLog) tellRecovered(log *slog.Logger, cert string, open map[saying]bool, now time.Time) {
	var over []saying
	for about := range l.said {
		if about.cert == cert && !open[about] {
			over = append(over, about)
		}
	}
	slices.SortFunc(over, func(a, b saying) int { return strings.Compare(a.stage+a.target, b.stage+b.target) })
	for _, about := range over {
		if about.stage != "warning" {
			fields := []any{"stage", about.stage}
			if about.target != "" {
				fields = append(fields, "target", about.target)
			}
			log.Info("recovered", append(fields, "after", now.Sub(l.said[about].since).Round(time.Second))...)
		}
		delete(l.said, about)
	}
}

// utc is a moment as the log shows it.
func utc(t time.Time) string { return printable.Time(t) }
