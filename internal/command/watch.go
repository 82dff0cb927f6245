package command

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/text"

	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/report"
)

// pass is one pass of an engine. Whoever sits at a terminal sees how it comes along: each name, target and endpoint on a line that changes,
// or on one for each thing that happens where lines cannot change or nobody wants them to (NO_COLOR). Elsewhere what came of it is told at its
// end, and the log tells the rest to whoever wants it.
func (a *app) pass(ctx context.Context, engine *lifecycle.Engine, options lifecycle.Options) []lifecycle.Result {
	columns, rows, isTerminal := sizeOf(a.stderr)
	if !isTerminal || a.isQuiet || a.isJSON || a.log.Enabled(ctx, slog.LevelInfo) {
		return engine.Pass(ctx, options)
	}
	certificates := len(options.Certificates)
	if certificates == 0 {
		certificates = len(engine.Certificates)
	}
	var watch watcher
	if isPlain(os.Getenv) || columns < report.Narrowest || rows < fewestRows || a.log.Enabled(ctx, slog.LevelWarn) { // which would be written between the lines
		watch = newPrintedLines(a.complaints)
	} else {
		watch = newLiveLines(&frames{to: a.stderr}, columns, rows, !isUTF8(os.Getenv), certificates > 1)
	}
	engine.Progress = watch.tell
	defer func() {
		engine.Progress = nil
		watch.end()
	}()
	return engine.Pass(ctx, options)
}

// watcher shows how a pass comes along.
type watcher interface {
	tell(lifecycle.Progress)
	// end shows the last of it, as far as the terminal takes it within endTime.
	end()
}

// endTime is for how long a terminal that takes nothing, because somebody stopped it, is waited for.
const endTime = time.Second

// isPlain tells whether a terminal gets nothing but lines of text: it can do no more, or somebody wants it so (no-color.org).
func isPlain(environment func(string) string) bool {
	kind := environment("TERM")
	return environment("NO_COLOR") != "" || kind == "" || kind == "dumb"
}

// subject is whom a word is about.
type subject struct{ certificate, name string }

// printedLines are a line for whatever is done, fails, or is waited for.
type printedLines struct {
	lines   chan string
	printed chan struct{} // closed when all are

	mu     sync.Mutex
	said   map[subject]lifecycle.Progress
	isOver bool
}

// mostPrinted is how many lines may wait for a terminal that takes none. The pass does not.
const mostPrinted = 1000

func newPrintedLines(to io.Writer) *printedLines {
	l := &printedLines{lines: make(chan string, mostPrinted), printed: make(chan struct{}), said: map[subject]lifecycle.Progress{}}
	go func() {
		defer close(l.printed)
		for line := range l.lines {
			fmt.Fprintln(to, line)
		}
	}()
	return l
}

func (l *printedLines) tell(p lifecycle.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	about := subject{p.Certificate, p.Subject}
	last := l.said[about]
	if l.isOver || p.Phase == lifecycle.Underway && last.Phase != lifecycle.Done || last == p { // what was done, and is not any more, is news
		return
	}
	l.said[about] = p
	select {
	case l.lines <- fmt.Sprintf("%s: %s: %s", p.Certificate, printable.Text(p.Subject), printable.Text(p.Words)):
	default:
	}
}

func (l *printedLines) end() {
	l.mu.Lock()
	l.isOver = true
	close(l.lines)
	l.mu.Unlock()
	select {
	case <-l.printed:
	case <-time.After(endTime):
	}
}

const (
	// fewestRows is the height below which lines that change are of no use.
	fewestRows = 6
	// rowsLeft are those of a terminal that the lines that change leave alone.
	rowsLeft = 3
	// mostLines are the lines that change at the same time, however high the terminal is.
	mostLines = 40
	// frameTime is how often they are drawn.
	frameTime = 80 * time.Millisecond
	// widthOfSubject is what the name of a subject may take of a line, and never more than half.
	widthOfSubject = 60
	// widthOfStats is what follows the words on a line: a mark and a time.
	widthOfStats = len("  x [1m23.456s]")
)

// liveLines are one line for each subject, which changes until it is done. As many change at the same time as the terminal has room for;
// the others are counted on one more line, but for those that fail.
type liveLines struct {
	writer      progress.Writer
	width       int // of the words of a line
	most        int // lines that change
	hasSeveral  bool
	isASCII     bool
	ellipsis    string
	drawn       chan struct{} // closed after the last drawing
	mu          sync.Mutex
	lines       map[subject]*progress.Tracker  // of those that are underway
	over        map[subject]lifecycle.Progress // how the others came out
	rest        *progress.Tracker              // the line that counts those that found no room; nil: all did
	counted     map[subject]bool               // all of them, and whether each is underway
	saidThrough int                            // of them when the last such line ended
}

