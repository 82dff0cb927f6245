package notify

import (
	"cmp"
	"context"
	"crypto/sha256"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"sync"
	"syscall"

	"github.com/nicholas-fedor/shoutrrr"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/world"
)

// ChatSection are the keys of a notifier of type chat.
type ChatSection struct {
	Keys `yaml:",inline"`
	URL  secret.Reference `yaml:"url"` // of the service, as shoutrrr has it: slack://…, matrix://…, ntfy://…; it holds a token

	url reader
}

// Secrets are the references to secrets that there are.
func (s *ChatSection) Secrets() []secret.Reference { return []secret.Reference{s.URL} }

// Check finds what is wrong.
func (s *ChatSection) Check(at section.Place) {
	s.check(at)
	s.url = readerOf(at, "url", s.URL)
}

// Ready tells whether the URL can be read.
func (s *ChatSection) Ready() error { return areReadable(s.url) }

// Make makes the notifier.
func (s *ChatSection) Make(parts Parts) Notifier {
	return &chat{url: s.url, program: parts.Chat, runner: parts.Runner}
}

// chat sends messages to a chat service by shoutrrr. That library waits for as long as a service likes, and reads as much as it
// answers; so it runs in a program of its own, which is ended when its time is up.
type chat struct {
	url     reader
	program []string
	runner  world.Runner
}

// Message is what SendChat reads, as JSON.
type Message struct {
	URL  string `json:"url"`
	Text string `json:"text"`
}

// refusedExit is the exit code of the program when trying again is of no use. Go's own, when a program dies, is another.
const refusedExit = 3

// mostChatMemory is how many bytes the program may have: some services' answers are read whatever their length.
const mostChatMemory = 512 << 20

func (c *chat) Notify(ctx context.Context, event Event) error {
	address, err := c.url()
	if err != nil {
		return &Refusal{err}
	}
	text, err := json.Marshal(Message{address, event.Subject() + "\n\n" + event.Text()})
	if err != nil {
		return &Refusal{err}
	}
	result, err := c.runner.Run(ctx, world.Command{Path: c.program[0], Args: c.program[1:], Stdin: text, Proxies: true})
	switch said := scrub(printable.Phrase(string(result.Stderr)), address); {
	case err != nil:
		return errors.New("the message was not sent: " + scrub(printable.Error(err), address))
	case result.Exit == refusedExit:
		return &Refusal{hint.Add(errors.New(said), "shoutrrr's documentation has the URL of each service")}
	case result.Exit != 0:
		return errors.New(cmp.Or(said, fmt.Sprintf("exit code %d", result.Exit)))
	default:
		return nil
	}
}

// SendChat reads a Message and sends it: the work of the program of its own, whose HTTP it watches. It returns the program's exit code,
// and why it is not 0, without the secrets in the URL.
func SendChat(input io.Reader) (exit int, err error) {
	if err := syscall.Setrlimit(syscall.RLIMIT_DATA, &syscall.Rlimit{Cur: mostChatMemory, Max: mostChatMemory}); err != nil {
		return refusedExit, err
	}
	var message Message
	if err := json.NewDecoder(io.LimitReader(input, 1<<20)).Decode(&message); err != nil {
		return refusedExit, errors.New("no message came in")
	}
	sender, err := shoutrrr.CreateSender(message.URL)
	if err != nil {
		return refusedExit, errors.New("what url refers to holds no URL of a chat service: " + scrub(printable.Error(innermost(err)), message.URL))
	}
	sender.Timeout = longestTimeout // the program is ended before
	watched := &watchedTransport{next: http.DefaultTransport, failed: map[string]error{}}
	http.DefaultTransport = watched
	if err := errors.Join(append(sender.Send(message.Text, nil), watched.failure())...); err != nil {
		return 1, errors.New(scrub(printable.Error(withoutURL(err)), message.URL))
	}
	return 0, nil
}

// watchedTransport remembers what went wrong with a request: some services of shoutrrr's keep it to themselves. It follows nobody
// elsewhere, and reads no more of an answer than a service has reason to say.
type watchedTransport struct {
	next http.RoundTripper

	mu     sync.Mutex
	failed map[string]error // by what was asked, so that a service's own second try heals the first
}

// mostAnswered is how many bytes of an answer are read.
const mostAnswered = 1 << 20

// RoundTrip makes one request.
func (w *watchedTransport) RoundTrip(request *http.Request) (*http.Response, error) {
	response, err := w.next.RoundTrip(request)
	switch {
	case err != nil:
	case response.StatusCode >= 300 && response.StatusCode < 400:
		err = errors.Join(fmt.Errorf("it answers %d, which sends us elsewhere", response.StatusCode), response.Body.Close())
	case response.StatusCode >= 400:
		w.note(request, fmt.Errorf("it answers %d", response.StatusCode)) // and the service reads why
	default:
		w.note(request, nil)
	}
	if err != nil {
		w.note(request, err)
		return nil, err
	}
	response.Body = struct {
		io.Reader
		io.Closer
	}{io.LimitReader(response.Body, mostAnswered), response.Body}
	return response, nil
}

func (w *watchedTransport) note(request *http.Request, err error) {
	asked := sha256.New()
	fmt.Fprintln(asked, request.Method, request.URL)
	if request.GetBody != nil {
		if body, bodyErr := request.GetBody(); bodyErr == nil {
			_, _ = io.Copy(asked, body) // it is in memory
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failed[string(asked.Sum(nil))] = err
}

// failure is what went wrong and was not healed, or nil.
func (w *watchedTransport) failure() error {
	w.mu.Lock()
	defer w.mu.Unlock()
	return errors.Join(slices.Collect(maps.Values(w.failed))...)
}

// innermost is the cause of an error, around which texts with a whole URL may stand.
func innermost(err error) error {
	for {
		next := errors.Unwrap(err)
		if next == nil {
			return err
		}
		err = next
	}
}

// shortestSecret is how many bytes a part of a URL has at least that could be a token.
const shortestSecret = 4

// scrub takes all that may be a secret out of a text about a URL: its user and password, the parts of its path and the values of its
// query, as they are written and as they are meant. Services put tokens everywhere.
func scrub(text, address string) string {
	parts := []string{address}
	if u, err := url.Parse(address); err == nil {
		password, _ := u.User.Password()
		parts = append(parts, u.User.Username(), password, u.Host, u.Hostname(), u.Fragment, u.RawQuery)
		parts = append(parts, strings.Split(u.EscapedPath(), "/")...)
		for _, values := range u.Query() {
			parts = append(parts, values...)
		}
	}
	for _, part := range slices.Clone(parts) {
		if plain, err := url.PathUnescape(part); err == nil {
			parts = append(parts, plain, url.QueryEscape(plain))
		}
		parts = append(parts, strings.FieldsFunc(part, func(r rune) bool { return strings.ContainsRune(":/@?&=,", r) })...)
	}
	// The longest first, so that no part of one is left.
	slices.SortFunc(parts, func(a, b string) int { return len(b) - len(a) })
	for _, part := range parts {
		if len(part) >= shortestSecret {
			text = strings.ReplaceAll(text, part, "…")
		}
	}
	return text
}
