package report

import (
	"fmt"
	"io"
	"strings"

	"maascert/internal/hint"
	"maascert/internal/printable"
)

// Checklist says what a renewal needs, and whether it is there.
type Checklist struct {
	Schema int    `json:"schema"`
	Node   string `json:"node"`
	OK     bool   `json:"ok"`
	Checks []Item `json:"checks"`
}

// Item is one thing that a renewal needs.
type Item struct {
	Code     string     `json:"code"`
	Target   string     `json:"target,omitempty"` // that it is about
	State    CheckState `json:"state"`
	Summary  string     `json:"summary"`
	Evidence string     `json:"evidence"` // what was seen
	Fix      string     `json:"fix"`      // what to do
}

// CheckState is how an item was found.
type CheckState string

const (
	CheckOK   CheckState = "ok"
	CheckWarn CheckState = "warn" // a renewal would work, or may
	CheckFail CheckState = "fail"
)

// NewChecklist is the list of some items.
func NewChecklist(node string, items []Item) Checklist {
	list := Checklist{Schema: Schema, Node: node, OK: true, Checks: items}
	for _, item := range items {
		list.OK = list.OK && item.State != CheckFail
	}
	return list
}

// Asked documents one thing that was asked: what is so when it is right, what was seen, and what is wrong (nil: nothing).
func Asked(code, promise, evidence string, err error) Item {
	if err != nil {
		return Item{Code: code, State: CheckFail, Summary: printable.Error(err), Evidence: printable.Text(evidence), Fix: printable.Text(hint.Of(err))}
	}
	return Item{Code: code, State: CheckOK, Summary: printable.Text(promise), Evidence: printable.Text(evidence)}
}

// Warning documents what may be meant so, and what to do where it is not.
func Warning(code, summary, evidence, fix string) Item {
	return Item{Code: code, State: CheckWarn, Summary: printable.Text(summary), Evidence: printable.Text(evidence), Fix: printable.Text(fix)}
}

// Words writes the document for people: a count first, then what failed, what warned, and what is right.
func (c Checklist) Words(w io.Writer) {
	targets := map[string]bool{}
	for _, item := range c.Checks {
		if item.Target != "" {
			targets[item.Target] = true
		}
	}
	count := map[CheckState]int{}
	for _, item := range c.Checks {
		count[item.State]++
	}
	var counts []string
	for _, state := range []CheckState{CheckFail, CheckWarn, CheckOK} {
		if count[state] > 0 {
			counts = append(counts, fmt.Sprintf("%d %s", count[state], state))
		}
	}
	fmt.Fprintf(w, "%d checks: %s\n", len(c.Checks), strings.Join(counts, ", "))
	for _, state := range []CheckState{CheckFail, CheckWarn, CheckOK} {
		c.wordsOf(w, state, len(targets) > 1)
	}
}

// Wrong writes what is not as it should be.
func (c Checklist) Wrong(w io.Writer) {
	c.wordsOf(w, CheckFail, true)
	c.wordsOf(w, CheckWarn, true)
}

// mostAlike is how many items of one kind are told of one by one.
const mostAlike = 5

// wordsOf tells of the items in one state. Of many that differ in a name alone, some are told.
func (c Checklist) wordsOf(w io.Writer, state CheckState, named bool) {
	type kind struct{ code, target, fix string }
	alike := map[kind][]Item{}
	for _, item := range c.Checks {
		if item.State == state {
			k := kind{item.Code, item.Target, item.Fix}
			alike[k] = append(alike[k], item)
		}
	}
	for _, item := range c.Checks {
		if item.State != state {
			continue
		}
		k := kind{item.Code, item.Target, item.Fix}
		all := alike[k]
		delete(alike, k)
		name := ""
		if item.Target != "" && named {
			name = item.Target + ": "
		}
		for i, one := range all {
			if i == mostAlike && len(all) > mostAlike+1 {
				fmt.Fprintf(w, "%-4s  %-12s and %d more of this kind; --json lists all\n", state, one.Code, len(all)-i)
				break
			}
			fmt.Fprintf(w, "%-4s  %-12s %s%s\n", state, one.Code, name, one.Summary)
		}
		if len(all) > 0 && state != CheckOK && item.Fix != "" {
			fmt.Fprintf(w, "      %-12s fix: %s\n", "", item.Fix)
		}
	}
}
