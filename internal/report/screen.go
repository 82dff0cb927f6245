package report

import (
	"fmt"
	"io"
	"strings"

	"github.com/jedib0t/go-pretty/v6/table"
	"github.com/jedib0t/go-pretty/v6/text"
)

// Screen is a terminal on which a document is drawn. The zero Screen is none: what is written in words goes to a file or a program.
type Screen struct {
	Columns    int
	IsASCII    bool // it shows nothing else
	HasColours bool
}

// Narrowest is the fewest columns in which anything is drawn, or folded: moments of a lifetime fall upon each other in less, and there is no
// room for an indent.
const Narrowest = 40

func (s Screen) isDrawnOn() bool { return s.Columns >= Narrowest }

// state is a word in the colour of how things are.
func (s Screen) state(word string, isWell bool) string {
	switch {
	case !s.HasColours:
		return word
	case isWell:
		return text.FgGreen.Sprint(word)
	default:
		return text.Colors{text.Bold, text.FgRed}.Sprint(word)
	}
}

// column of a table.
type column struct {
	title string
	most  int // columns of the terminal that it may take; what is longer is cut. 0: as many as it wants
}

// widthOfNames is what names may take of a table's first column.
func (s Screen) widthOfNames() int { return max(len("certificate"), min(s.Columns/4, 40)) }

// gap is what stands between two columns of a table.
const gap = "  "

// left is how much of the screen columns leave.
func (s Screen) left(columns []column, rows [][]string) int {
	left := s.Columns
	for i, c := range columns {
		widest := len(c.title)
		for _, row := range rows {
			widest = max(widest, text.StringWidthWithoutEscSequences(row[i]))
		}
		if c.most > 0 {
			widest = min(widest, c.most)
		}
		left -= widest + len(gap)
	}
	return left
}

// draw writes a table, no line of which is longer than the screen is wide.
func (s Screen) draw(w io.Writer, columns []column, rows [][]string) {
	t := table.NewWriter()
	style := table.StyleLight
	if s.IsASCII {
		style = table.StyleDefault
	}
	style.Options = table.Options{SeparateHeader: true}
	style.Box.PaddingLeft, style.Box.PaddingRight = "", gap
	style.Box.UnfinishedRow = s.cut()
	style.Format.Header = text.FormatDefault
	style.Size.WidthMax = s.Columns
	t.SetStyle(style)
	head, configs := table.Row{}, []table.ColumnConfig{}
	for i, c := range columns {
		head = append(head, c.title)
		if c.most > 0 {
			configs = append(configs, table.ColumnConfig{Number: i + 1, WidthMax: c.most, WidthMaxEnforcer: func(words string, most int) string {
				return text.Snip(words, most, s.cut())
			}})
		}
	}
	t.SetColumnConfigs(configs)
	t.AppendHeader(head)
	for _, row := range rows {
		cells := table.Row{}
		for _, cell := range row {
			cells = append(cells, cell)
		}
		t.AppendRow(cells)
	}
	for line := range strings.Lines(t.Render()) {
		fmt.Fprintln(w, strings.TrimRight(line, " \n"))
	}
}

// cut stands for what has been cut off.
func (s Screen) cut() string {
	if s.IsASCII {
		return "~"
	}
	return "…"
}

const (
	// shortest and longest are how wide a lifetime is drawn in a table; alone it is drawn as wide as longestAlone.
	shortest, longest, longestAlone = 12, 48, 100
)

// drawCertificates writes a table of certificates: how each is, when it is renewed and ends, who serves it, and of several the lifetime of
// each. Where there is no room for everything, the lifetime is left out, and then who serves it.
func (s Screen) drawCertificates(w io.Writer, certificates []Certificate) {
	columns := []column{{"certificate", s.widthOfNames()}, {"state", 0}, {"renewal", 0}, {"ends", 0}, {"served", 0}}
	var rows [][]string
	for _, c := range certificates {
		serving, all := c.serving()
		rows = append(rows, []string{c.Name, s.state(c.State, c.isHealthy()), c.until(c.RenewAt), c.until(c.NotAfter), fmt.Sprintf("%d of %d", serving, all)})
	}
	left := min(s.left(columns, rows)-len(gap), longest)
	hasLifetimes := left >= shortest && len(certificates) > 1
	switch {
	case left < -len(gap):
		columns = columns[:4]
		for i := range rows {
			rows[i] = rows[i][:4]
		}
	case hasLifetimes:
		columns = append(columns, column{"lifetime", 0})
		for i, c := range certificates {
			drawn := "-"
			if c.lifetime.isKnown() {
				drawn = c.lifetime.line(left, s.IsASCII)
			}
			rows[i] = append(rows[i], drawn)
		}
	}
	s.draw(w, columns, rows)
	if hasLifetimes {
		fmt.Fprintln(w, legend(s.IsASCII))
	}
}

// until tells how far a moment is away, where there is one.
func (c Certificate) until(t Time) string {
	if t.IsZero() {
		return "-"
	}
	return c.from(t)
}

// drawHosts writes a table of hosts by what each said of its last pass, and what somebody may have to look into.
func (s Screen) drawHosts(w io.Writer, hosts []Node, version string) {
	columns := []column{{"host", s.widthOfNames()}, {"last pass", 0}, {"made at", 0}}
	var rows [][]string
	for _, n := range hosts {
		well := n.OK && len(n.troubles(version)) == 0
		words := "well"
		if !n.OK {
			words = "not well"
		} else if !well {
			words = "see below"
		}
		rows = append(rows, []string{n.Node, s.state(words, well), n.LastPass.String()})
	}
	if left := s.left(columns, rows) - len(gap); left >= shortest {
		columns = append(columns, column{"its own targets", left})
		for i, n := range hosts {
			rows[i] = append(rows[i], n.proxies())
		}
	}
	s.draw(w, columns, rows)
	var below []string
	for _, n := range hosts {
		if proxies := n.proxies(); !n.OK && proxies != "" {
			below = append(below, n.Node+": "+proxies)
		}
		for _, trouble := range n.troubles(version) {
			below = append(below, n.Node+": "+trouble)
		}
	}
	if len(below) > 0 {
		fmt.Fprintf(w, "\n%s\n", strings.Join(below, "\n"))
	}
}
