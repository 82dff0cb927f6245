package notify

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/world"
)

// Section are the keys of a notifier in the configuration, beside its type.
type Section interface {
	// Check fills in defaults and finds what is wrong.
	Check(at section.Place)
	// Usual are the keys that every type has.
	Usual() *Keys
	// Secrets are the references to secrets that there are.
	Secrets() []secret.Reference
	// Entrusted are programs that are run as the user that we are.
	Entrusted() []string
	// Ready tells whether what it needs on this host is there, without telling anybody.
	Ready() error
	// Make makes the notifier. It touches nothing yet.
	Make(parts Parts) Notifier
}

// Types are the types of notifiers, each with a pointer to its keys as they are when none of them is given.
func Types() map[string]func() Section {
	return map[string]func() Section{
		"maas":    func() Section { return &MAASSection{Keys: usualKeys()} },
		"smtp":    func() Section { return &MailSection{Keys: usualKeys(), TLS: startTLS} },
		"webhook": func() Section { return &WebhookSection{Keys: usualKeys()} },
		"chat":    func() Section { return &ChatSection{Keys: usualKeys()} },
		"exec":    func() Section { return &ExecSection{Keys: usualKeys()} },
	}
}

// Parts are what a notifier is made of beside its keys.
type Parts struct {
	Noticeboard Noticeboard // MAAS's page; nil: MAAS's API is not asked
	Memory      Memory      // of the numbers of notices; nil: nobody remembers them
	Runner      world.Runner
	Dial        world.Dial
	// Chat is the program that sends messages to chats, with its first arguments: it reads one from its standard input.
	Chat      []string
	UserAgent string
	Now       func() time.Time
}

// Keys are those that every type has.
type Keys struct {
	Name         string        `yaml:"name"`
	Events       []string      `yaml:"events"`
	Certificates []string      `yaml:"certificates"`
	Timeout      time.Duration `yaml:"timeout"`
	Retries      int           `yaml:"retries"`
}

// Usual are these keys.
func (k *Keys) Usual() *Keys { return k }

// Entrusted are no programs.
func (k *Keys) Entrusted() []string { return nil }

// Secrets are none.
func (k *Keys) Secrets() []secret.Reference { return nil }

// Ready needs nothing.
func (k *Keys) Ready() error { return nil }

func usualKeys() Keys { return Keys{Timeout: 30 * time.Second, Retries: 3} }

const (
	longestTimeout = 5 * time.Minute
	mostRetries    = 10
)

// names are those that can be a label and a word in a sentence.
var names = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,31}$`)

func (k *Keys) check(at section.Place) {
	if k.Name == "" {
		at.Fault("name", "name is missing: what the notifier is called in messages and metrics")
	} else if !names.MatchString(k.Name) {
		at.Fault("name", "a notifier's name has 1 to 32 letters, digits, dots, hyphens and underscores, not %q", k.Name)
	}
	for i, event := range k.Events {
		if Kind(event) != All && !slices.Contains(Kinds, Kind(event)) {
			at.Fault(fmt.Sprintf("events[%d]", i), "%q is unknown; there are: %s, %s", event, All, join(Kinds))
		}
	}
	if k.Timeout < time.Second || k.Timeout > longestTimeout {
		at.Fault("timeout", "%v is out of range: 1s to %v", k.Timeout, longestTimeout)
	}
	if k.Retries < 0 || k.Retries > mostRetries {
		at.Fault("retries", "%d is out of range: 0 to %d", k.Retries, mostRetries)
	}
}

func join(kinds []Kind) string {
	words := make([]string, len(kinds))
	for i, kind := range kinds {
		words[i] = string(kind)
	}
	return strings.Join(words, ", ")
}

// NewChannel makes a notifier and says what it is told of.
func NewChannel(kind string, s Section, parts Parts) Channel {
	keys := s.Usual()
	channel := Channel{Name: keys.Name, Type: kind, Notifier: s.Make(parts), Certificates: keys.Certificates, Timeout: keys.Timeout, Retries: keys.Retries}
	for _, event := range keys.Events {
		channel.Kinds = append(channel.Kinds, Kind(event))
	}
	return channel
}

// reader reads a secret when it is needed: another one may have been put in its place since, and a command that tells nobody can do
// without it.
type reader func() (string, error)

func readerOf(at section.Place, key string, reference secret.Reference) reader {
	if reference == "" {
		at.Fault(key, "%s is missing: file:PATH, env:NAME or cred:NAME", key)
	} else if err := reference.Check(); err != nil {
		at.Hide(key) // it may be the secret itself
		at.Fault(key, "%v", err)
	}
	return func() (string, error) { return at.Again(reference) }
}

// areReadable tells whether secrets can be read, as far as there are any.
func areReadable(secrets ...reader) error {
	var unreadable []error
	for _, read := range secrets {
		if read != nil {
			_, err := read()
			unreadable = append(unreadable, err)
		}
	}
	return errors.Join(unreadable...)
}

// Noticeboard shows notices to the administrators of MAAS on its own page. A notice has an ident, of which there is one at a time.
type Noticeboard interface {
	// Post shows a notice, or changes it. The number that it returns finds the notice again when somebody dismissed it; earlier is
	// what the last Post of this ident returned, 0 for nothing.
	Post(ctx context.Context, notice Notice, earlier int) (number int, err error)
	// Withdraw takes a notice away; none is no error.
	Withdraw(ctx context.Context, ident string, earlier int) error
}

// Notice is one on MAAS's page.
type Notice struct {
	Ident    string // at most 36 bytes
	Category string // error, warning, success or info
	Message  string // plain text
}

// Memory remembers numbers of notices by their ident.
type Memory interface {
	Recall(ident string) int
	Remember(ident string, number int)
}
