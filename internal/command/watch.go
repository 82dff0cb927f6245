package command

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"log/slog"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/jedib0t/go-pretty/v6/progress"
	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"maascert/internal/lifecycle"
	"maascert/internal/printable"
)

// pass is one pass of an engine. Whoever sits at a terminal sees how it comes along: each name, target and endpoint on a line that changes,
// or on one for each thing that happens where lines cannot change or nobody wants them to (NO_COLOR). Elsewhere what came of it is told at its
// end, and the log tells the rest to whoever wants it.
func (a *app) pass(ctx context.Context, engine *lifecycle.Engine, options lifecycle.Options) []lifecycle.Result {
	columns, rows := a.sizeOf(a.stderr)
	var watch watcher
	switch {
	case columns == 0 || a.isQuiet || a.isJSON || a.log.Enabled(ctx, slog.LevelInfo):
		return engine.Pass(ctx, options)
	case isPlain(os.Getenv) || columns < narrowest || rows < fewestRows:
		watch = &printedLines{to: a.complaints}
	default:
		watch = newLiveLines(a.stderr, columns, rows, !isUTF8(os.Getenv), len(engine.Certificates) > 1)
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
	end()
}

// isPlain tells whether a terminal gets nothing but lines of text: it can do no more, or somebody wants it so (no-color.org).
func isPlain(environment func(string) string) bool {
	kind := environment("TERM")
	return environment("NO_COLOR") != "" || kind == "" || kind == "dumb"
}

// sizeOf is how wide and how high the terminal is that an output goes to; 0, 0: it is none.
func (a *app) sizeOf(to io.Writer) (columns, rows int) {
	file, isFile := to.(*os.File)
	if !isFile || !term.IsTerminal(int(file.Fd())) {
		return a.columns, 0
	}
	width, height, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return a.columns, 0
	}
	return cmp.Or(a.columns, width), height
}

// subject is whom a word is about.
type subject struct{ certificate, name string }

// printedLines are a line for whatever is done, fails, or is waited for.
type printedLines struct {
	to io.Writer

	mu   sync.Mutex
	said map[subject]string
}

func (l *printedLines) tell(p lifecycle.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.said == nil {
		l.said = map[subject]string{}
	}
	about := subject{p.Certificate, p.Subject}
	if p.Phase == lifecycle.Underway || l.said[about] == p.Words {
		return
	}
	l.said[about] = p.Words
	fmt.Fprintf(l.to, "%s: %s: %s\n", p.Certificate, printable.Text(p.Subject), printable.Text(p.Words))
}

func (l *printedLines) end() {}

const (
	// fewestRows is the height below which lines that change are of no use.
	fewestRows = 6
	// rowsLeft are those of a terminal that the lines that change leave alone.
	rowsLeft = 3
	// mostLines are the lines that change at the same time, however high the terminal is.
	mostLines = 40
	// newFrame is how often they are drawn.
	newFrame = 80 * time.Millisecond
	// widthOfStats is what follows the words on a line: a mark and a time.
	widthOfStats = len("  x [1m23.456s]")
	// widthOfSubject is that of the first column.
	widthOfSubject = 32
)

// liveLines are one line for each subject, which changes until it is done. As many change at the same time as the terminal has room for;
// the others are counted on one more line.
type liveLines struct {
	writer progress.Writer
	width  int // of the words of a line
	most   int
	more   string // what stands for what has been cut off
	ended  chan struct{}

	hasSeveral bool // certificates

	mu     sync.Mutex
	lines  map[subject]*progress.Tracker // of those that are underway
	over   map[subject]lifecycle.Progress
	others *progress.Tracker
	hidden []subject // that others counts
	hides  int       // all that it ever counted
}

