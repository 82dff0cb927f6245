package command

import (
	"errors"
	"fmt"
	"net"

	"github.com/spf13/cobra"

	"maascert/acme/challenge"
	"maascert/internal/hint"
	"maascert/internal/section"
)

func (a *app) respondCommand() *cobra.Command {
	return a.command(spec{
		name: "respond", group: aside, short: "answers http-01 for any token of one account; needs no key, no configuration, no privileges beyond the port",
		long: "The thumbprint is what `maascert account show` prints on the host that orders.",
		options: []option{
			textOption("thumbprint", "", "of the account's key: `T`"),
			textOption("listen", ":80", "the `ADDRESS` to answer on"),
		},
		action: func(c *call) error {
			thumbprint := challenge.Thumbprint(c.text("thumbprint"))
			if !thumbprint.IsValid() {
				return hint.Add(errors.New("respond: --thumbprint takes the 43 characters of an account key's thumbprint"), "on the host that orders: maascert account show")
			}
			if !section.IsHostPort(c.text("listen")) {
				return fmt.Errorf("respond: --listen: %q is no address; write :80 or 10.0.0.10:80", c.text("listen"))
			}
			if err := challenge.Respond(c.Context, net.Listen, c.text("listen"), thumbprint); err != nil {
				a.complain(err)
				return outcome(exitAttention)
			}
			return nil
		},
	})
}