func newLiveLines(to io.Writer, columns, rows int, isASCII, hasSeveral bool) *liveLines {
	l := &liveLines{
		writer: progress.NewWriter(), width: columns - widthOfStats, most: min(rows-rowsLeft, mostLines), hasSeveral: hasSeveral, isASCII: isASCII, ellipsis: "…",
		drawn: make(chan struct{}), lines: map[subject]*progress.Tracker{}, over: map[subject]lifecycle.Progress{}, counted: map[subject]bool{},
	}
	spinner, done, failed := []string{"⠋", "⠙", "⠸", "⠴", "⠦", "⠇"}, "✓", "✗"
	if isASCII {
		spinner, done, failed, l.ellipsis = []string{"|", "/", "-", "\\"}, "+", "x", "~"
	}
	l.writer.SetOutputWriter(to)
	l.writer.SetTerminalWidth(columns)
	l.writer.SetMessageLength(l.width)
	l.writer.SetTrackerPosition(progress.PositionRight)
	l.writer.SetUpdateFrequency(frameTime)
	style := progress.StyleDefault
	style.Visibility = progress.StyleVisibility{Time: true, Tracker: true}
	style.Options.Separator, style.Options.DoneString, style.Options.ErrorString, style.Options.SnipIndicator = "", " "+text.FgGreen.Sprint(done), " "+text.FgRed.Sprint(failed), l.ellipsis
	style.Options.TimeInProgressPrecision, style.Options.TimeDonePrecision = time.Second, 10*time.Millisecond
	style.Colors.Stats = text.Colors{text.Faint}
	began := time.Now()
	style.Renderer.TrackerIndeterminate = func(int) string { return spinner[int(time.Since(began)/frameTime)%len(spinner)] }
	l.writer.SetStyle(style)
	go func() {
		defer close(l.drawn)
		l.writer.Render()
	}()
	return l
}

func (l *liveLines) tell(p lifecycle.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	about := subject{p.Certificate, p.Subject}
	if last, isOver := l.over[about]; p.Phase == lifecycle.Waiting || isOver && last.Phase == p.Phase {
		return // each endpoint's own line tells what is waited for; and what is over stays so until something else is said of it
	}
	delete(l.over, about)
	if p.Phase != lifecycle.Underway {
		l.over[about] = p
	}
	line := l.lines[about]
	_, isCounted := l.counted[about]
	switch {
	case p.Phase == lifecycle.Failed:
		if isCounted { // it gets a line
			delete(l.counted, about)
			l.showRest()
		}
		l.lineFor(about, line, p).MarkAsErrored()
		delete(l.lines, about)
	case line == nil && (isCounted || len(l.lines) >= l.most):
		l.counted[about] = p.Phase == lifecycle.Underway
		l.showRest()
	case p.Phase == lifecycle.Underway:
		l.lines[about] = l.lineFor(about, line, p)
	default:
		l.lineFor(about, line, p).MarkAsDone()
		delete(l.lines, about)
	}
}

// lineFor is a subject's line, which is made where it has none, with the newest words.
func (l *liveLines) lineFor(about subject, line *progress.Tracker, p lifecycle.Progress) *progress.Tracker {
	name, words := printable.Text(p.Subject), printable.Text(p.Words)
	if l.hasSeveral {
		name = printable.Text(p.Certificate) + ": " + name
	}
	column := min(l.width/2, widthOfSubject)
	message := text.Pad(shortened(name, column, l.ellipsis), column, ' ') + " " + words
	if l.isASCII {
		message = asciiOf(message)
	}
	if line != nil {
		line.UpdateMessage(message)
		return line
	}
	line = &progress.Tracker{Message: message}
	l.writer.AppendTracker(line)
	return line
}

// shortened is a name in so many columns: its middle tells least of all.
func shortened(name string, columns int, ellipsis string) string {
	runes := []rune(name)
	if text.StringWidthWithoutEscSequences(name) <= columns || len(runes) < columns {
		return text.Snip(name, columns, ellipsis)
	}
	head := (columns - 1) / 2
	return string(runes[:head]) + ellipsis + string(runes[len(runes)-(columns-1-head):])
}

// showRest says how many found no room for a line of their own, and how many of them are through.
func (l *liveLines) showRest() {
	through := 0
	for _, isUnderway := range l.counted {
		if !isUnderway {
			through++
		}
	}
	if l.rest == nil && through == len(l.counted) && through <= l.saidThrough {
		return
	}
	if l.rest == nil {
		l.rest = &progress.Tracker{}
		l.writer.AppendTracker(l.rest)
	}
	l.rest.UpdateMessage(fmt.Sprintf("and %d more, of which %d are through", len(l.counted), through))
	if through == len(l.counted) {
		l.rest.MarkAsDone()
		l.rest, l.saidThrough = nil, through
	}
}

// end draws the lines for the last time. Of what is still underway nobody knows how it ends.
func (l *liveLines) end() {
	l.mu.Lock()
	for _, line := range l.lines {
		line.MarkAsErrored()
	}
	if l.rest != nil {
		l.rest.MarkAsErrored()
	}
	l.mu.Unlock()
	deadline := time.After(endTime)
	for {
		l.writer.Stop() // which has no effect before the first drawing has begun
		select {
		case <-l.drawn:
			return
		case <-deadline:
			return
		case <-time.After(frameTime):
		}
	}
}

// frames are drawings on a terminal, which may get narrower meanwhile, and which shows what somebody types. On one that has got too low for them
// nothing more is drawn: each would push what is above it out of the terminal. What came of the pass is told after them.
type frames struct {
	to       io.Writer
	isTooLow bool
}

func (f *frames) Write(drawing []byte) (int, error) {
	columns, rows, _ := sizeOf(f.to)
	if f.isTooLow = f.isTooLow || rows > 0 && strings.Count(string(drawing), "\x1b[A") >= rows; f.isTooLow {
		return len(drawing), nil
	}
	var out strings.Builder
	out.WriteByte('\r') // also where ^C was shown
	for line := range strings.Lines(string(drawing)) {
		if words := strings.TrimSuffix(line, "\n"); columns > 0 && words != line {
			line = text.Trim(words, columns) + "\n"
		}
		out.WriteString(line)
	}
	if _, err := io.WriteString(f.to, out.String()); err != nil {
		return 0, err
	}
	return len(drawing), nil
}
