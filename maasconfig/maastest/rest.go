package maastest

import (
	"encoding/json"
	"fmt"
	"io"
	"mime"
	"net/http"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

// The REST API 2.0 as the real MAAS was seen to answer it, request by request. What it keeps is guarded by the database's mutex.

// rest is what the API keeps.
type rest struct {
	accounts   []*account
	tokens     []token
	nonces     map[string]bool
	clockAhead time.Duration // by how much MAAS's clock is ahead of this host's

	settings      map[string]any
	notifications []*notification
	domains       []*domain
	records       []*record
	resources     []*resource
	controllers   []Controller
	lastID        int
	lastDomain    int

	intercept func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc)
	requests  []string
	published func(change zoneChange)
}

func newREST() *rest {
	return &rest{
		nonces: map[string]bool{},
		settings: map[string]any{
			"maas_name": "vm", "theme": "", "upstream_dns": nil, "default_dns_ttl": 30, settingEnabled: false, settingInterval: 30,
		},
		domains:   []*domain{{ID: 0, Name: "maas", Authoritative: true, IsDefault: true}},
		published: func(zoneChange) {},
	}
}

const (
	settingEnabled  = "tls_cert_expiration_notification_enabled"
	settingInterval = "tls_cert_expiration_notification_interval"
)

// apiPath is where the API begins.
const apiPath = "/MAAS/api/2.0/"

// APIKey makes an API key for a user, an administrator or not.
func (d *Database) APIKey(username string, isAdmin bool) string {
	d.mu.Lock()
	defer d.mu.Unlock()
	at := slices.IndexFunc(d.rest.accounts, func(a *account) bool { return a.username == username })
	if at < 0 {
		at = len(d.rest.accounts)
		d.rest.accounts = append(d.rest.accounts, &account{id: at + 1, username: username, isAdmin: isAdmin})
	}
	return d.rest.newToken(d.rest.accounts[at], "").String()
}

func (r *rest) newToken(owner *account, name string) token {
	n := len(r.tokens) + 1
	one := token{consumer: fmt.Sprintf("consumer%010d", n), key: fmt.Sprintf("token%013d", n), secret: fmt.Sprintf("secret%026d", n), name: name, owner: owner}
	r.tokens = append(r.tokens, one)
	return one
}

// RevokeKeys makes all API keys unknown.
func (d *Database) RevokeKeys() {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.tokens = nil
}

// SetClock sets MAAS's clock ahead of this host's.
func (d *Database) SetClock(ahead time.Duration) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.clockAhead = ahead
}

// InterceptAPI has a function answer the API's requests, or call next; nil: none does. It is called without any lock.
func (d *Database) InterceptAPI(f func(w http.ResponseWriter, r *http.Request, next http.HandlerFunc)) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.intercept = f
}

// Requests are all that the API was asked, as "METHOD path?query".
func (d *Database) Requests() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.rest.requests)
}

// SetSetting sets a setting, as an administrator does.
func (d *Database) SetSetting(name string, value any) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.rest.settings[name] = value
}

// Setting is a setting's value as the API shows it.
func (d *Database) Setting(name string) any {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.rest.settings[name]
}

// reply is an answer of the API.
type reply struct {
	status       int
	kind         string
	body         string
	header       map[string]string
	byMiddleware bool // MAAS's own words on an error, which a handler did not write
}

const (
	plainText = "text/plain; charset=utf-8"
	jsonText  = "application/json; charset=utf-8"
)

// object answers with what a handler returned.
func object(value any) reply {
	// What the handlers return always marshals.
	text, _ := json.MarshalIndent(value, "", "    ")
	return reply{status: http.StatusOK, kind: jsonText, body: string(text)}
}

// oneLine is JSON in one line as Python writes it.
func oneLine(value any) string {
	// What is answered always marshals.
	text, _ := json.Marshal(value)
	var out strings.Builder
	inString := false
	for i, char := range text {
		out.WriteByte(char)
		switch {
		case char == '"' && (i == 0 || text[i-1] != '\\'):
			inString = !inString
		case !inString && (char == ':' || char == ','):
			out.WriteByte(' ')
		}
	}
	return out.String()
}

// exception answers as MAAS does when a handler raises: with the exception's words alone.
func exception(words string) reply {
	return reply{status: http.StatusInternalServerError, kind: plainText, body: words, byMiddleware: true}
}

// badRequest answers with one line of text.
func badRequest(format string, args ...any) reply {
	return reply{status: http.StatusBadRequest, kind: plainText, body: fmt.Sprintf(format, args...), byMiddleware: true}
}

// invalid answers that a form's field is wrong; "__all__" stands for the whole form.
func invalid(field string, words ...string) reply {
	return reply{status: http.StatusBadRequest, kind: "application/json", body: oneLine(map[string][]string{field: words}), byMiddleware: true}
}

