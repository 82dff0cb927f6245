package notify

import (
	"bytes"
	"context"
	"crypto/tls"
	"crypto/x509"
	_ "embed"
	"encoding/base64"
	"errors"
	"fmt"
	"html/template"
	"io"
	"net"
	"net/mail"
	"slices"
	"strings"

	gomail "github.com/wneessen/go-mail"

	"maascert/internal/hint"
	"maascert/internal/printable"
	"maascert/internal/secret"
	"maascert/internal/section"
	"maascert/internal/world"
)

// The ways to protect the way to a mail server.
const (
	startTLS = "starttls" // a plain connection that becomes TLS, or is given up
	implicit = "tls"      // TLS from the first byte
	plain    = "none"     // nothing: for a server on this host
)

// MailSection are the keys of a notifier of type smtp.
type MailSection struct {
	Keys     `yaml:",inline"`
	Host     string           `yaml:"host"`
	Port     int              `yaml:"port"` // 587 for starttls, 465 for tls, 25 for none
	TLS      string           `yaml:"tls"`
	Root     string           `yaml:"root,path"` // who may have signed the server's certificate; empty: the system's
	User     string           `yaml:"user"`
	Password secret.Reference `yaml:"password"`
	From     string           `yaml:"from"`
	To       []string         `yaml:"to"`

	password reader
	roots    *x509.CertPool
}

// Secrets are the references to secrets that there are.
func (s *MailSection) Secrets() []secret.Reference { return []secret.Reference{s.Password} }

// Check fills in defaults and finds what is wrong.
func (s *MailSection) Check(at section.Place) {
	s.check(at)
	usual := map[string]int{startTLS: 587, implicit: 465, plain: 25}
	if _, ok := usual[s.TLS]; !ok {
		at.Fault("tls", "%q is unknown; there are: %s, %s, %s", s.TLS, startTLS, implicit, plain)
	}
	if s.Port == 0 {
		s.Port = usual[s.TLS]
	}
	if s.Port < 0 || s.Port > 65535 {
		at.Fault("port", "%d is no port", s.Port)
	}
	if s.Host == "" {
		at.Fault("host", "host is missing: the name or the address of the mail server")
	} else if !section.IsEndpoint(s.Host) || strings.Contains(s.Host, ":") && net.ParseIP(s.Host) == nil {
		at.Fault("host", "%q is no host: the name or the address of the mail server", s.Host)
	}
	if s.From == "" {
		at.Fault("from", "from is missing: the mail address of the sender")
	} else if _, err := mail.ParseAddress(s.From); err != nil {
		at.Fault("from", "%q is no mail address", s.From)
	}
	if len(s.To) == 0 {
		at.Fault("to", "to is missing: the mail addresses of those who are told")
	}
	for i, to := range s.To {
		if _, err := mail.ParseAddress(to); err != nil {
			at.Fault(fmt.Sprintf("to[%d]", i), "%q is no mail address", to)
		}
	}
	s.checkLogin(at)
	s.roots = readRoots(at, s.Root)
}

func (s *MailSection) checkLogin(at section.Place) {
	switch {
	case s.User == "" && s.Password == "":
	case s.User == "" || s.Password == "":
		at.Fault("user", "user and password belong together")
	case s.TLS == plain:
		at.Fault("password", "without TLS everybody on the way can read the password: set tls: %s", startTLS)
	default:
		s.password = readerOf(at, "password", s.Password)
	}
}

// Ready tells whether the password can be read.
func (s *MailSection) Ready() error { return areReadable(s.password) }

// Make makes the notifier.
func (s *MailSection) Make(parts Parts) Notifier { return &mailer{MailSection: s, parts: parts} }

// mailer sends each event as one mail with a plain text and an HTML part.
type mailer struct {
	*MailSection
	parts Parts
}

func (m *mailer) Notify(ctx context.Context, event Event) error {
	err := m.mail(ctx, event, m.To)
	var sent *gomail.SendError
	if err == nil || len(m.To) == 1 || !errors.As(err, &sent) || sent.Reason != gomail.ErrSMTPRcptTo {
		return err
	}
	// Somebody's address is not taken; the others are told all the same.
	var refused []error
	for _, to := range m.To {
		refused = append(refused, m.mail(ctx, event, []string{to}))
	}
	if err = errors.Join(refused...); err == nil {
		return nil
	}
	err = printable.Tame(err)
	if slices.Contains(refused, nil) {
		return &Partial{err}
	}
	return err
}

// mail sends an event to some.
func (m *mailer) mail(ctx context.Context, event Event, to []string) error {
	message, err := m.message(event, to)
	if err != nil {
		return &Refusal{err}
	}
	line := &line{}
	defer line.close()
	client, err := m.client(ctx, line)
	if err != nil {
		return &Refusal{err}
	}
	return m.send(ctx, client, message)
}

// send sends a mail. That the server then does not say good-bye changes nothing.
func (m *mailer) send(ctx context.Context, client *gomail.Client, message *gomail.Msg) error {
	conversation, err := client.DialToSMTPClientWithContext(ctx)
	if err != nil {
		return m.explain(err)
	}
	if err := client.SendWithSMTPClient(conversation, message); err != nil {
		return m.explain(err)
	}
	_ = client.CloseWithSMTPClient(conversation)
	return nil
}

// logins are the ways to log in, the best first. Those that send the password itself want TLS, which there is.
var logins = []gomail.SMTPAuthType{gomail.SMTPAuthSCRAMSHA256, gomail.SMTPAuthSCRAMSHA1, gomail.SMTPAuthCramMD5, gomail.SMTPAuthPlain, gomail.SMTPAuthLogin}

