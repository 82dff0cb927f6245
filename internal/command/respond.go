package command

import (
	"errors"
	"fmt"
	"net"

	"github.com/urfave/cli/v2"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/section"
)

func (a *app) respondCommand() *cli.Command {
	return a.command(cli.Command{
		Name: "respond", Usage: "answers http-01 for any token of one account; needs no key, no configuration, no privileges beyond the port",
		Description: "The thumbprint is what `maascert account show` prints on the host that orders.",
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "thumbprint", Usage: "of the account's key: `T`"},
			&cli.StringFlag{Name: "listen", Value: ":80", Usage: "the `ADDRESS` to answer on"},
		},
		Action: func(c *cli.Context) error {
			thumbprint := challenge.Thumbprint(c.String("thumbprint"))
			if !thumbprint.IsValid() {
				return hint.Add(errors.New("respond: --thumbprint takes the 43 characters of an account key's thumbprint"), "on the host that orders: maascert account show")
			}
			if !section.IsHostPort(c.String("listen")) {
				return fmt.Errorf("respond: --listen: %q is no address; write :80 or 10.0.0.10:80", c.String("listen"))
			}
			if err := challenge.Respond(c.Context, net.Listen, c.String("listen"), thumbprint); err != nil {
				a.complain(err)
				return outcome(exitAttention)
			}
			return nil
		},
	})
}