// noSuch answers that there is none of a model's objects.
func noSuch(model string) reply {
	return reply{status: http.StatusNotFound, kind: "text/plain", body: "No " + model + " matches the given query."}
}

// notAllowed answers that a handler lacks a method.
func notAllowed(allow string) reply {
	return reply{status: http.StatusMethodNotAllowed, kind: "text/html", header: map[string]string{"Allow": allow}}
}

// forAdmins answers that only administrators may ask for this.
func forAdmins() reply {
	return reply{status: http.StatusForbidden, kind: plainText, body: "This method is reserved for admin users.", byMiddleware: true}
}

// forbiddenObject answers that this object is none of the user's.
func forbiddenObject() reply {
	return reply{status: http.StatusForbidden, kind: plainText, byMiddleware: true}
}

// deleted answers that an object is gone.
func deleted() reply { return reply{status: http.StatusNoContent, kind: "text/plain"} }

func (r reply) write(w http.ResponseWriter) {
	header := w.Header()
	header.Set("Content-Type", r.kind)
	header.Set("X-Frame-Options", "DENY")
	header.Set("Vary", "Authorization, Cookie")
	if r.byMiddleware {
		header.Set("Vary", "Cookie")
	} else {
		header.Set("X-MAAS-API-Hash", strings.Repeat("0123456789", 4))
	}
	for name, value := range r.header {
		header.Set(name, value)
	}
	w.WriteHeader(r.status)
	if r.status != http.StatusNoContent {
		// A client that hung up does not read the answer.
		_, _ = io.WriteString(w, r.body)
	}
}

// request is one request to a handler: what was asked for, by whom, with its parameters as text, as Django's forms see them.
type request struct {
	method string
	path   []string // below the API's, without the final slash
	op     string   // "None" for none
	query  url.Values
	body   url.Values
	user   *account
}

// text is a parameter's value in the body.
func (r request) text(name string) string { return r.body.Get(name) }

func (r request) has(name string) bool { return r.body.Has(name) }

// id is the number in the path; -1 for none.
func (r request) id() int {
	if len(r.path) < 2 {
		return -1
	}
	id, err := strconv.Atoi(r.path[1])
	if err != nil {
		return -1
	}
	return id
}

// serveAPI answers a request below /MAAS/api/.
func (d *Database) serveAPI(w http.ResponseWriter, r *http.Request) {
	d.mu.Lock()
	d.rest.requests = append(d.rest.requests, strings.TrimSuffix(r.Method+" "+r.URL.Path+"?"+r.URL.RawQuery, "?"))
	intercept := d.rest.intercept
	d.mu.Unlock()
	answer := func(w http.ResponseWriter, r *http.Request) { d.answerAPI(r).write(w) }
	if intercept != nil {
		intercept(w, r, answer)
		return
	}
	answer(w, r)
}

