package notify_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	standardwebhooks "github.com/standard-webhooks/standard-webhooks/libraries/go"
	"github.com/stretchr/testify/require"
	"go.uber.org/goleak"

	"maascert/internal/hint"
	"maascert/internal/world"
	"maascert/maasconfig/maasapi"
	"maascert/maasconfig/maastest"
	"maascert/notify"
	"maascert/notify/notifytest"
)

// chatArgument makes this program the one that sends chat messages.
const chatArgument = "send-chat"

func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == chatArgument {
		exit, err := notify.SendChat(os.Stdin)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
		}
		os.Exit(exit)
	}
	maastest.Main()
	goleak.VerifyTestMain(m)
}

func parts() notify.Parts {
	return notify.Parts{
		Runner: world.Exec{}, Dial: new(net.Dialer).DialContext, Chat: []string{os.Args[0], chatArgument}, UserAgent: "maascert/test",
		Now: func() time.Time { return notifytest.Event(notify.Failed).At },
	}
}

// read is a section as the configuration has read it.
func read[S notify.Section](s S, place notifytest.Place) S {
	s.Check(place)
	return s
}

func section[S notify.Section](kind string) S {
	return notify.Types()[kind]().(S)
}

const (
	urlToken = "T0KENINTHEURL/with%2Fmore"
	hmacKey  = "whsec_c2lnbi13aXRoLXRoaXMta2V5LXBsZWFzZQ=="
)

func webhook(address string) notify.Section {
	s := section[*notify.WebhookSection]("webhook")
	s.Name, s.URL, s.HMAC = "hook", "file:url", "cred:hmac"
	return read(s, notifytest.Place{Values: map[string]string{"file:url": address, "cred:hmac": hmacKey}})
}

func chat(address string) notify.Section {
	s := section[*notify.ChatSection]("chat")
	s.Name, s.URL = "talk", "file:url"
	host := strings.TrimPrefix(address, "http://")
	return read(s, notifytest.Place{Values: map[string]string{"file:url": "mattermost://maascert@" + host + "/S3CRETTOKEN?disabletls=yes"}})
}

func mail(server *notifytest.MailServer, way string) notify.Section {
	s := section[*notify.MailSection]("smtp")
	s.Name, s.Host, s.Port, s.TLS, s.Root, s.User, s.Password = "ops", server.Host, server.Port, way, "/root.pem", server.User, "file:password"
	s.From, s.To = "maascert <maascert@example.com>", []string{"ops@example.com", "night@example.com"}
	return read(s, notifytest.Place{Values: map[string]string{"file:password": server.Password}, Files: map[string]string{"/root.pem": server.Root}})
}

func program(t *testing.T, script string) notify.Section {
	path := filepath.Join(t.TempDir(), "told")
	require.NoError(t, os.WriteFile(path, []byte("#!/bin/sh\n"+script), 0o700))
	s := section[*notify.ExecSection]("exec")
	s.Name, s.Command = "script", []string{path}
	return read(s, notifytest.Place{})
}

func page() notify.Section {
	s := section[*notify.MAASSection]("maas")
	s.Name = "ui"
	return read(s, notifytest.Place{})
}

func TestWebhookSurvivesWhoeverIsTold(t *testing.T) {
	t.Parallel()
	elsewhere := notifytest.NewServer(t, notifytest.Well, "")
	notifytest.Run(t, notifytest.Subject{
		Make: func(t *testing.T, manner notifytest.Manner) (notify.Section, notify.Parts) {
			return webhook(notifytest.NewServer(t, manner, elsewhere.URL).URL + "/" + urlToken + "?key=V4LUE0FQUERY"), parts()
		},
		Secrets:   []string{"T0KENINTHEURL", "V4LUE0FQUERY", hmacKey, "c2lnbi13aXRo"},
		Elsewhere: func() int { return len(elsewhere.Requests()) },
		MayTake:   []notifytest.Manner{notifytest.Floods}, // it answers 200, and what it says is not read
	})
}

