package command

import (
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/acme/acmetest"
	"maascert/certstore"
	"maascert/certstore/certtest"
	"maascert/internal/world"
	"maascert/notify"
	"maascert/notify/notifytest"
)

// everybody is all notifiers at once, and what each of them was told.
type everybody struct {
	t    *testing.T
	site *site
	hook *notifytest.Server
	chat *notifytest.Server
	mail *notifytest.MailServer
	file string
}

// tellEverybody adds one notifier of each type to a site's configuration.
func tellEverybody(t *testing.T, s *site) *everybody {
	e := &everybody{
		t: t, site: s, hook: notifytest.NewServer(t, notifytest.Well, ""), chat: notifytest.NewServer(t, notifytest.Well, ""),
		mail: notifytest.NewMailServer(t, notifytest.Well, false), file: filepath.Join(s.dir, "told"),
	}
	program := filepath.Join(s.dir, "program")
	for name, text := range map[string]string{
		"hook.url": e.hook.URL, "hook.secret": "whsec_c2VjcmV0IG9mIHRoZSB0ZXN0", "chat.url": "mattermost://maascert@" + strings.TrimPrefix(e.chat.URL, "http://") + "/T0KENOFTHETEST?disabletls=yes",
		"mail.root": e.mail.Root, "mail.password": e.mail.Password, "api.key": s.maas.APIKey("admin", true), "program": "#!/bin/sh\ncat >>" + e.file + "\n",
	} {
		require.NoError(t, os.WriteFile(filepath.Join(s.dir, name), []byte(text), 0o600))
	}
	require.NoError(t, os.Chmod(program, 0o700))
	text := strings.Replace(s.config(), "maas: {command:", fmt.Sprintf("maas: {api: {url: \"http://%s:5240/MAAS\", key: \"file:api.key\"}, command:", s.maas.Regions[0].Address), 1)
	text += fmt.Sprintf(`notify:
  - {name: ui, type: maas}
  - {name: ops, type: smtp, host: %s, port: %d, root: mail.root, user: %s, password: "file:mail.password", from: maascert@example.com, to: [ops@example.com]}
  - {name: hook, type: webhook, url: "file:hook.url", hmac: "file:hook.secret"}
  - {name: talk, type: chat, url: "file:chat.url"}
  - {name: script, type: exec, command: [%s]}
`, e.mail.Host, e.mail.Port, e.mail.User, program)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(text), 0o640))
	return e
}

// told is what each was told so far: the page is what it shows now.
func (e *everybody) told() (page []string, mails, hooks, chats, lines []string) {
	for _, mail := range e.mail.Mails() {
		_, subject, _ := strings.Cut(mail.Data, "\nSubject: ")
		subject, _, _ = strings.Cut(subject, "\r\n")
		mails = append(mails, subject)
	}
	kind := func(text string) string {
		var event notify.Event
		require.NoError(e.t, json.Unmarshal([]byte(text), &event))
		return string(event.Kind)
	}
	for _, request := range e.hook.Requests() {
		hooks = append(hooks, kind(request.Body))
	}
	for _, request := range e.chat.Requests() {
		var message struct{ Text string }
		require.NoError(e.t, json.Unmarshal([]byte(request.Body), &message))
		first, _, _ := strings.Cut(message.Text, "\n")
		chats = append(chats, first)
	}
	text, err := os.ReadFile(e.file)
	if err != nil {
		require.ErrorIs(e.t, err, os.ErrNotExist)
	}
	for line := range strings.Lines(string(text)) {
		lines = append(lines, kind(line))
	}
	return e.site.maas.Notifications(), mails, hooks, chats, lines
}

// served has MAAS serve another CA's certificate, as if somebody else had looked after it.
func (e *everybody) served() {
	authority, err := certtest.NewAuthority()
	require.NoError(e.t, err)
	before, err := authority.Issue(certstore.EC256, 0, time.Hour, "maas.example.internal")
	require.NoError(e.t, err)
	require.NoError(e.t, e.site.maas.Enable(e.t.Context(), before, 5443))
}

// refuse is a CA that issues for nobody.
func refuse(w http.ResponseWriter, r *http.Request, next http.Handler) {
	if !strings.Contains(r.URL.Path, acmetest.NewOrder) {
		next.ServeHTTP(w, r)
		return
	}
	w.Header().Set("Content-Type", "application/problem+json")
	w.WriteHeader(http.StatusForbidden)
	fmt.Fprint(w, `{"type":"urn:ietf:params:acme:error:rejectedIdentifier","detail":"maas.example.internal is forbidden by policy","status":403}`)
}