func newLiveLines(to io.Writer, columns, rows int, isASCII, hasSeveral bool) *liveLines {
	l := &liveLines{
		writer: progress.NewWriter(), width: columns - widthOfStats, most: min(rows-rowsLeft, mostLines), more: "…", ended: make(chan struct{}), hasSeveral: hasSeveral,
		lines: map[subject]*progress.Tracker{}, over: map[subject]lifecycle.Progress{},
	}
	frames, done, failed := []string{"⠋", "⠙", "⠸", "⠴", "⠦", "⠇"}, "✓", "✗"
	if isASCII {
		frames, done, failed, l.more = []string{"|", "/", "-", "\\"}, "+", "x", "~"
	}
	l.writer.SetOutputWriter(to)
	l.writer.SetTerminalWidth(columns)
	l.writer.SetMessageLength(l.width)
	l.writer.SetTrackerPosition(progress.PositionRight)
	l.writer.SetUpdateFrequency(newFrame)
	style := progress.StyleDefault
	style.Visibility = progress.StyleVisibility{Time: true, Tracker: true}
	style.Options.Separator, style.Options.DoneString, style.Options.ErrorString, style.Options.SnipIndicator = "", " "+text.FgGreen.Sprint(done), " "+text.FgRed.Sprint(failed), l.more
	style.Options.TimeInProgressPrecision, style.Options.TimeDonePrecision = time.Second, 10*time.Millisecond
	style.Colors.Stats = text.Colors{text.Faint}
	began := time.Now()
	style.Renderer.TrackerIndeterminate = func(int) string { return frames[int(time.Since(began)/newFrame)%len(frames)] }
	l.writer.SetStyle(style)
	go func() {
		defer close(l.ended)
		l.writer.Render()
	}()
	return l
}

func (l *liveLines) tell(p lifecycle.Progress) {
	l.mu.Lock()
	defer l.mu.Unlock()
	about := subject{p.Certificate, p.Subject}
	last, isOver := l.over[about]
	if p.Phase == lifecycle.Waiting || isOver && last.Phase == p.Phase {
		return // each endpoint's own line tells what is waited for; and what is over stays so until something else is said of it
	}
	line := l.lines[about]
	switch {
	case line != nil:
		line.UpdateMessage(l.words(p))
	case slices.Contains(l.hidden, about):
	case len(l.lines) < l.most:
		line = &progress.Tracker{Message: l.words(p)}
		l.lines[about] = line
		l.writer.AppendTracker(line)
	default:
		l.hide(about)
	}
	if delete(l.over, about); p.Phase == lifecycle.Underway {
		return
	}
	l.over[about] = p
	switch {
	case line == nil:
		l.unhide(about)
	case p.Phase == lifecycle.Done:
		line.MarkAsDone()
	default:
		line.MarkAsErrored()
	}
	delete(l.lines, about)
}

// words are those of a line: its subject, and what is said of it, in columns.
func (l *liveLines) words(p lifecycle.Progress) string {
	about := printable.Text(p.Subject)
	if l.hasSeveral {
		about = printable.Text(p.Certificate) + ": " + about
	}
	column := min(widthOfSubject, l.width/2)
	return text.Pad(text.Snip(about, column, l.more), column, ' ') + " " + printable.Text(p.Words)
}

// hide counts a subject on the line for those that find no room.
func (l *liveLines) hide(about subject) {
	if l.others == nil {
		l.others = &progress.Tracker{}
		l.writer.AppendTracker(l.others)
		l.hides = 0
	}
	l.hidden = append(l.hidden, about)
	l.hides++
	l.countHidden()
}

func (l *liveLines) unhide(about subject) {
	l.hidden = slices.DeleteFunc(l.hidden, func(one subject) bool { return one == about })
	l.countHidden()
	if len(l.hidden) == 0 {
		l.others.MarkAsDone()
		l.others = nil
	}
}

func (l *liveLines) countHidden() {
	l.others.UpdateMessage(fmt.Sprintf("and %d more, of which %d are through", l.hides, l.hides-len(l.hidden)))
}

// end draws the lines for the last time. Of what is still underway nobody knows how it ends.
func (l *liveLines) end() {
	l.mu.Lock()
	for _, line := range l.lines {
		line.MarkAsErrored()
	}
	if l.others != nil {
		l.others.MarkAsErrored()
	}
	l.mu.Unlock()
	for isEnded := false; !isEnded; {
		l.writer.Stop() // which has no effect before the first drawing has begun
		select {
		case <-l.ended:
			isEnded = true
		case <-time.After(newFrame):
		}
	}
}
