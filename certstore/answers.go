package certstore

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"
)

// Answers are those to challenges that a host lets others give while it orders: the document "answers/HOST", written by that host
// alone.
type Answers struct {
	V       int      `json:"v"`
	Answers []Answer `json:"answers"`

	unknown
}

const (
	// publishedAge is for how long an answer may be given: longer than an order takes.
	publishedAge = time.Hour
	// mostPublished bounds the answers of a host.
	mostPublished = 300
)

func (a Answer) isOf(other Answer) bool {
	return a.Type == other.Type && a.Name == other.Name && a.Token == other.Token
}

// replaces tells whether an answer is given instead of another one: a CA looks for that of tls-alpn-01 by the name, and for that of http-01
// by the token.
func (a Answer) replaces(other Answer) bool {
	return a.isOf(other) || a.Type == other.Type && a.Name == other.Name && a.Type == "tls-alpn-01"
}

// PublishAnswer has all hosts that share a store give an answer of a host's, until WithdrawAnswer, and for an hour at most.
func PublishAnswer(ctx context.Context, store Store, host string, answer Answer) error {
	return changeAnswers(ctx, store, host, answer.At, func(all []Answer) []Answer {
		all = append(slices.DeleteFunc(all, answer.replaces), answer)
		return all[max(0, len(all)-mostPublished):]
	})
}

// WithdrawAnswer takes it back.
func WithdrawAnswer(ctx context.Context, store Store, host string, answer Answer, now time.Time) error {
	return changeAnswers(ctx, store, host, now, func(all []Answer) []Answer { return slices.DeleteFunc(all, answer.isOf) })
}

func changeAnswers(ctx context.Context, store Store, host string, now time.Time, change func([]Answer) []Answer) error {
	name := "answers/" + host
	for {
		var doc Answers
		revision, err := load(ctx, store, name, &doc, func() int { return doc.V })
		if errors.Is(err, ErrAway) {
			return err
		}
		if err != nil { // it is written anew: nothing in it lasts
			doc, revision = Answers{}, ""
			if err := store.Delete(ctx, name); err != nil {
				return err
			}
		}
		doc.V, doc.Answers = format, change(slices.DeleteFunc(doc.Answers, func(a Answer) bool { return !a.isCurrent(now) }))
		if _, err = save(ctx, store, name, doc, revision); !errors.Is(err, ErrConflict) {
			return err
		}
	}
}

func (a Answer) isCurrent(now time.Time) bool { return now.Sub(a.At).Abs() < publishedAge }

// LoadAnswers reads what all hosts let others answer now, the newest first. A document that cannot be read is left out.
func LoadAnswers(ctx context.Context, store Store, now time.Time) ([]Answer, error) {
	store = Ahead(ctx, store, Wanted{Folders: []string{"answers"}})
	hosts, err := store.List(ctx, "answers")
	var all []Answer
	for _, host := range hosts {
		var doc Answers
		if _, loading := load(ctx, store, "answers/"+host, &doc, func() int { return doc.V }); loading != nil {
			continue
		}
		all = append(all, slices.DeleteFunc(doc.Answers, func(a Answer) bool { return !a.isCurrent(now) })...)
	}
	slices.SortStableFunc(all, func(a, b Answer) int { return b.At.Compare(a.At) })
	return all, err
}

type plainAnswers Answers

func (a *Answers) UnmarshalJSON(data []byte) error {
	return errors.Join(json.Unmarshal(data, (*plainAnswers)(a)), a.take(data, *a))
}

func (a Answers) MarshalJSON() ([]byte, error) { return a.add(json.Marshal(plainAnswers(a))) }
