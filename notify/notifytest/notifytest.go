// Package notifytest is what every notifier must do, and servers to tell.
package notifytest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"runtime"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/notify"
)

// Manner is how whoever is told behaves.
type Manner string

// The manners.
const (
	Well      Manner = "takes what it is told"
	Hangs     Manner = "never answers"
	Refuses   Manner = "says no, and repeats what it was sent"
	Redirects Manner = "sends us elsewhere"
	Floods    Manner = "answers without end"
	Closes    Manner = "closes the connection"
	Absent    Manner = "is not there"
)

// Manners are all of them.
var Manners = []Manner{Well, Hangs, Refuses, Redirects, Floods, Closes, Absent}

// Subject is a notifier under test.
type Subject struct {
	// Section makes the notifier's section of the configuration, and its parts, for somebody who behaves in a manner.
	Make func(t *testing.T, manner Manner) (notify.Section, notify.Parts)
	// Secrets must show up nowhere.
	Secrets []string
	// Elsewhere tells how often the place was asked to which Redirects sends; nil: there is none.
	Elsewhere func() int
	// MayTake are the manners, beside Well, after which the event may count as taken.
	MayTake []Manner
}

// patience is how long a notifier is given in these tests, and slack how much later it may return where this machine is busy.
const (
	patience = time.Second
	slack    = 10 * time.Second
	// mostMemory is how much may be kept of what somebody says without end.
	mostMemory = 64 << 20
)

// Run runs a notifier through all manners.
func Run(t *testing.T, subject Subject) {
	t.Helper()
	for _, manner := range Manners {
		t.Run(string(manner), func(t *testing.T) {
			made, parts := subject.Make(t, manner)
			channel := notify.NewChannel("tested", made, parts)
			channel.Timeout, channel.Retries = patience, 0
			if manner == Well { // however busy this machine is
				channel.Timeout = time.Minute
			}
			var before, after runtime.MemStats
			runtime.ReadMemStats(&before)
			begun := time.Now()
			err := channel.Tell(t.Context(), Event(notify.Failed))
			took := time.Since(begun)
			runtime.ReadMemStats(&after)
			switch {
			case manner == Well:
				require.NoError(t, err)
			case err == nil:
				require.Contains(t, subject.MayTake, manner)
			}
			if manner != Well {
				require.Less(t, took, patience+slack)
			}
			require.Less(t, int64(after.HeapInuse)-int64(before.HeapInuse), int64(mostMemory))
			document, jsonErr := json.Marshal(made)
			require.NoError(t, jsonErr)
			shown := fmt.Sprintf("%v %+v %#v %s %v %+v %#v %v", err, err, err, document, channel, channel, made, made)
			for _, secret := range subject.Secrets {
				require.NotContains(t, shown, secret)
			}
			if err != nil {
				require.NotContains(t, err.Error(), "\n")
				require.LessOrEqual(t, len(err.Error()), 2100)
			}
		})
	}
	if subject.Elsewhere != nil {
		require.Zero(t, subject.Elsewhere(), "a redirect was followed")
	}
}

// Event is one of a kind, with all that it can have.
func Event(kind notify.Kind) notify.Event {
	ends := time.Date(2026, 12, 24, 10, 0, 0, 0, time.UTC)
	event := notify.Event{At: ends.Add(-20 * 24 * time.Hour), Kind: kind, Node: "region1", Cert: "maas", NotAfter: &ends}
	switch kind {
	case notify.Failed:
		event.Topic, event.Stage, event.Error, event.Hint = "certificate", "obtain", `the CA says "<no> & {never}"`, "open port 80"
	case notify.RehearsalFailed, notify.RehearsalSkipped:
		event.Topic, event.Stage, event.Error, event.Hint = "rehearsal", "obtain", "port 80 is closed", "open port 80"
	case notify.Degraded, notify.Drift:
		event.Target, event.Stage, event.Error, event.Hint = "front", "verify", "10.0.0.11:443 serves another certificate", "maascert verify"
	case notify.Recovered:
		event.Of, event.Topic, event.Stage, event.Error = notify.Failed, "certificate", "obtain", "the CA cannot be reached"
	case notify.Expiring:
		event.Error, event.Hint = "the CA cannot be reached", "maascert renew"
	case notify.Deployed:
		event.Target = "maas"
	case notify.NamesChanged:
		event.Detail = "- region2.example.internal + region9.example.internal"
	case notify.TrustChanged:
		event.Detail = "Clients must trust another root"
	case notify.Revoked:
		event.Detail = "The CA revoked version 3"
	case notify.Silent:
		event.Detail = "The host region2 has made no pass since 2026-12-02 10:00 UTC"
	}
	return notify.New(event)
}

