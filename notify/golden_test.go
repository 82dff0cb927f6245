package notify_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"maascert/notify"
	"maascert/notify/notifytest"
)

// What every notifier sends for every kind of event stands in testdata, as whoever is told got it. UPDATE_GOLDEN=1 writes it anew: read
// what changed.
func TestPayloads(t *testing.T) {
	t.Parallel()
	senders := map[string]func(t *testing.T, event notify.Event) string{"webhook": webhookPayload, "smtp": mailPayload, "chat": chatPayload, "exec": execPayload, "maas": maasPayload}
	for sender, payload := range senders {
		t.Run(sender, func(t *testing.T) {
			t.Parallel()
			for _, kind := range append(slices.Clone(notify.Kinds), notify.Test) {
				golden(t, filepath.Join("testdata", sender, string(kind)+".txt"), payload(t, notifytest.Event(kind)))
			}
		})
	}
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if os.Getenv("UPDATE_GOLDEN") != "" {
		require.NoError(t, os.MkdirAll(filepath.Dir(path), 0o755))
		require.NoError(t, os.WriteFile(path, []byte(got), 0o644))
	}
	want, err := os.ReadFile(path)
	require.NoError(t, err)
	require.Equal(t, string(want), got, path)
}

func tell(t *testing.T, kind string, s notify.Section, parts notify.Parts, event notify.Event) {
	t.Helper()
	channel := notify.NewChannel(kind, s, parts)
	channel.Retries = 0
	require.NoError(t, channel.Tell(t.Context(), event))
}

func webhookPayload(t *testing.T, event notify.Event) string {
	server := notifytest.NewServer(t, notifytest.Well, "")
	tell(t, "webhook", webhook(server.URL+"/hook"), parts(), event)
	request := server.Requests()[0]
	var text strings.Builder
	for _, name := range []string{"Content-Type", "User-Agent", "Webhook-Id", "Webhook-Timestamp", "Webhook-Signature"} {
		fmt.Fprintf(&text, "%s: %s\n", name, request.Header.Get(name))
	}
	return text.String() + "\n" + indented(t, request.Body)
}

func indented(t *testing.T, text string) string {
	var out bytes.Buffer
	require.NoError(t, json.Indent(&out, []byte(text), "", "  "))
	return strings.TrimSpace(out.String()) + "\n"
}

func mailPayload(t *testing.T, event notify.Event) string {
	server := notifytest.NewMailServer(t, notifytest.Well, false)
	tell(t, "smtp", mail(server, "starttls"), parts(), event)
	mails := server.Mails()
	require.Len(t, mails, 1)
	require.True(t, mails[0].TLS)
	require.Equal(t, []string{"ops@example.com", "night@example.com"}, mails[0].To)
	return strings.ReplaceAll(mails[0].Data, "\r\n", "\n")
}

func chatPayload(t *testing.T, event notify.Event) string {
	server := notifytest.NewServer(t, notifytest.Well, "")
	tell(t, "chat", chat(server.URL), parts(), event)
	request := server.Requests()[0]
	require.Contains(t, request.Path, "S3CRETTOKEN")
	return indented(t, request.Body)
}

func execPayload(t *testing.T, event notify.Event) string {
	out := filepath.Join(t.TempDir(), "out")
	tell(t, "exec", program(t, "cat >"+out), parts(), event)
	text, err := os.ReadFile(out)
	require.NoError(t, err)
	return string(text)
}

func maasPayload(t *testing.T, event notify.Event) string {
	board := &notifytest.Board{}
	made := parts()
	made.Noticeboard = board
	tell(t, "maas", page(), made, event)
	if event.Kind == notify.Recovered {
		require.Empty(t, board.Shown())
		return "the notice is taken away\n"
	}
	return strings.Join(board.Shown(), "\n") + "\n"
}