// A renewal fails, and everybody is told once, wherever they look; it goes on failing, and nobody is told again; it works, and that is
// told once.
func TestEverybodyIsToldOnce(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	e := tellEverybody(t, s)
	e.served()
	s.ca.Intercept(refuse)
	began := time.Now()
	r := &rehearsed{site: s, clock: &clock{now: began}}
	r.run(t, func(now time.Time) bool {
		if now.Sub(began) > 3*24*time.Hour {
			s.ca.Intercept(nil)
		}
		return now.Sub(began) > 6*24*time.Hour
	})
	page, mails, hooks, chats, lines := e.told()
	require.Empty(t, page)
	require.Equal(t, []string{"maascert: maas: the renewal failed", "maascert: maas: over: the renewal failed"}, mails)
	require.Equal(t, []string{"failed", "recovered"}, hooks)
	require.Equal(t, mails, chats)
	require.Equal(t, hooks, lines)
}

// What a person makes happen is told as well, MAAS's page shows what is wrong as long as it is, and a notifier that cannot be told holds
// up nobody and is shown.
func TestNotifiersByHand(t *testing.T) {
	t.Parallel()
	s := startSite(t)
	e := tellEverybody(t, s)
	require.NoError(t, os.Rename(filepath.Join(s.dir, "mail.password"), filepath.Join(s.dir, "elsewhere")))
	_, out, _ := inSite(t, s, world.OS{}, "check")
	require.Contains(t, out, "mail.password: no such file or directory")
	require.NoError(t, os.Rename(filepath.Join(s.dir, "elsewhere"), filepath.Join(s.dir, "mail.password")))
	code, out, errs := inSite(t, s, world.OS{}, "notify", "test")
	require.Zero(t, code, errs)
	require.Equal(t, 5, strings.Count(out, "took the message"), out)
	page, mails, hooks, _, _ := e.told()
	require.Len(t, page, 1)
	require.Contains(t, page[0], "this message arrives")
	require.Equal(t, []string{"maascert: this is a test from region1"}, mails)
	require.Equal(t, []string{"test"}, hooks)

	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "hook.url"), []byte("http://127.0.0.1:1/s3cret"), 0o600))
	text, err := os.ReadFile(filepath.Join(s.dir, "maascert.yaml"))
	require.NoError(t, err)
	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "maascert.yaml"), []byte(strings.Replace(string(text), "{name: hook, type: webhook,", "{name: hook, type: webhook, retries: 0,", 1)), 0o640))
	code, _, errs = inSite(t, s, world.OS{}, "notify", "test")
	require.Equal(t, exitAttention, code)
	require.Contains(t, errs, "maascert: notify: hook (webhook): dial tcp 127.0.0.1:1: connect: connection refused")
	require.NotContains(t, errs, "s3cret")

	code, _, errs = inSite(t, s, world.OS{}, "renew")
	require.Equal(t, exitAttention, code)
	require.Contains(t, errs, "maascert renew --enable-tls")
	require.NotContains(t, errs, "not told")
	_, mails, _, _, _ = e.told()
	require.Len(t, mails, 2, "what a person has to decide is nobody else's news")

	e.served()
	s.ca.Intercept(refuse)
	code, _, errs = inSite(t, s, world.OS{}, "renew")
	require.Equal(t, exitAttention, code)
	require.Contains(t, errs, "warning: not told: hook (webhook)")
	page, mails, _, _, lines := e.told()
	require.Len(t, page, 2)
	require.Equal(t, "maascert: maas: the renewal failed", mails[len(mails)-1])
	require.Equal(t, "failed", lines[len(lines)-1])
	_, out, _ = inSite(t, s, world.OS{}, "status", "--json")
	require.Contains(t, out, `"failures": 1,`)
	code, out, _ = inSite(t, s, world.OS{}, "status")
	require.Equal(t, exitAttention, code)
	require.Contains(t, out, "hook (webhook) cannot be told since ")
	require.NotContains(t, out, "s3cret")

	require.NoError(t, os.WriteFile(filepath.Join(s.dir, "hook.url"), []byte(e.hook.URL), 0o600))
	code, out, errs = inSite(t, s, world.OS{}, "notify", "test")
	require.Zero(t, code, errs)
	require.Contains(t, out, "hook (webhook): took the message")
	_, out, _ = inSite(t, s, world.OS{}, "status")
	require.NotContains(t, out, "cannot be told")

	s.ca.Intercept(nil)
	code, _, errs = inSite(t, s, world.OS{}, "renew", "--force")
	require.Zero(t, code, errs)
	page, mails, hooks, _, lines = e.told()
	require.Len(t, page, 1, "only the test's notice is left")
	require.Equal(t, "maascert: maas: over: the renewal failed", mails[len(mails)-1])
	require.Equal(t, "recovered", hooks[len(hooks)-1])
	require.Equal(t, "recovered", lines[len(lines)-1])
}
