package report

import (
	"fmt"
	"io"

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

// Words writes the document for people.
func (c Checklist) Words(w io.Writer) {
	targets := map[string]bool{}
	for _, item := range c.Checks {
		if item.Target != "" {
			targets[item.Target] = true
		}
	}
	for _, item := range c.Checks {
		name := ""
		if item.Target != "" && len(targets) > 1 {
			name = item.Target + ": "
		}
		fmt.Fprintf(w, "%-4s  %-12s %s%s\n", item.State, item.Code, name, item.Summary)
		if item.State != CheckOK && item.Fix != "" {
			fmt.Fprintf(w, "      %-12s fix: %s\n", "", item.Fix)
		}
	}
}
