package command

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/urfave/cli/v2"

	"maascert/acme"
	"maascert/acme/challenge"
	"maascert/certstore"
	"maascert/internal/hint"
)

func (a *app) accountCommand() *cli.Command {
	kinds := strings.Join(challenge.SnippetKinds, "|")
	return &cli.Command{
		Name: "account", Usage: "the ACME account", Description: exitCodes, OnUsageError: usageError, HideHelpCommand: true,
		Subcommands: []*cli.Command{
			a.command(cli.Command{
				Name: "show", Usage: "the account's thumbprint and where it is registered; makes the key if there is none, without registering", Action: a.accountShow,
			}),
			a.command(cli.Command{
				Name: "snippet", Usage: "a proxy's configuration that answers http-01 for this account", ArgsUsage: kinds, Action: a.accountSnippet,
				Description: "With it any host that runs the proxy answers for any order: the answer to a token is the token and the\naccount's thumbprint.",
			}),
			a.command(cli.Command{
				Name: "rollover", Usage: "replaces the account's key at every CA that it is registered with", Action: a.accountRollover,
				Description: "A CA that cannot do that gets a new account. Afterwards the thumbprint is another one: put it wherever\n`respond` or a proxy's snippet answers. What failed is gone on with by the next rollover.",
				Flags:       []cli.Flag{waitFlag()},
			}),
			a.command(cli.Command{
				Name: "deactivate", Usage: "deactivates the account at every CA that it is registered with, and forgets its key", Action: a.accountDeactivate,
				Description: "The next renewal registers a new account with a new key.",
				Flags:       []cli.Flag{waitFlag()},
			}),
		},
		Action: func(c *cli.Context) error {
			if c.Args().Present() {
				return hint.Add(fmt.Errorf("there is no command %q", "account "+c.Args().First()), "maascert account --help")
			}
			return cli.ShowSubcommandHelp(c)
		},
	}
}

// account is a client for the account's key; all CAs share it.
func (a *app) account(c *cli.Context) (*assembly, challenge.Thumbprint, error) {
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

func (a *app) accountShow(c *cli.Context) error {
	p, thumbprint, err := a.account(c)
	if err != nil {
		return err
	}
	defer p.close()
	account, _, err := certstore.LoadAccount(c.Context, p.store)
	if err != nil {
		return err
	}
	fmt.Fprintf(a.stdout, "thumbprint %s\n", thumbprint)
	for _, name := range slices.Sorted(maps.Keys(p.clients)) {
		client := p.clients[name]
		if other, err := client.Thumbprint(c.Context); err == nil && other != thumbprint {
			fmt.Fprintf(a.stdout, "thumbprint %s at %s\n", other, client.Directory())
		}
	}
	for _, directory := range slices.Sorted(maps.Keys(account.Registrations)) {
		fmt.Fprintf(a.stdout, "registered %s as %s\n", directory, account.Registrations[directory].URL)
	}
	if account.NextKey != "" {
		fmt.Fprintln(a.stdout, "its key is being replaced; maascert account rollover goes on with it")
	}
	return nil
}

func (a *app) accountRollover(c *cli.Context) error {
	return a.changeAccount(c, "rollover", acme.Rollover)
}

func (a *app) accountDeactivate(c *cli.Context) error {
	return a.changeAccount(c, "deactivate", acme.Deactivate)
}

// changeAccount changes the account while no other run uses it.
func (a *app) changeAccount(c *cli.Context, what string, change func(context.Context, certstore.Store, []*acme.Client) ([]acme.AccountChange, error)) error {
	p, before, err := a.account(c)
	if err != nil {
		return err
	}
	defer p.close()
	ctx, store := c.Context, certstore.Store(p.store)
	for i, cert := range p.config.Certificates {
		held, err := certstore.LockWithin(ctx, p.store, cert.Name, c.Duration("wait"))
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
		fmt.Fprintf(a.stdout, "%s %s\n", change.Directory, change.What)
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
		fmt.Fprintf(a.stdout, "thumbprint %s\n", after)
	}
	return nil
}

func (a *app) accountSnippet(c *cli.Context) error {
	kind := c.Args().First()
	if !slices.Contains(challenge.SnippetKinds, kind) || c.Args().Len() != 1 {
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