func (d *Database) answerAPI(r *http.Request) reply {
	if r.URL.Path == "/MAAS/api/version/" {
		return reply{status: http.StatusOK, kind: "text/plain", body: "2.0"}
	}
	rest, isAPI := strings.CutPrefix(r.URL.Path, apiPath)
	path := strings.Split(strings.TrimSuffix(rest, "/"), "/")
	handle, ok := handlers[path[0]]
	if !isAPI || !ok || !strings.HasSuffix(rest, "/") || len(path) > 2 {
		return reply{status: http.StatusNotFound, kind: plainText, body: "Unknown API endpoint: " + r.URL.Path + ".", byMiddleware: true}
	}
	body, err := parameters(r)
	if err != nil {
		return badRequest("%v", err)
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if path[0] == "version" {
		text := oneLine(map[string]any{"capabilities": []string{"networks-management"}, "version": d.faults.Version.String(), "subversion": ""})
		return reply{status: http.StatusOK, kind: jsonText, body: text}
	}
	user, refusal := d.authorize(r.Header.Get("Authorization"))
	if refusal != nil {
		return *refusal
	}
	asked := request{method: r.Method, path: path, op: "None", query: r.URL.Query(), body: body, user: user}
	for _, values := range []url.Values{asked.query, asked.body} {
		if values.Get("op") != "" {
			asked.op = values.Get("op")
		}
	}
	return handle(d, asked)
}

// parameters reads a body, which may be urlencoded, multipart, or JSON. JSON's true becomes Python's True.
func parameters(r *http.Request) (url.Values, error) {
	kind, _, err := mime.ParseMediaType(r.Header.Get("Content-Type"))
	if err != nil || r.Body == nil {
		return url.Values{}, nil
	}
	switch kind {
	case "application/json":
		var values map[string]any
		if err := json.NewDecoder(r.Body).Decode(&values); err != nil {
			return nil, err
		}
		found := url.Values{}
		for name, value := range values {
			switch value := value.(type) {
			case bool:
				found.Set(name, map[bool]string{true: "True", false: "False"}[value])
			case float64:
				found.Set(name, strconv.FormatFloat(value, 'f', -1, 64))
			default:
				found.Set(name, fmt.Sprint(value))
			}
		}
		return found, nil
	case "multipart/form-data":
		if err := r.ParseMultipartForm(1 << 20); err != nil {
			return nil, err
		}
		return r.MultipartForm.Value, nil
	default:
		// PUT's body as well, which net/http leaves alone for other methods than POST, PUT and PATCH.
		if err := r.ParseForm(); err != nil {
			return nil, err
		}
		return r.PostForm, nil
	}
}

var handlers = map[string]func(*Database, request) reply{
	"version":            nil,
	"account":            (*Database).handleAccount,
	"users":              (*Database).handleUsers,
	"maas":               (*Database).handleSettings,
	"notifications":      (*Database).handleNotifications,
	"domains":            (*Database).handleDomains,
	"dnsresources":       (*Database).handleResources,
	"dnsresourcerecords": (*Database).handleRecords,
	"regioncontrollers":  (*Database).handleControllers,
	"machines":           func(*Database, request) reply { return object([]any{}) },
}

// unrecognised answers that a handler has no such operation.
func (r request) unrecognised() reply {
	return badRequest("Unrecognised signature: method=%s op=%s", r.method, r.op)
}

func (d *Database) handleAccount(r request) reply {
	switch r.method + " " + r.op {
	case "GET list_authorisation_tokens":
		tokens := []map[string]string{}
		for _, t := range d.rest.tokens {
			if t.owner == r.user {
				tokens = append(tokens, map[string]string{"name": t.name, "token": t.String()})
			}
		}
		return object(tokens)
	case "POST create_authorisation_token":
		t := d.rest.newToken(r.user, r.text("name"))
		text := oneLine(map[string]string{"token_key": t.key, "token_secret": t.secret, "consumer_key": t.consumer, "name": t.name})
		return reply{status: http.StatusOK, kind: jsonText, body: text}
	default:
		return r.unrecognised()
	}
}

func (a *account) document() map[string]any {
	return map[string]any{"username": a.username, "email": a.username + "@example.com", "is_superuser": a.isAdmin, "is_local": true, "resource_uri": "/MAAS/api/2.0/users/" + a.username + "/"}
}

func (d *Database) handleUsers(r request) reply {
	if r.method == http.MethodGet && r.op == "whoami" {
		return object(r.user.document())
	}
	return r.unrecognised()
}

func (d *Database) handleSettings(r request) reply {
	if r.method != http.MethodGet && r.method != http.MethodPost {
		return notAllowed("GET, POST")
	}
	given := r.body
	if r.method == http.MethodGet {
		given = r.query
	}
	name := given.Get("name")
	_, known := d.rest.settings[name]
	unknown := invalid(name, name+" is not a valid config setting (valid settings are: maas_name, theme, kernel_opts, http_proxy, upstream_dns).")
	switch r.method + " " + r.op {
	case "GET get_config":
		switch {
		case !given.Has("name"):
			return badRequest("No provided name!")
		case !known:
			return unknown
		}
		return reply{status: http.StatusOK, kind: "application/json", body: oneLine(d.rest.settings[name])}
	case "POST set_config":
		switch {
		case !r.user.isAdmin:
			return forAdmins()
		case !given.Has("name"):
			return badRequest("No provided name!")
		case !given.Has("value"):
			return badRequest("No provided value!")
		case !known:
			return unknown
		}
		value, refusal := settingValue(name, given.Get("value"))
		if refusal != nil {
			return *refusal
		}
		d.rest.settings[name] = value
		return reply{status: http.StatusOK, kind: "text/plain", body: "OK"}
	default:
		return r.unrecognised()
	}
}

// settingValue reads a setting's value as Django's form fields do: of switches, anything but nothing and "false" is true; an empty
// number is none, which breaks every region (MAAS fact 3.1).
func settingValue(name, text string) (any, *reply) {
	fail := func(words string) (any, *reply) {
		refusal := invalid(name, words)
		return nil, &refusal
	}
	switch name {
	case settingEnabled:
		return text != "" && text != "false" && text != "False", nil
	case settingInterval:
		text = strings.TrimSpace(text)
		if text == "" {
			return nil, nil
		}
		days, err := strconv.Atoi(text)
		switch {
		case err != nil:
			return fail("Enter a whole number.")
		case days < 1:
			return fail("Ensure this value is greater than or equal to 1.")
		case days > 90:
			return fail("Ensure this value is less than or equal to 90.")
		}
		return days, nil
	default:
		return text, nil
	}
}

// API answers as a region's API does, whatever is before it.
func (d *Database) API() http.Handler { return http.HandlerFunc(d.serveAPI) }