func TestChatSurvivesWhoeverIsTold(t *testing.T) {
	t.Parallel()
	elsewhere := notifytest.NewServer(t, notifytest.Well, "")
	notifytest.Run(t, notifytest.Subject{
		Make: func(t *testing.T, manner notifytest.Manner) (notify.Section, notify.Parts) {
			return chat(notifytest.NewServer(t, manner, elsewhere.URL).URL), parts()
		},
		Secrets: []string{"S3CRETTOKEN"},
		// The library follows redirects and reads all of an answer, in a program that lives as long as it is let.
		MayTake: []notifytest.Manner{notifytest.Redirects, notifytest.Floods},
	})
}

func TestMailSurvivesWhoeverIsTold(t *testing.T) {
	t.Parallel()
	for _, way := range []string{"starttls", "tls"} {
		t.Run(way, func(t *testing.T) {
			t.Parallel()
			notifytest.Run(t, notifytest.Subject{
				Make: func(t *testing.T, manner notifytest.Manner) (notify.Section, notify.Parts) {
					return mail(notifytest.NewMailServer(t, manner, way == "tls"), way), parts()
				},
				Secrets: []string{"hunter2-mail-password", "aHVudGVyMi1tYWls", "bWFhc2NlcnQAaHVudGVy"},
			})
		})
	}
}

func TestProgramsSurvive(t *testing.T) {
	t.Parallel()
	scripts := map[notifytest.Manner]string{
		notifytest.Well: "cat >/dev/null", notifytest.Hangs: "sleep 60", notifytest.Refuses: "cat >&2; exit 1", notifytest.Redirects: "kill -9 $$",
		notifytest.Floods: "yes", notifytest.Closes: "exec 0<&-; exit 3", notifytest.Absent: "",
	}
	notifytest.Run(t, notifytest.Subject{
		Make: func(t *testing.T, manner notifytest.Manner) (notify.Section, notify.Parts) {
			made := program(t, scripts[manner])
			if manner == notifytest.Absent {
				made.(*notify.ExecSection).Command = []string{"/nowhere/told"}
			}
			return made, parts()
		},
	})
}

// apiBoard has the API of a MAAS keep notices, as the program has it.
type apiBoard struct{ *maasapi.Client }

func (b apiBoard) Post(ctx context.Context, notice notify.Notice, earlier int) (int, error) {
	return b.Client.Post(ctx, maasapi.Notice(notice), earlier)
}

func board(t *testing.T, address, key string) notify.Noticeboard {
	parsed, err := maasapi.ParseKey(key)
	require.NoError(t, err)
	client, err := maasapi.New(maasapi.Config{
		URL: address + "/MAAS", Key: func() (maasapi.Key, error) { return parsed, nil }, Dial: new(net.Dialer).DialContext, Pause: time.Millisecond,
		MayBePlain: world.CheckListener,
	})
	require.NoError(t, err)
	return apiBoard{client}
}

func TestMAASPageSurvivesWhoeverIsTold(t *testing.T) {
	t.Parallel()
	elsewhere := notifytest.NewServer(t, notifytest.Well, "")
	notifytest.Run(t, notifytest.Subject{
		Make: func(t *testing.T, manner notifytest.Manner) (notify.Section, notify.Parts) {
			made := parts()
			if manner == notifytest.Well {
				maas := maastest.New(t, maastest.Options{Regions: 1})
				made.Noticeboard = board(t, "http://"+maas.Regions[0].Address.String()+":5240", maas.APIKey("admin", true))
				return page(), made
			}
			made.Noticeboard = board(t, notifytest.NewServer(t, manner, elsewhere.URL).URL, "consumer:t0ken:s3cretpart")
			return page(), made
		},
		Secrets:   []string{"t0ken", "s3cretpart"},
		Elsewhere: func() int { return len(elsewhere.Requests()) },
	})
}

// memory remembers numbers of notices.
type memory map[string]int

func (m memory) Recall(ident string) int { return m[ident] }
func (m memory) Remember(ident string, number int) {
	m[ident] = number
}