// Server is somebody who is told by HTTP.
type Server struct {
	URL string // http://127.0.0.1:PORT

	mu       sync.Mutex
	requests []Request
}

// Request is one that was made.
type Request struct {
	Path   string
	Header http.Header
	Body   string
}

// Requests are those that were made.
func (s *Server) Requests() []Request {
	s.mu.Lock()
	defer s.mu.Unlock()
	return append([]Request(nil), s.requests...)
}

// NewServer starts a server of a manner; elsewhere is where Redirects sends.
func NewServer(t testing.TB, manner Manner, elsewhere string) *Server {
	t.Helper()
	s := &Server{}
	if manner == Absent || manner == Closes {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		require.NoError(t, err)
		s.URL = "http://" + listener.Addr().String()
		if manner == Absent {
			require.NoError(t, listener.Close())
			return s
		}
		serve(t, listener, func(net.Conn) {})
		return s
	}
	ended := make(chan struct{})
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, _ := io.ReadAll(io.LimitReader(r.Body, 1<<20)) // a client that goes away leaves a part
		s.mu.Lock()
		s.requests = append(s.requests, Request{r.URL.String(), r.Header.Clone(), string(body)})
		s.mu.Unlock()
		switch manner {
		case Hangs:
			<-ended
		case Refuses:
			w.WriteHeader(http.StatusForbidden)
			fmt.Fprintf(w, "no: %s %v %s", r.URL, r.Header, body)
		case Redirects:
			http.Redirect(w, r, elsewhere+r.URL.String(), http.StatusTemporaryRedirect)
		case Floods:
			flood(w, ended)
		default:
			fmt.Fprintln(w, "{}")
		}
	}))
	t.Cleanup(server.Close)
	t.Cleanup(func() { close(ended) })
	s.URL = server.URL
	return s
}

// most is how much a flood is: enough to be seen, and not without end where nobody stops it.
const most = 512 << 20

func flood(w io.Writer, ended <-chan struct{}) {
	block := bytes.Repeat([]byte("x"), 64<<10)
	for range most / len(block) {
		select {
		case <-ended:
			return
		default:
		}
		if _, err := w.Write(block); err != nil {
			return
		}
	}
}

// serve answers connections until the test ends.
func serve(t testing.TB, listener net.Listener, answer func(net.Conn)) {
	var open sync.Map
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			open.Store(conn, true)
			group.Go(func() {
				defer conn.Close()
				answer(conn)
			})
		}
	})
	t.Cleanup(func() {
		err := listener.Close()
		open.Range(func(conn, _ any) bool { err = errors.Join(err, ignoreClosed(conn.(net.Conn).Close())); return true })
		group.Wait()
		require.NoError(t, err)
	})
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Place is a configuration's place of a section, for what stands in no file.
type Place struct {
	Values map[string]string // of secrets, by reference
	Files  map[string]string // by path
	Faults *[]string
}

// Board is a noticeboard that keeps notices.
type Board struct {
	mu      sync.Mutex
	Notices map[string]notify.Notice
	last    int
}

// Post keeps a notice.
func (b *Board) Post(_ context.Context, notice notify.Notice, _ int) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.Notices == nil {
		b.Notices = map[string]notify.Notice{}
	}
	b.Notices[notice.Ident] = notice
	b.last++
	return b.last, nil
}

// Withdraw forgets it.
func (b *Board) Withdraw(_ context.Context, ident string, _ int) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.Notices, ident)
	return nil
}

// Shown are the messages of all notices.
func (b *Board) Shown() []string {
	b.mu.Lock()
	defer b.mu.Unlock()
	var all []string
	for _, notice := range b.Notices {
		all = append(all, notice.Category+": "+strings.TrimSpace(notice.Message))
	}
	return all
}
