package notifytest

import (
	"crypto/tls"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/emersion/go-sasl"
	"github.com/emersion/go-smtp"
	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/certtest"
)

// MailServer is a mail server on the loopback address.
type MailServer struct {
	Host     string
	Port     int
	Root     string // PEM: who signed its certificate
	User     string
	Password string
	Gone     string // an address that is not taken any more

	manner Manner
	mu     sync.Mutex
	mails  []Mail
}

// Mail is one that was taken.
type Mail struct {
	From string
	To   []string
	Data string
	User string // who logged in
	TLS  bool
}

// Mails are those that were taken.
func (s *MailServer) Mails() []Mail {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Mail(nil), s.mails...)
}

// NewMailServer starts a server of a manner, with STARTTLS or, where isImplicit, with TLS from the first byte. Whoever sends has to log in.
func NewMailServer(t testing.TB, manner Manner, isImplicit bool) *MailServer {
	t.Helper()
	authority, err := certtest.NewAuthority()
	require.NoError(t, err)
	bundle, err := authority.Issue(certstore.EC256, 0, time.Hour, "127.0.0.1")
	require.NoError(t, err)
	pair, err := tls.X509KeyPair(bundle.FullChainPEM(), bundle.KeyPEM())
	require.NoError(t, err)
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	s := &MailServer{
		Host: "127.0.0.1", Port: listener.Addr().(*net.TCPAddr).Port, Root: string(authority.RootPEM()), User: "maascert", Password: "hunter2-mail-password", manner: manner,
	}
	config := &tls.Config{Certificates: []tls.Certificate{pair}}
	switch manner {
	case Absent:
		require.NoError(t, listener.Close())
		return s
	case Closes:
		serve(t, listener, func(net.Conn) {})
		return s
	case Hangs:
		serve(t, listener, func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) })
		return s
	case Floods:
		serve(t, listener, func(conn net.Conn) {
			if isImplicit {
				conn = tls.Server(conn, config)
			}
			flood(&lines{conn}, nil)
		})
		return s
	}
	server := smtp.NewServer(s)
	server.Domain, server.TLSConfig, server.AllowInsecureAuth = "mail.test", config, false
	if isImplicit {
		listener = tls.NewListener(listener, config)
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(listener) // its end is the cleanup's doing
	}()
	t.Cleanup(func() {
		require.NoError(t, server.Close())
		<-done
	})
	return s
}

// lines makes of everything a greeting that goes on.
type lines struct{ io.Writer }

func (l *lines) Write(p []byte) (int, error) {
	_, err := io.WriteString(l.Writer, "220-"+strings.Repeat("x", len(p))+"\r\n")
	return len(p), err
}

// NewSession begins a conversation.
func (s *MailServer) NewSession(c *smtp.Conn) (smtp.Session, error) {
	_, isTLS := c.TLSConnectionState()
	return &session{server: s, mail: Mail{TLS: isTLS}}, nil
}

type session struct {
	server *MailServer
	mail   Mail
}

func (s *session) AuthMechanisms() []string { return []string{sasl.Plain} }

func (s *session) Auth(string) (sasl.Server, error) {
	return sasl.NewPlainServer(func(_, user, password string) error {
		if s.server.manner == Refuses || user != s.server.User || password != s.server.Password {
			return &smtp.SMTPError{Code: 535, EnhancedCode: smtp.EnhancedCode{5, 7, 8}, Message: "no: " + user + " " + password}
		}
		s.mail.User = user
		return nil
	}), nil
}

func (s *session) Mail(from string, _ *smtp.MailOptions) error {
	if s.mail.User == "" {
		return smtp.ErrAuthRequired
	}
	s.mail.From = from
	return nil
}

func (s *session) Rcpt(to string, _ *smtp.RcptOptions) error {
	if s.server.manner == Redirects {
		return &smtp.SMTPError{Code: 551, EnhancedCode: smtp.EnhancedCode{5, 1, 6}, Message: "not here; try <elsewhere@example.com>"}
	}
	if to == s.server.Gone {
		return &smtp.SMTPError{Code: 550, EnhancedCode: smtp.EnhancedCode{5, 1, 1}, Message: "no such user"}
	}
	s.mail.To = append(s.mail.To, to)
	return nil
}

func (s *session) Data(r io.Reader) error {
	data, err := io.ReadAll(io.LimitReader(r, 1<<20))
	s.mail.Data = string(data)
	s.server.mu.Lock()
	defer s.server.mu.Unlock()
	s.server.mails = append(s.server.mails, s.mail)
	return err
}

func (s *session) Reset() {}

func (s *session) Logout() error { return nil }