func TestMAASPage(t *testing.T) {
	t.Parallel()
	maas := maastest.New(t, maastest.Options{Regions: 1})
	made := parts()
	made.Noticeboard, made.Memory = board(t, "http://"+maas.Regions[0].Address.String()+":5240", maas.APIKey("admin", true)), memory{}
	channel := notify.NewChannel("maas", page(), made)
	failed, again, recovered := notifytest.Event(notify.Failed), notifytest.Event(notify.Failed), notifytest.Event(notify.Recovered)
	require.NoError(t, channel.Tell(t.Context(), failed))
	require.Len(t, maas.Notifications(), 1)
	again.Repeat = true
	require.NoError(t, channel.Tell(t.Context(), again))
	shown := maas.Notifications()
	require.Len(t, shown, 1, "the next word takes the place of the one before")
	require.Contains(t, shown[0], "still: ")
	maas.Dismiss("admin")
	require.Empty(t, maas.Notifications())
	require.NoError(t, channel.Tell(t.Context(), failed))
	require.Len(t, maas.Notifications(), 1, "what matters again is shown again to whoever dismissed it")
	require.NoError(t, channel.Tell(t.Context(), recovered))
	require.Empty(t, maas.Notifications(), "what is over is taken away")
}

func TestWebhookIsSignedAsStandardWebhooksHasIt(t *testing.T) {
	t.Parallel()
	server := notifytest.NewServer(t, notifytest.Well, "")
	event := notifytest.Event(notify.Failed)
	require.NoError(t, notify.NewChannel("webhook", webhook(server.URL+"/hook"), parts()).Tell(t.Context(), event))
	requests := server.Requests()
	require.Len(t, requests, 1)
	require.Equal(t, "/hook", requests[0].Path)
	var got notify.Event
	require.NoError(t, json.Unmarshal([]byte(requests[0].Body), &got))
	require.Equal(t, event, got)
	verifier, err := standardwebhooks.NewWebhook(hmacKey)
	require.NoError(t, err)
	require.NoError(t, verifier.VerifyIgnoringTimestamp([]byte(requests[0].Body), requests[0].Header))
	require.Error(t, verifier.VerifyIgnoringTimestamp([]byte(requests[0].Body+" "), requests[0].Header))
}

// flaky fails so many times.
type flaky struct {
	fails int
	err   error
	tries int
}

func (f *flaky) Notify(context.Context, notify.Event) error {
	if f.tries++; f.tries <= f.fails {
		return f.err
	}
	return nil
}

func TestChannel(t *testing.T) {
	t.Parallel()
	at := func(n int) time.Duration { return time.Duration(n) }
	temporary := errors.New("it answers 503")
	for name, test := range map[string]struct {
		subject flaky
		tries   int
		fails   bool
	}{
		"what may pass is tried again":           {flaky{fails: 2, err: temporary}, 3, false},
		"but no oftener than configured":         {flaky{fails: 9, err: temporary}, 4, true},
		"what was refused is not tried again":    {flaky{fails: 1, err: &notify.Refusal{Err: temporary}}, 1, true},
		"what was taken at once is not repeated": {flaky{}, 1, false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			err := notify.Channel{Notifier: &test.subject, Retries: 3, Pause: at}.Tell(t.Context(), notifytest.Event(notify.Failed))
			require.Equal(t, test.fails, err != nil)
			require.Equal(t, test.tries, test.subject.tries)
		})
	}
}

func TestChannelWants(t *testing.T) {
	t.Parallel()
	for name, test := range map[string]struct {
		channel notify.Channel
		kind    notify.Kind
		wants   bool
	}{
		"the usual kinds are told where none is named": {notify.Channel{}, notify.Failed, true},
		"news of success are not usual":                {notify.Channel{}, notify.Obtained, false},
		"kinds that are named are told":                {notify.Channel{Kinds: []notify.Kind{notify.Obtained}}, notify.Obtained, true},
		"and no others":                                {notify.Channel{Kinds: []notify.Kind{notify.Obtained}}, notify.Failed, false},
		"all are all":                                  {notify.Channel{Kinds: []notify.Kind{notify.All}}, notify.NamesChanged, true},
		"of its certificates":                          {notify.Channel{Certificates: []string{"maas"}}, notify.Failed, true},
		"and of no others":                             {notify.Channel{Certificates: []string{"other"}}, notify.Failed, false},
		"a test is told to everybody":                  {notify.Channel{Kinds: []notify.Kind{notify.Obtained}}, notify.Test, true},
	} {
		require.Equal(t, test.wants, test.channel.Wants(notifytest.Event(test.kind)), name)
	}
}

