package maasapi

import (
	"context"
	"fmt"
	"html"
	"net/http"
	"slices"
	"strings"

	"github.com/canonical/gomaasclient/entity"
	"github.com/canonical/gomaasclient/entity/notification"

	"maascert/internal/printable"
)

// Notice is something that administrators are told on MAAS's page.
type Notice struct {
	Ident    string // what it is about; one notice at a time has it. At most 36 bytes.
	Category string // error, warning, success or info
	Message  string // plain text: nothing in it is markup or a template
}

const (
	// longestIdent is MAAS's own limit (MAAS fact 4.4), less a number.
	longestIdent = 40 - 4
	// spareIdents is how many other idents are tried where one is taken by a notice that nobody sees and nobody can find.
	spareIdents = 9
)

// Post shows administrators a notice, once: the same again changes nothing. One with another message, or that the key's owner dismissed,
// is deleted and made anew: MAAS would never show it again to whoever dismissed it (MAAS fact 4.4). It returns MAAS's number of the notice, which is
// the only way to find it after it was dismissed; earlier is what the last Post of this ident returned, 0 for nothing.
func (c *Client) Post(ctx context.Context, notice Notice, earlier int) (id int, err error) {
	if notice.Ident == "" || len(notice.Ident) > longestIdent {
		return 0, fmt.Errorf("an ident has 1 to %d bytes, not %d", longestIdent, len(notice.Ident))
	}
	params := entity.NotificationParams{
		Message: template(notice.Message), Category: notification.Category(notice.Category), Admins: true, Dismissable: true,
	}
	err = c.call(ctx, maxAnswer, func(a api) error {
		shown, err := a.Notifications.Get()
		if err != nil {
			return err
		}
		for _, have := range shown {
			if !isIdent(have.Ident, notice.Ident) {
				continue
			}
			if id = have.ID; have.Message == params.Message && have.Category == params.Category && have.Dismissable && have.Admins {
				return nil
			}
			earlier = have.ID // who dismissed it would not see other words in it
		}
		if err := discard(a, earlier, notice.Ident); err != nil {
			return err
		}
		id, err = create(a, notice.Ident, params)
		return err
	})
	if err != nil {
		return 0, c.named(err)
	}
	return id, nil
}

// discard deletes a notice that is not shown any more, so that one of its ident can be made anew.
func discard(a api, id int, ident string) error {
	if id == 0 {
		return nil
	}
	have, err := a.Notification.Get(id)
	switch {
	case err != nil && isNotFound(err):
		return nil
	case err != nil:
		return err
	case !isIdent(have.Ident, ident):
		return nil // somebody else's
	}
	return ignoreNotFound(a.Notification.Delete(id))
}

// create makes a notice. Where its ident is taken, by one that was dismissed and whose number is not known, another ident will do.
func create(a api, ident string, params entity.NotificationParams) (int, error) {
	var err error
	for n := 1; n <= spareIdents; n++ {
		params.Ident = ident
		if n > 1 {
			params.Ident = fmt.Sprintf("%s~%d", ident, n)
		}
		made, createErr := a.Notifications.Create(&params)
		if createErr == nil {
			return made.ID, nil
		}
		if err = createErr; !strings.Contains(err.Error(), "already exists") {
			break
		}
	}
	return 0, err
}

// isIdent tells whether an ident of MAAS's is one of ours or a spare one of it.
func isIdent(have, ident string) bool {
	rest, ok := strings.CutPrefix(have, ident)
	return ok && (rest == "" || len(rest) == 2 && rest[0] == '~')
}

// Withdraw takes a notice away, whether it is shown or was dismissed; earlier is what the last Post of its ident returned. None is no
// error.
func (c *Client) Withdraw(ctx context.Context, ident string, earlier int) error {
	return c.named(c.call(ctx, maxAnswer, func(a api) error {
		shown, err := a.Notifications.Get()
		if err != nil {
			return err
		}
		for _, have := range shown {
			if isIdent(have.Ident, ident) {
				if err := ignoreNotFound(a.Notification.Delete(have.ID)); err != nil {
					return err
				}
			}
		}
		if slices.ContainsFunc(shown, func(have entity.Notification) bool { return have.ID == earlier }) {
			return nil
		}
		return discard(a, earlier, ident)
	}))
}

// longestMessage bounds a notice, in bytes.
const longestMessage = 1000

// template is a plain text as MAAS takes it: it keeps markup as it is, and fills in what stands in braces.
func template(text string) string {
	text = html.EscapeString(printable.Line(text, longestMessage))
	return strings.NewReplacer("{", "{{", "}", "}}").Replace(text)
}

func isNotFound(err error) bool {
	explained := (&transport{}).explain(err)
	return hasStatus(explained, http.StatusNotFound)
}

func ignoreNotFound(err error) error {
	if err != nil && isNotFound(err) {
		return nil
	}
	return err
}
