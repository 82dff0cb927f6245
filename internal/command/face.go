package command

import (
	"bytes"
	"cmp"
	"io"
	"os"
	"regexp"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jedib0t/go-pretty/v6/text"
	"golang.org/x/term"

	"maascert/internal/report"
)

// face writes for people: on a terminal no line is longer than it is wide, so that no word is broken; where the locale is not UTF-8, nothing
// but ASCII is written. In a pipe lines are as long as they are: programs look for words in them.
type face struct {
	to      io.Writer
	columns int // of the terminal; 0: there is none
	isASCII bool
	isProse bool // paragraphs, of which no line is indented but those of lists

	mu   sync.Mutex
	rest []byte // of a line that has not ended
}

// newFace is a face of an output.
func newFace(to io.Writer, columns int, environment func(string) string) io.Writer {
	f := &face{to: to, columns: columns, isASCII: !isUTF8(environment)}
	if f.columns == 0 && !f.isASCII {
		return to
	}
	return f
}

// newProse is a face for paragraphs.
func newProse(to io.Writer, columns int, environment func(string) string) io.Writer {
	return &face{to: to, columns: columns, isASCII: !isUTF8(environment), isProse: true}
}

// isUTF8 tells whether the locale is; where none is set, as in a service, what reads the output is not known and takes it.
func isUTF8(environment func(string) string) bool {
	for _, name := range []string{"LC_ALL", "LC_CTYPE", "LANG"} {
		if locale := strings.ToLower(environment(name)); locale != "" {
			return strings.Contains(locale, "utf-8") || strings.Contains(locale, "utf8")
		}
	}
	return true
}

// screen is what results are drawn on.
func (a *app) screen() report.Screen {
	return report.Screen{Columns: cmp.Or(a.columns, columnsOf(a.stdout)), IsASCII: !isUTF8(os.Getenv), HasColours: columnsOf(a.stdout) > 0 && !isPlain(os.Getenv)}
}

// columnsOf is how wide the terminal is that an output goes to; 0: it is none, or does not know.
func columnsOf(to io.Writer) int {
	columns, _, _ := sizeOf(to)
	return columns
}

// sizeOf is how wide and how high the terminal is that an output goes to; one that is a serial line need not know.
func sizeOf(to io.Writer) (columns, rows int, isTerminal bool) {
	file, isFile := to.(*os.File)
	if !isFile || !term.IsTerminal(int(file.Fd())) {
		return 0, 0, false
	}
	columns, rows, err := term.GetSize(int(file.Fd()))
	if err != nil {
		return 0, 0, true
	}
	return columns, rows, true
}

func (f *face) Write(part []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.rest = append(f.rest, part...)
	for {
		line, rest, isWhole := bytes.Cut(f.rest, []byte("\n"))
		if !isWhole {
			break
		}
		f.rest = append([]byte(nil), rest...)
		if _, err := io.WriteString(f.to, f.folded(string(line))+"\n"); err != nil {
			return 0, err
		}
	}
	return len(part), nil
}

// inColumns are lines of a table: what follows a wide gap goes on below where it began.
var inColumns = regexp.MustCompile(`^ {0,24}(\S+ {2,})?(\S+ {2,})`)

func (f *face) folded(line string) string {
	line = f.ascii(line)
	if f.columns < report.Narrowest || text.StringWidthWithoutEscSequences(line) <= f.columns {
		return line
	}
	indent := len(line) - len(strings.TrimLeft(line, " "))
	hanging := indent + 2
	if f.isProse && !strings.HasPrefix(line[indent:], "- ") {
		hanging = indent
	}
	if column := len(inColumns.FindString(line)); column > 0 && column <= f.columns/2 {
		hanging = column
	}
	var out strings.Builder
	at := 0
	for i, word := range strings.Split(line, " ") {
		length := text.StringWidthWithoutEscSequences(word)
		switch {
		case i == 0:
		case at+1+length > f.columns && at > hanging && word != "":
			out.WriteString("\n" + strings.Repeat(" ", hanging))
			at = hanging
		default:
			out.WriteByte(' ')
			at++
		}
		out.WriteString(word)
		at += length
	}
	return out.String()
}

func (f *face) ascii(line string) string {
	if !f.isASCII {
		return line
	}
	return asciiOf(line)
}

// asciiOf is a text for who can read nothing else.
func asciiOf(line string) string {
	return strings.Map(func(r rune) rune {
		if r >= utf8.RuneSelf {
			return '?'
		}
		return r
	}, strings.ReplaceAll(line, "…", "..."))
}
