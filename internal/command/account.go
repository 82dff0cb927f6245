package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/spf13/cobra"

	"maascert/acme"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
)

func (a *app) accountCommand() *cobra.Command {
	kinds := strings.Join(challenge.SnippetKinds, "|")
	return a.command(spec{
		name: "account", group: aside, short: "the ACME account",
		commands: []*cobra.Command{
			a.command(spec{
				name: "show", short: "the account's thumbprint and where it is registered; makes the key if there is none, without registering", action: a.accountShow,
			}),
			a.command(spec{
				name: "snippet", short: "a proxy's configuration that answers http-01 for this account", args: kinds, values: oneOf(challenge.SnippetKinds...), action: a.accountSnippet,
				long: "With it any host that runs the proxy answers for any order: the answer to a token is the token and the\naccount's thumbprint.",
			}),
			a.command(spec{
				name: "update", short: "tells every CA that the account is registered with the email of the configuration", action: a.accountUpdate, options: []option{waitOption()},
			}),
			a.command(spec{
				name: "rollover", short: "replaces the account's key at every CA that it is registered with", action: a.accountRollover,
				long:    "A CA that cannot do that gets a new account. Afterwards the thumbprint is another one: put it wherever\n`respond` or a proxy's snippet answers. What failed is gone on with by the next rollover.",
				options: []option{waitOption()},
			}),
			a.command(spec{
				name: "deactivate", short: "deactivates the account at every CA that it is registered with, and forgets its key", action: a.accountDeactivate,
				long:    "The next renewal registers a new account with a new key.",
				options: []option{switchOption("yes", "do not ask"), waitOption()},
			}),
		},
	})
}

// account is a client for the account's key; all CAs share it.
func (a *app) account(c *call) (*assembly, challenge.Thumbprint, error) {
	config, err := a.config(c)
	if err != nil {
		return nil, "", err
	}
	p := a.assemble(config)
	thumbprint, err := thumbprintOf(c.Context, p)
	if err != nil {
		p.close()
		a.complain(fmt.Errorf("account: %w", err))
		return nil, "", outcome(exitAttention)
	}
	return p, thumbprint, nil
}

func thumbprintOf(ctx context.Context, p *assembly) (challenge.Thumbprint, error) {
	names := slices.Sorted(maps.Keys(p.clients))
	if len(names) == 0 {
		return "", errors.New("there is no CA")
	}
	return p.clients[names[0]].Thumbprint(ctx)
}

func (a *app) accountShow(c *call) error {
	p, thumbprint, err := a.account(c)
	if err != nil {
		return err
	}
	defer p.close()
	account, _, err := certstore.LoadAccount(c.Context, p.store)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.words, "thumbprint %s\n", thumbprint)
	for _, name := range slices.Sorted(maps.Keys(p.clients)) {
		client := p.clients[name]
		if other, err := client.Thumbprint(c.Context); err == nil && other != thumbprint {
			fmt.Fprintf(a.words, "thumbprint %s at %s\n", other, client.Directory())
		}
	}
	for _, directory := range slices.Sorted(maps.Keys(account.Registrations)) {
		fmt.Fprintf(a.words, "registered %s as %s\n", directory, account.Registrations[directory].URL)
	}
	if account.NextKey != "" {
		fmt.Fprintln(a.words, "its key is being replaced; maascert account rollover goes on with it")
	}
	return nil
}

func (a *app) accountUpdate(c *call) error { return a.changeAccount(c, "update", acme.UpdateContact) }

func (a *app) accountRollover(c *call) error {
	return a.changeAccount(c, "rollover", acme.Rollover)
}

func (a *app) accountDeactivate(c *call) error {
	if a.isTerminal() {
		if err := a.confirm(c, "Deactivate the ACME account at every CA? Nobody can use it or its key again."); err != nil {
			return err
		}
	}
	return a.changeAccount(c, "deactivate", acme.Deactivate)
}

// changeAccount changes the account while no other run uses it.
func (a *app) changeAccount(c *call, what string, change func(context.Context, certstore.Store, []*acme.Client) ([]acme.AccountChange, error)) error {
	p, before, err := a.account(c)
	if err != nil {
		return err
	}
	defer p.close()
	ctx, store := c.Context, p.store
	for i, cert := range p.config.Certificates {
		held, err := certstore.LockWithin(ctx, p.store, cert.Name, c.duration("wait"))
		if err != nil {
			a.complain(hint.Add(fmt.Errorf("account %s: %w", what, err), "wait for the other run, or: maascert account %s --wait 5m", what))
			return outcome(exitNotNow)
		}
		defer held.Unlock()
		if i > 0 {
			held.Store = store // so that a write needs all of the locks
		}
		ctx, store = held.Context(), held
	}
	changes, err := change(ctx, store, slices.Collect(maps.Values(p.clients)))
	for _, change := range changes {
		if change.Err != nil {
			a.complain(fmt.Errorf("account %s: %s: %w", what, change.Directory, change.Err))
			continue
		}
		fmt.Fprintf(a.words, "%s %s\n", change.Directory, change.What)
	}
	if err != nil {
		a.complain(hint.Add(fmt.Errorf("account %s: %w", what, err), "mend that, then: maascert account %s goes on", what))
		return outcome(exitAttention)
	}
	account, _, err := certstore.LoadAccount(ctx, p.store)
	if err != nil || account.Key == "" {
		return err
	}
	if after, err := thumbprintOf(ctx, p); err == nil && after != before {
		fmt.Fprintf(a.words, "thumbprint %s\n", after)
	}
	return nil
}

func (a *app) accountSnippet(c *call) error {
	kind := c.arg()
	if !slices.Contains(challenge.SnippetKinds, kind) || len(c.Args) != 1 {
		return hint.Add(fmt.Errorf("account snippet: there is none for %q", kind), "maascert account snippet %s", strings.Join(challenge.SnippetKinds, "|"))
	}
	p, thumbprint, err := a.account(c)
	if err != nil {
		return err
	}
	defer p.close()
	account, _, err := certstore.LoadAccount(c.Context, p.store)
	if err != nil {
		return err
	}
	if account.NextKey != "" {
		a.complain(hint.Add(errors.New("account snippet: the account's key is being replaced, so that there are two thumbprints"), "end that first: maascert account rollover"))
		return outcome(exitAttention)
	}
	text, _ := challenge.Snippet(kind, thumbprint)
	fmt.Fprint(a.stdout, text)
	return nil
}
