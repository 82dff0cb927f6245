package maastest

import (
	"encoding/json"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"unicode/utf8"
)

// notification is one of MAAS's notices on its page (MAAS fact 4.4).
type notification struct {
	ID          int            `json:"id"`
	Ident       *string        `json:"ident"`
	User        map[string]any `json:"user"`
	Users       bool           `json:"users"`
	Admins      bool           `json:"admins"`
	Message     string         `json:"message"`
	Context     map[string]any `json:"context"`
	Category    string         `json:"category"`
	Dismissable bool           `json:"dismissable"`
	ResourceURI string         `json:"resource_uri"`

	dismissed map[int]bool // by whom
	forUser   int
}

func (n *notification) isFor(user *account) bool {
	if user.isAdmin {
		return n.Admins || n.forUser == user.id
	}
	return n.Users || n.forUser == user.id
}

// Notifications are the messages of all notices that administrators see, with their idents: "ident: message".
func (d *Database) Notifications() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	var all []string
	for _, n := range d.rest.notifications {
		if n.Admins && len(n.dismissed) == 0 {
			ident := ""
			if n.Ident != nil {
				ident = *n.Ident
			}
			all = append(all, ident+": "+n.Message)
		}
	}
	return all
}

// Dismiss has a user dismiss all notices, as on MAAS's page.
func (d *Database) Dismiss(username string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, user := range d.rest.accounts {
		for _, n := range d.rest.notifications {
			if user.username == username && n.isFor(user) && n.Dismissable {
				n.dismissed[user.id] = true
			}
		}
	}
}

func (d *Database) handleNotifications(r request) reply {
	if len(r.path) == 2 {
		return d.handleNotification(r)
	}
	switch {
	case r.op != "None":
		return r.unrecognised()
	case r.method == http.MethodGet:
		shown := []*notification{}
		for _, n := range d.rest.notifications {
			if n.isFor(r.user) && !n.dismissed[r.user.id] {
				shown = append(shown, n)
			}
		}
		return object(shown)
	case r.method == http.MethodPost && !r.user.isAdmin:
		return forAdmins()
	case r.method == http.MethodPost:
		n := &notification{ID: d.rest.lastID + 1, Category: "info", Context: map[string]any{}, dismissed: map[int]bool{}, Dismissable: true}
		n.ResourceURI = fmt.Sprintf("/MAAS/api/2.0/notifications/%d/", n.ID)
		if refusal := d.fill(n, r, !r.has("dismissable")); refusal != nil {
			return *refusal
		}
		d.rest.lastID = n.ID
		d.rest.notifications = append(d.rest.notifications, n)
		return object(n)
	default:
		return notAllowed("GET, POST")
	}
}

func (d *Database) handleNotification(r request) reply {
	at := slices.IndexFunc(d.rest.notifications, func(n *notification) bool { return n.ID == r.id() })
	if at < 0 {
		return noSuch("Notification")
	}
	n := d.rest.notifications[at]
	switch {
	case r.method == http.MethodPost && r.op == "dismiss":
		if !n.Dismissable {
			return exception("Notification is not dismissable")
		}
		n.dismissed[r.user.id] = true
		return reply{status: http.StatusOK, kind: "application/json", body: "null"}
	case r.op != "None":
		return r.unrecognised()
	case r.method == http.MethodGet && !n.isFor(r.user):
		return forbiddenObject()
	case r.method == http.MethodGet:
		return object(n)
	case r.method != http.MethodPut && r.method != http.MethodDelete:
		return notAllowed("GET, PUT, DELETE")
	case !r.user.isAdmin:
		return forAdmins()
	case r.method == http.MethodPut:
		changed := *n
		if refusal := d.fill(&changed, r, false); refusal != nil {
			return *refusal
		}
		*n = changed
		return object(n)
	default:
		d.rest.notifications = slices.Delete(d.rest.notifications, at, at+1)
		return deleted()
	}
}

// fill fills a notice with what a form holds; fields that are left out stay, but for dismissable, which is true only where the form
// says exactly that (MAAS fact 4.4), or where a new one says nothing.
func (d *Database) fill(n *notification, r request, keepDismissable bool) *reply {
	fail := func(field, format string, args ...any) *reply {
		refusal := invalid(field, fmt.Sprintf(format, args...))
		return &refusal
	}
	if !keepDismissable {
		n.Dismissable = r.text("dismissable") == "true"
	}
	if r.has("ident") {
		if refusal := d.setIdent(n, r.text("ident")); refusal != nil {
			return refusal
		}
	}
	if r.has("message") {
		n.Message = r.text("message")
	}
	if n.Message == "" {
		return fail("message", "This field is required.")
	}
	if category := r.text("category"); category != "" {
		if !slices.Contains([]string{"error", "warning", "success", "info"}, category) {
			return fail("category", "Select a valid choice. %s is not one of the available choices.", category)
		}
		n.Category = category
	}
	if text := r.text("context"); text != "" {
		var context any
		if json.Unmarshal([]byte(text), &context) != nil {
			return fail("context", "Enter a valid JSON.")
		}
		mapping, ok := context.(map[string]any)
		if !ok {
			return fail("context", "Context is not a mapping.")
		}
		n.Context = mapping
	}
	if text := r.text("user"); text != "" {
		id, err := strconv.Atoi(text)
		if err != nil || id < 1 || id > len(d.rest.accounts) {
			return fail("user", "Select a valid choice. That choice is not one of the available choices.")
		}
		n.forUser, n.User = id, d.rest.accounts[id-1].document()
	}
	for name, flag := range map[string]*bool{"users": &n.Users, "admins": &n.Admins} {
		if r.has(name) {
			*flag = strings.EqualFold(r.text(name), "true")
		}
	}
	if !isRenderable(n.Message, n.Context) {
		return fail("__all__", "Notification cannot be rendered.")
	}
	return nil
}

func (d *Database) setIdent(n *notification, ident string) *reply {
	fail := func(words string) *reply {
		refusal := invalid("ident", words)
		return &refusal
	}
	if length := utf8.RuneCountInString(ident); length > 40 {
		return fail(fmt.Sprintf("Ensure this value has at most 40 characters (it has %d).", length))
	}
	n.Ident = nil
	if ident == "" {
		return nil
	}
	for _, other := range d.rest.notifications {
		if other.ID != n.ID && other.Ident != nil && *other.Ident == ident {
			return fail("Notification with this Ident already exists.")
		}
	}
	n.Ident = &ident
	return nil
}

// isRenderable tells whether Python's str.format could fill a message with a context.
func isRenderable(message string, context map[string]any) bool {
	text := strings.ReplaceAll(strings.ReplaceAll(message, "{{", ""), "}}", "")
	for {
		begin := strings.IndexAny(text, "{}")
		if begin < 0 {
			return true
		}
		end := strings.Index(text, "}")
		if text[begin] == '}' || end < 0 {
			return false
		}
		if _, ok := context[text[begin+1:end]]; !ok {
			return false
		}
		text = text[end+1:]
	}
}
