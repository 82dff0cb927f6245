package command

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/lifecycle"
	"maascert/internal/printable"
	"maascert/internal/world"
	"maascert/maasconfig/maasapi"
	"maascert/notify"
)

func (a *app) notifyCommand() *cobra.Command {
	return a.command(spec{name: "notify", group: aside, short: "who is told of what happens", commands: []*cobra.Command{
		a.command(spec{
			name: "test", short: "sends a test message through each notifier", action: a.notifyTest,
		}),
		a.command(spec{
			name: chatCommand, hidden: true, short: "sends the chat message on its standard input, which maascert itself writes there",
			action: func(*call) error {
				exit, err := notify.SendChat(a.stdin)
				if err != nil {
					fmt.Fprintln(a.stderr, printable.Error(err))
				}
				return outcome(exit)
			},
		}),
	}})
}

const chatCommand = "chat"

// chatProgram is this program as it sends chat messages.
func chatProgram() []string {
	// Where it cannot be found out, the one in PATH will do.
	self, _ := os.Executable()
	return []string{cmp.Or(self, "maascert"), "notify", chatCommand}
}

func (a *app) notifyTest(c *call) error {
	config, err := a.config(c)
	if err != nil {
		return err
	}
	if err := a.mayRun(c.text("config"), config); err != nil {
		return err
	}
	if len(config.Notify) == 0 {
		return hint.Add(errors.New("notify test: the configuration has no notifier"), "for example: notify: [{type: smtp, host: mail.example.com, from: maascert@example.com, to: [ops@example.com]}]; other types are maas, webhook, chat, exec")
	}
	p := a.assemble(config)
	defer p.close()
	event := notify.New(notify.Event{At: a.now(), Kind: notify.Test, Node: config.Node})
	failures := make([]error, len(p.channels))
	var group sync.WaitGroup
	for i, channel := range p.channels {
		group.Go(func() { failures[i] = channel.Tell(c.Context, event) })
	}
	group.Wait()
	var took []string
	end := outcome(exitOK)
	for i, channel := range p.channels {
		if failures[i] == nil {
			fmt.Fprintf(a.words, "%s (%s): took the message\n", channel.Name, channel.Type)
			took = append(took, channel.Name)
			continue
		}
		end = exitAttention
		a.complain(fmt.Errorf("notify: %s (%s): %w", channel.Name, channel.Type, failures[i]))
	}
	if err := p.heard(c.Context, took); err != nil {
		a.warnAll([]error{fmt.Errorf("that they can be told cannot be written down: %w", err)})
	}
	return end
}

// heard writes down that some notifiers can be told again. A host that has made no pass yet has nothing to correct.
func (p *assembly) heard(ctx context.Context, took []string) error {
	node, revision, err := certstore.LoadNode(ctx, p.store, p.config.Node)
	if err != nil || revision == "" {
		return err
	}
	isSilent := func(one certstore.NodeNotifier) bool { return one.Failures > 0 && slices.Contains(took, one.Name) }
	if !slices.ContainsFunc(node.Notifiers, isSilent) {
		return nil
	}
	return certstore.UpdateNode(ctx, p.store, p.config.Node, func(node *certstore.Node) {
		for i, one := range node.Notifiers {
			if isSilent(one) {
				node.Notifiers[i] = certstore.NodeNotifier{Name: one.Name, Type: one.Type, LastTold: p.now().UTC()}
			}
		}
	})
}

// newTeller makes who tells people of what passes come to.
func (p *assembly) newTeller(a *app) *lifecycle.Teller {
	memory := &toldFile{fsys: a.fsys, path: filepath.Join(p.config.StateDir, "told.json")}
	teller := &lifecycle.Teller{
		Store: p.store, Memory: memory, Node: p.config.Node, Period: p.engine.Period, Now: p.now, Log: a.log,
	}
	parts := notify.Parts{
		Memory: teller, Runner: p.runner, Dial: p.dial, Chat: a.chat, UserAgent: "maascert/" + version(), Now: p.now,
	}
	if p.maas.api != nil {
		parts.Noticeboard = noticeboard{p.maas.api}
	}
	for _, one := range p.config.Notify {
		p.channels = append(p.channels, notify.NewChannel(one.Type, one.Section, parts))
	}
	teller.Channels = p.channels
	return teller
}

// noticeboard is MAAS's page as notifiers know it.
type noticeboard struct{ *maasapi.Client }

// Post shows a notice.
func (n noticeboard) Post(ctx context.Context, notice notify.Notice, earlier int) (int, error) {
	return n.Client.Post(ctx, maasapi.Notice(notice), earlier)
}

// toldFile keeps on this host what was told.
type toldFile struct {
	fsys world.FS
	path string
}

// Load reads it.
func (f *toldFile) Load() []byte {
	// Where there is none, nothing was told.
	text, _ := f.fsys.ReadFile(f.path)
	return text
}

// Save writes it.
func (f *toldFile) Save(text []byte) error {
	if err := f.fsys.MkdirAll(filepath.Dir(f.path), 0o711); err != nil {
		return err
	}
	return f.fsys.Replace(f.path, text, 0o600)
}

const (
	// tellTime bounds telling people after a pass of the daemon, and soonestTellTime is what it has although the next look is near.
	tellTime        = 5 * time.Minute
	soonestTellTime = 10 * time.Second
	// tellTimeByHand bounds it while a person waits: what is left the daemon tells.
	tellTimeByHand = 30 * time.Second
)

// tell tells people what a pass came to, and returns when that wants to be looked at again.
func (p *assembly) tell(ctx context.Context, results []lifecycle.Result, within time.Duration) time.Time {
	ctx, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("it had %v", within.Round(time.Second)))
	defer cancel()
	tellings, again := p.teller.Tell(ctx, p.engine.Certificates, results)
	p.tellings = tellings
	return again
}

// tellByHand tells people what a pass came to that a person made. It returns what could not be told, as warnings.
func (p *assembly) tellByHand(ctx context.Context, results []lifecycle.Result) (untold []error) {
	p.tell(ctx, results, tellTimeByHand)
	for _, one := range p.tellings {
		if one.Err != nil {
			untold = append(untold, fmt.Errorf("not told: %s (%s): %w", one.Channel, one.Type, one.Err))
		}
	}
	return untold
}

// notifiers are how telling goes with each of this host's notifiers, after this pass.
func (p *assembly) notifiers(before []certstore.NodeNotifier, tellings []lifecycle.Telling, now time.Time) []certstore.NodeNotifier {
	var all []certstore.NodeNotifier
	for _, channel := range p.channels {
		one := certstore.NodeNotifier{Name: channel.Name}
		if i := slices.IndexFunc(before, func(b certstore.NodeNotifier) bool { return b.Name == channel.Name && b.Type == channel.Type }); i >= 0 {
			one = before[i]
		}
		one.Type = channel.Type
		for _, telling := range tellings {
			switch {
			case telling.Channel != channel.Name:
			case telling.Err == nil:
				one = certstore.NodeNotifier{Name: one.Name, Type: one.Type, LastTold: now}
			default:
				if one.Failures == 0 {
					one.Since = now
				}
				one.Failures++
				one.Error, one.Hint = printable.Line(telling.Err.Error(), printable.Word), printable.Line(hint.Of(telling.Err), printable.Word)
			}
		}
		all = append(all, one)
	}
	return all
}