// client makes one that talks over a line.
func (m *mailer) client(ctx context.Context, line *line) (*gomail.Client, error) {
	config := &tls.Config{ServerName: m.Host, RootCAs: m.roots, MinVersion: tls.VersionTLS12}
	options := []gomail.Option{
		gomail.WithPort(m.Port), gomail.WithTLSConfig(config), gomail.WithTimeout(longestTimeout), gomail.WithoutNoop(), gomail.WithoutRset(),
		gomail.WithDialContextFunc(func(_ context.Context, network, address string) (net.Conn, error) {
			return line.open(ctx, m.parts.Dial, network, address, m.TLS == implicit, config)
		}),
	}
	switch m.TLS {
	case startTLS:
		options = append(options, gomail.WithTLSPolicy(gomail.TLSMandatory))
	case implicit:
		options = append(options, gomail.WithSSL())
	default:
		options = append(options, gomail.WithTLSPolicy(gomail.NoTLS))
	}
	if m.password != nil {
		password, err := m.password()
		if err != nil {
			return nil, err
		}
		options = append(options, gomail.WithUsername(m.User), gomail.WithPassword(password), gomail.WithOpportunisticSMTPAuth(logins...))
	}
	return gomail.NewClient(m.Host, options...)
}

// explain is an error of a conversation without what a server may have echoed of the password.
func (m *mailer) explain(err error) error {
	text := printable.Error(err)
	if m.password != nil {
		if password, readErr := m.password(); readErr == nil {
			text = scrubPassword(text, m.User, password)
		}
	}
	said := error(&printable.Tamed{Text: text, Err: err})
	var sent *gomail.SendError
	var unknown x509.UnknownAuthorityError
	switch {
	case errors.As(err, &unknown):
		return &Refusal{hint.Add(said, "root: the file of who signed the mail server's certificate")}
	case errors.As(err, &sent) && sent.ErrorCode() >= 500, strings.Contains(text, "535 "), strings.Contains(text, "authentication"):
		return &Refusal{said}
	default:
		return said
	}
}

// scrubPassword takes a password out of a text, as it is and as a login carries it.
func scrubPassword(text, user, password string) string {
	for _, form := range []string{password, base64.StdEncoding.EncodeToString([]byte("\x00" + user + "\x00" + password)), base64.StdEncoding.EncodeToString([]byte(password))} {
		text = strings.ReplaceAll(text, form, "…")
	}
	return text
}

// message is an event as a mail. All mails of a topic are one conversation in a mail program.
func (m *mailer) message(event Event, recipients []string) (*gomail.Msg, error) {
	message := gomail.NewMsg(gomail.WithNoDefaultUserAgent(), gomail.WithBoundary("part-"+event.ID))
	if err := message.From(m.From); err != nil {
		return nil, err
	}
	if err := message.To(recipients...); err != nil {
		return nil, err
	}
	from, err := mail.ParseAddress(m.From)
	if err != nil {
		return nil, err
	}
	domain := from.Address[strings.LastIndexByte(from.Address, '@')+1:]
	message.Subject(event.Subject())
	message.SetDateWithValue(event.At)
	message.SetMessageIDWithValue(event.ID + "@" + domain)
	message.SetGenHeader("References", fmt.Sprintf("<%s@%s>", identOf(event), domain))
	message.SetGenHeader("Auto-Submitted", "auto-generated") // RFC 3834: no robot answers
	message.SetGenHeader("X-Mailer", m.parts.UserAgent)
	message.SetBodyString(gomail.TypeTextPlain, event.Text())
	html, err := event.html()
	if err != nil {
		return nil, err
	}
	message.AddAlternativeString(gomail.TypeTextHTML, html)
	return message, nil
}

//go:embed mail.html
var mailPage string

var mailTemplate = template.Must(template.New("mail").Parse(mailPage))

// html is an event as a page for a mail program.
func (e Event) html() (string, error) {
	colour := "#2e7d32"
	switch category(e) {
	case "error":
		colour = "#b3261e"
	case "warning":
		colour = "#9a6700"
	}
	if e.Kind == Test {
		colour = "#4a5568"
	}
	var page bytes.Buffer
	err := mailTemplate.Execute(&page, struct {
		Colour            template.CSS
		Headline, Summary string
		Details           []detail
	}{template.CSS(colour), strings.TrimPrefix(e.Subject(), "maascert: "), e.Summary, e.details()})
	return page.String(), err
}

// line is a connection to a mail server: it ends with its context, and carries so much and no more from there.
type line struct {
	conn net.Conn
	stop func() bool
}

// mostFromServer is how many bytes a mail server may say, its certificates included.
const mostFromServer = 256 << 10

func (l *line) open(ctx context.Context, dial world.Dial, network, address string, isTLS bool, config *tls.Config) (net.Conn, error) {
	conn, err := dial(ctx, network, address)
	if err != nil {
		return nil, err
	}
	l.close()
	l.conn, l.stop = conn, context.AfterFunc(ctx, func() { _ = conn.Close() })
	bounded := net.Conn(&boundedConn{Conn: conn, left: mostFromServer})
	if !isTLS {
		return bounded, nil
	}
	secured := tls.Client(bounded, config)
	return secured, secured.HandshakeContext(ctx)
}

// close ends the connection, if there is one; that it had ended before is as well.
func (l *line) close() {
	if l.conn != nil {
		l.stop()
		_ = l.conn.Close()
	}
}

// boundedConn reads so many bytes and then says that it was too much.
type boundedConn struct {
	net.Conn
	left int
}

func (c *boundedConn) Read(p []byte) (int, error) {
	if c.left <= 0 {
		return 0, fmt.Errorf("the server said more than %d bytes: %w", mostFromServer, io.ErrUnexpectedEOF)
	}
	n, err := c.Conn.Read(p[:min(len(p), c.left)])
	c.left -= n
	return n, err
}