func TestSectionsFindWhatIsWrong(t *testing.T) {
	t.Parallel()
	for want, change := range map[string]func(faults *[]string){
		`name: name is missing`: func(f *[]string) { read(section[*notify.MAASSection]("maas"), notifytest.Place{Faults: f}) },
		`events[0]: "nonsense" is unknown; there are: all, obtained`: func(f *[]string) {
			s := section[*notify.MAASSection]("maas")
			s.Events = []string{"nonsense"}
			read(s, notifytest.Place{Faults: f})
		},
		`timeout: 1ms is out of range`: func(f *[]string) {
			s := section[*notify.MAASSection]("maas")
			s.Timeout = time.Millisecond
			read(s, notifytest.Place{Faults: f})
		},
		`to: to is missing`: func(f *[]string) { read(section[*notify.MailSection]("smtp"), notifytest.Place{Faults: f}) },
		`password: without TLS everybody on the way can read the password`: func(f *[]string) {
			s := section[*notify.MailSection]("smtp")
			s.TLS, s.User, s.Password = "none", "u", "file:p"
			read(s, notifytest.Place{Faults: f})
		},
		`url: a secret is not written here`: func(f *[]string) {
			s := section[*notify.WebhookSection]("webhook")
			s.URL = "https://example.com/T0KEN"
			read(s, notifytest.Place{Faults: f})
		},
		`command: command is missing`: func(f *[]string) { read(section[*notify.ExecSection]("exec"), notifytest.Place{Faults: f}) },
	} {
		var faults []string
		change(&faults)
		require.Contains(t, strings.Join(faults, "\n"), want)
		require.NotContains(t, strings.Join(faults, "\n"), "T0KEN")
	}
}

// One address that is not taken any more keeps nobody else from being told, and nobody is told twice.
func TestMailReachesTheOthers(t *testing.T) {
	t.Parallel()
	server := notifytest.NewMailServer(t, notifytest.Well, false)
	server.Gone = "night@example.com"
	channel := notify.NewChannel("smtp", mail(server, "starttls"), parts())
	channel.Pause = func(int) time.Duration { return 0 }
	err := channel.Tell(t.Context(), notifytest.Event(notify.Failed))
	var partial *notify.Partial
	require.ErrorAs(t, err, &partial)
	require.ErrorContains(t, err, "no such user")
	mails := server.Mails()
	require.Len(t, mails, 1)
	require.Equal(t, []string{"ops@example.com"}, mails[0].To)
}

// A service's URL is all secret but for its scheme: what a library says of it is shown without.
func TestChatErrorsHoldNoPartOfTheURL(t *testing.T) {
	// Nobody is reached: a proxy that is not there stands before all of them.
	for _, name := range []string{"HTTP_PROXY", "HTTPS_PROXY"} {
		t.Setenv(name, "http://127.0.0.1:1")
	}
	for _, address := range []string{
		"slack://hook:WNA3PBYV6-F20DUQND3RQ-Webc4MAvoacrpPakR8phF0zi@webhook?color=good",
		"telegram://110201543:AAHdqTcvCH1vGWJxfSeofSAs0K5PALDsaw@telegram?channels=@x",
		"nonsense://t0kenvalue@host/p4thtoken?q=qu3rytoken",
		"no url at all but a s3cret-token",
		"ntfy://user:pa%24%24w0rd@127.0.0.1:1/topicname?scheme=http",
	} {
		s := section[*notify.ChatSection]("chat")
		s.Name, s.URL = "talk", "file:url"
		channel := notify.NewChannel("chat", read(s, notifytest.Place{Values: map[string]string{"file:url": address}}), parts())
		channel.Timeout, channel.Retries = 5*time.Second, 0
		err := channel.Tell(t.Context(), notifytest.Event(notify.Failed))
		require.Error(t, err, address)
		for _, part := range []string{"WNA3PBYV6", "F20DUQND3RQ", "Webc4MAvoacrp", "110201543", "AAHdqTcvCH1v", "t0kenvalue", "p4thtoken", "qu3rytoken", "s3cret-token", "w0rd", "pa$$w0rd"} {
			require.NotContains(t, err.Error()+hint.Of(err), part)
		}
		if u, parseErr := url.Parse(address); parseErr == nil {
			require.NotContains(t, err.Error(), u.RequestURI())
		}
	}
}
