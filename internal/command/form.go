package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"charm.land/huh/v2"

	"maascert/internal/printable"
)

// choice is one of several answers.
type choice struct {
	value string
	words string
	tick  bool // it is proposed, where several may be taken
}

// asker asks a person at a terminal.
type asker interface {
	// text asks for a text, which has to pass a check. What it is at first is what is proposed.
	text(ctx context.Context, title, more string, value *string, check func(string) error) error
	// choose asks for one of several values; the first is proposed.
	choose(ctx context.Context, title, more string, choices []choice, value *string) error
	// tick asks for any of several values.
	tick(ctx context.Context, title, more string, choices []choice, values *[]string) error
	// agree asks for a yes or a no; what it is at first is proposed.
	agree(ctx context.Context, title, more string, yes *bool) error
}

// errEnded says that the person wants no more of it, or is gone.
var errEnded = errors.New("ended without an answer")

// form asks by forms; on a terminal that cannot place its cursor, or for a screen reader, a line each.
type form struct {
	in      io.Reader
	out     io.Writer
	isPlain bool
}

// newForm asks at a terminal. TERM=dumb and ACCESSIBLE=1 ask line by line.
func newForm(in io.Reader, out io.Writer) *form {
	return &form{in, out, os.Getenv("TERM") == "dumb" || os.Getenv("ACCESSIBLE") != ""}
}

var _ asker = (*form)(nil)

func (f *form) text(ctx context.Context, title, more string, value *string, check func(string) error) error {
	title, more = printable.Text(title), printable.Text(more)
	if f.isPlain && *value != "" {
		more = strings.TrimSpace(more + " [" + *value + "]")
	}
	return f.run(ctx, more, huh.NewInput().Title(title).Description(more).Value(value).Validate(func(text string) error { return check(strings.TrimSpace(text)) }))
}

func (f *form) choose(ctx context.Context, title, more string, choices []choice, value *string) error {
	title, more, *value = printable.Text(title), printable.Text(more), choices[0].value
	return f.run(ctx, more, huh.NewSelect[string]().Title(title).Description(more).Options(options(choices)...).Value(value))
}

func (f *form) tick(ctx context.Context, title, more string, choices []choice, values *[]string) error {
	title, more = printable.Text(title), printable.Text(more)
	if f.isPlain {
		more = strings.TrimSpace(more + " A number ticks it or takes the tick away, 0 goes on.")
	}
	return f.run(ctx, more, huh.NewMultiSelect[string]().Title(title).Description(more).Options(options(choices)...).Value(values))
}

func (f *form) agree(ctx context.Context, title, more string, yes *bool) error {
	title, more = printable.Text(title), printable.Text(more)
	return f.run(ctx, more, huh.NewConfirm().Title(title).Description(more).Value(yes))
}

func options(choices []choice) []huh.Option[string] {
	var all []huh.Option[string]
	for _, one := range choices {
		all = append(all, huh.NewOption(printable.Text(one.words), one.value).Selected(one.tick))
	}
	return all
}

// run asks one question.
func (f *form) run(ctx context.Context, more string, field huh.Field) error {
	if !f.isPlain {
		err := huh.NewForm(huh.NewGroup(field)).WithInput(f.in).WithOutput(f.out).RunWithContext(ctx)
		if err != nil {
			return fmt.Errorf("%w: %w", errEnded, err)
		}
		return nil
	}
	if more != "" { // which is not said by itself here
		fmt.Fprintln(f.out, more)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		done <- huh.NewForm(huh.NewGroup(field)).WithAccessible(true).WithInput(&lines{ctx, cancel, f.in}).WithOutput(f.out).RunWithContext(ctx)
	}()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
		return errEnded
	}
}

// lines are what a person types. Whoever asks goes on asking at its end, and never gives up: so it never comes there.
type lines struct {
	ctx    context.Context
	cancel context.CancelFunc
	in     io.Reader
}

func (l *lines) Read(p []byte) (int, error) {
	n, err := l.in.Read(p)
	if n == 0 && err != nil {
		l.cancel()
		select {} // the program ends
	}
	return n, nil
}
