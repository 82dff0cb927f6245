// Package postgres is a store that several hosts share: documents in one table of a PostgreSQL, and locks that it keeps.
//
// It promises that a document is written only over the revision that was read; that a lock is one session's, ends with it, and that whoever
// lost one writes nothing any more, however late he notices; and that no password shows up in an error. What PostgreSQL does, it does:
// there is no agreement of our own.
//
// Start reading at [Open]; what PostgreSQL is asked is in postgres.go, how a lock is lost in lock.go.
package postgres

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path"
	"slices"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"
	"golang.org/x/sys/unix"

	"maascert/certstore"
	"maascert/internal/hint"
	"maascert/internal/printable"
)

const (
	// connectTime bounds making a connection, and queryTime one statement.
	connectTime = 5 * time.Second
	queryTime   = 10 * time.Second
	// Connections for statements; beside it there is one for a lock that is held, and one that watches: three a host.
	mostConnections = 1
	// How soon either side notices that the other is gone: within half a minute, so that the lock of a host that is cut off is free
	// then.
	keepAliveIdle     = 5 * time.Second
	keepAliveInterval = 5 * time.Second
	keepAliveCount    = 3
	userTimeout       = 15 * time.Second
	// idleAge is after how long an unused connection is closed.
	idleAge = 5 * time.Minute
)

// Config says where the database is, and who asks it.
type Config struct {
	// URL of the database, in libpq's words: several hosts may stand in it, and the one that takes writes is used.
	URL  string
	Node string // what this host calls itself, for who finds a lock taken
	// Again reads the URL anew, for a password that was changed since; nil: it does not change.
	Again func(ctx context.Context) (string, error)
}

// Store is the database. It connects when it is first asked.
type Store struct {
	config *pgxpool.Config
	node   string
	again  func(ctx context.Context) (string, error)

	hiding  sync.Mutex
	secrets []string // passwords that were used

	mu      sync.Mutex
	pool    *pgxpool.Pool               // nil: nothing was asked yet
	isReady bool                        // the schema is there, and of a version that we know
	isWhole bool                        // a session was seen to be ours alone
	written map[certstore.Revision]bool // versions that this process writes, until whoever watches saw them
}

var (
	_ certstore.Store    = (*Store)(nil)
	_ certstore.Gatherer = (*Store)(nil)
)

// Open makes a store. It asks nothing yet. The error does not repeat the URL, which may hold a password.
func Open(c Config) (*Store, error) {
	config, err := pgxpool.ParseConfig(c.URL)
	if err != nil {
		return nil, hint.Add(errors.New("what store.url refers to holds no URL of a PostgreSQL database"), "%s", urlHint)
	}
	connection := config.ConnConfig
	hosts := []string{connection.Host}
	for _, fallback := range connection.Fallbacks {
		hosts = append(hosts, fallback.Host)
	}
	if slices.ContainsFunc(hosts, func(host string) bool { return strings.Contains(host, "@") }) { // a part of the password would be taken for a host's name, and told
		return nil, hint.Add(errors.New("what store.url refers to holds a URL whose password has an @ in it"), "%s", urlHint)
	}
	connection.ConnectTimeout = connectTime
	connection.DialFunc = (&net.Dialer{
		Timeout:         connectTime,
		KeepAliveConfig: net.KeepAliveConfig{Enable: true, Idle: keepAliveIdle, Interval: keepAliveInterval, Count: keepAliveCount},
		Control: func(_, _ string, raw syscall.RawConn) error {
			var setting error
			err := raw.Control(func(fd uintptr) {
				setting = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, int(userTimeout/time.Millisecond))
			})
			// A socket of another family has no such option.
			if errors.Is(setting, unix.EOPNOTSUPP) || errors.Is(setting, unix.ENOPROTOOPT) {
				setting = nil
			}
			return errors.Join(err, setting)
		},
	}).DialContext
	connection.ValidateConnect = prepare
	connection.RuntimeParams = map[string]string{"application_name": "maascert"} // a pooler takes no others
	config.ShouldPing = func(context.Context, pgxpool.ShouldPingParams) bool { return false }
	config.MaxConns, config.MinConns, config.MaxConnIdleTime = mostConnections, 0, idleAge
	s := &Store{config: config, node: c.Node, again: c.Again, secrets: []string{connection.Password}}
	config.BeforeConnect = s.authenticate
	return s, nil
}

const urlHint = "postgres://USER:PASSWORD@HOST[,HOST]/DATABASE; in PASSWORD write %2F for /, %40 for @, %25 for %, %23 for #, %3F for ?, %3A for :"

// authenticate takes the password as it is now. What cannot be read anew is as it was.
func (s *Store) authenticate(ctx context.Context, connection *pgx.ConnConfig) error {
	if s.again == nil {
		return nil
	}
	address, err := s.again(ctx)
	if err != nil {
		return nil
	}
	if now, err := pgx.ParseConfig(address); err == nil {
		connection.Password = now.Password
		s.hiding.Lock()
		defer s.hiding.Unlock()
		if !slices.Contains(s.secrets, now.Password) {
			s.secrets = append(s.secrets[max(0, len(s.secrets)-mostSecrets):], now.Password)
		}
	}
	return nil
}

// mostSecrets bounds the passwords that are remembered, so that none shows up in an error.
const mostSecrets = 5

// connect makes a connection beside those of the pool.
func (s *Store) connect(ctx context.Context) (*pgx.Conn, error) {
	connection := s.config.ConnConfig.Copy()
	if err := s.authenticate(ctx, connection); err != nil {
		return nil, err
	}
	return pgx.ConnectConfig(ctx, connection)
}

// prepare refuses a server that takes no writes, so that the next one is tried, and has one that does notice as soon as we do that a
// connection is dead, and end what takes too long.
func prepare(ctx context.Context, conn *pgconn.PgConn) error {
	settings := fmt.Sprintf(`set tcp_keepalives_idle = %d; set tcp_keepalives_interval = %d; set tcp_keepalives_count = %d; set tcp_user_timeout = %d;`,
		int(keepAliveIdle.Seconds()), int(keepAliveInterval.Seconds()), keepAliveCount, userTimeout.Milliseconds())
	if conn.Conn().RemoteAddr().Network() == "unix" {
		settings = ""
	}
	settings += fmt.Sprintf("set statement_timeout = %d; set synchronous_commit = on; show transaction_read_only", queryTime.Milliseconds())
	results, err := conn.Exec(ctx, settings).ReadAll()
	if err != nil {
		return err
	}
	if last := results[len(results)-1]; len(last.Rows) != 1 || string(last.Rows[0][0]) != "off" {
		return errors.New("the server takes no writes")
	}
	return nil
}

// Close closes idle connections. The store may be used again.
func (s *Store) Close() {
	s.mu.Lock()
	pool := s.pool
	s.pool = nil
	s.mu.Unlock()
	if pool != nil {
		pool.Close() // it waits for what is under way, which nobody else has to
	}
}

// ask has a pool whose database has our tables do something that may be done twice, and once more where the connection died, or leads to a
// server that takes no writes any more. That a connection is dead is found out by using it: asking whether it is would be another statement.
func (s *Store) ask(asker context.Context, do func(context.Context, *pgxpool.Pool) error) error {
	ctx, cancel := context.WithTimeoutCause(asker, connectTime+queryTime, fmt.Errorf("the database took more than %v", connectTime+queryTime))
	defer cancel()
	for try := 1; ; try++ {
		pool, err := s.ready(ctx)
		if err == nil {
			err = do(ctx, pool)
		}
		if err == nil || try > 1 || ctx.Err() != nil || !isCut(err) {
			if err != nil && asker.Err() != nil { // which says nothing of the database
				return context.Cause(asker)
			}
			return s.explain(ctx, err)
		}
		if pool != nil {
			pool.Reset()
		}
	}
}

// Codes of PostgreSQL's errors.
const (
	readOnlyTransaction = "25006"
	tooManyConnections  = "53300"
	notLetIn            = "28000" // by pg_hba.conf
	wrongPassword       = "28P01"
	noDatabase          = "3D000"
	doublePrepared      = "42P05"
	notPrepared         = "26000"
)

// isCut tells whether it was the connection that failed, and another one may do better.
func isCut(err error) bool {
	if refused, ok := errors.AsType[*pgconn.PgError](err); ok {
		return refused.Code == readOnlyTransaction || isAway(refused.Code)
	}
	var network net.Error
	return pgconn.SafeToRetry(err) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, io.EOF) || errors.Is(err, net.ErrClosed) || errors.As(err, &network)
}

// isAway tells whether a server says that it cannot be used now: it starts, ends, or has too many connections.
func isAway(code string) bool {
	return strings.HasPrefix(code, "57P0") || strings.HasPrefix(code, "08") || code == tooManyConnections
}

// explain is an error without secrets, and with what to do.
func (s *Store) explain(ctx context.Context, err error) error {
	if err == nil || errors.Is(err, certstore.ErrNotFound) || errors.Is(err, certstore.ErrConflict) || errors.Is(err, certstore.ErrLockLost) || errors.Is(err, certstore.ErrLocked) {
		return err
	}
	if cause := context.Cause(ctx); cause != nil {
		err = cause
	}
	text := printable.Phrase(err.Error())
	s.hiding.Lock()
	for _, password := range s.secrets {
		if password != "" {
			text = strings.ReplaceAll(text, password, "…")
		}
	}
	s.hiding.Unlock()
	var refused *pgconn.PgError
	said := error(&printable.Tamed{Text: "store: " + text, Err: err})
	switch isAnswer := errors.As(err, &refused); {
	case errors.Is(err, errPooled), isAnswer && (refused.Code == doublePrepared || refused.Code == notPrepared):
		return errPooled // where statements were prepared on another connection
	case !isAnswer && hint.Of(err) != "": // we said it ourselves: the database is there
	case !isAnswer || isAway(refused.Code) || refused.Code == readOnlyTransaction:
		said = &printable.Tamed{Text: "store: " + text, Err: errors.Join(certstore.ErrAway, err)}
		return hint.Add(said, "does PostgreSQL run there? store.url says where")
	case refused.Code == notLetIn, refused.Code == wrongPassword, refused.Code == noDatabase:
		return hint.Add(said, "store.url says as whom, with which password and for which database; pg_hba.conf of every server has to let this host in")
	}
	return said
}

// Read returns a document and its revision.
func (s *Store) Read(ctx context.Context, name string) (data []byte, revision certstore.Revision, err error) {
	if err := certstore.CheckName(name); err != nil {
		return nil, "", err
	}
	err = s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		err := pool.QueryRow(ctx, "select data, revision from maascert.document where name = $1", name).Scan(&data, &revision)
		if errors.Is(err, pgx.ErrNoRows) {
			return fmt.Errorf("store: %s: %w", name, certstore.ErrNotFound)
		}
		return err
	})
	return data, revision, err
}

// Write replaces the document whose revision is still prev.
func (s *Store) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	return s.write(ctx, nil, name, data, prev)
}

// A revision is a random word: numbers would come again after a fail-over that lost some.
const (
	makeDocument = `with fenced as (select 1 from maascert.fence where lock = $3 and token = $4 for share)
		, written as (insert into maascert.document (name, revision, data) select $1, $5, $2 where $3 = '' or exists (select 1 from fenced)
		on conflict (name) do nothing returning revision)
		select revision from written, lateral (select pg_notify('` + channel + `', $1)) told`
	replaceDocument = `with fenced as (select 1 from maascert.fence where lock = $3 and token = $4 for share)
		, written as (update maascert.document set data = $2, revision = $5 where name = $1 and revision = $6
		and ($3 = '' or exists (select 1 from fenced)) returning revision)
		select revision from written, lateral (select pg_notify('` + channel + `', $1)) told`
	deleteDocument = `with fenced as (select 1 from maascert.fence where lock = $2 and token = $3 for share)
		delete from maascert.document where name = $1 and ($2 = '' or exists (select 1 from fenced))`
)

func (s *Store) write(ctx context.Context, under *fence, name string, data []byte, prev certstore.Revision) (revision certstore.Revision, err error) {
	if err := errors.Join(certstore.CheckName(name), certstore.CheckSize(name, data)); err != nil {
		return "", err
	}
	lock, word := under.words()
	next := certstore.Revision(token())
	s.writes(name, next) // before anybody hears of it
	err = s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		statement, values := makeDocument, []any{name, data, lock, word, string(next)}
		if prev != "" {
			statement, values = replaceDocument, append(values, string(prev))
		}
		err := pool.QueryRow(ctx, statement, values...).Scan(&revision)
		if !errors.Is(err, pgx.ErrNoRows) {
			return err
		}
		if err := under.check(ctx, pool); err != nil {
			return err
		}
		var now certstore.Revision
		if err := pool.QueryRow(ctx, "select revision from maascert.document where name = $1", name).Scan(&now); err == nil && now == next {
			revision = next // it was written, and the connection died before we heard of it
			return nil
		}
		return fmt.Errorf("store: %s: %w", name, certstore.ErrConflict)
	})
	return revision, err
}

// Delete removes a document.
func (s *Store) Delete(ctx context.Context, name string) error { return s.delete(ctx, nil, name) }

func (s *Store) delete(ctx context.Context, under *fence, name string) error {
	if err := certstore.CheckName(name); err != nil {
		return err
	}
	lock, token := under.words()
	return s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		tag, err := pool.Exec(ctx, deleteDocument, name, lock, token)
		if err == nil && tag.RowsAffected() == 0 {
			err = under.check(ctx, pool)
		}
		return err
	})
}

// List returns the last parts of the names in a folder.
func (s *Store) List(ctx context.Context, folder string) (names []string, err error) {
	if err := certstore.CheckName(folder); err != nil {
		return nil, err
	}
	err = s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		rows, err := pool.Query(ctx, `select substr(name, length($1) + 2) from maascert.document
			where starts_with(name, $1 || '/') and strpos(substr(name, length($1) + 2), '/') = 0 order by name collate "C"`, folder)
		if err != nil {
			return err
		}
		names, err = pgx.CollectRows(rows, pgx.RowTo[string])
		return err
	})
	return names, err
}

// Gather reads documents and folders with one statement.
func (s *Store) Gather(ctx context.Context, wanted certstore.Wanted) (certstore.Gathered, error) {
	gathered := certstore.Gathered{Documents: map[string]certstore.Document{}, Names: map[string][]string{}}
	err := s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		rows, err := pool.Query(ctx, `select name, folder, revision, case when name = any ($1) or folder = any ($2) then data end
			from (select name, coalesce(substring(name from '^(.*)/'), '') as folder, revision, data from maascert.document) document
			where name = any ($1) or folder = any ($2) or folder = any ($3) order by name collate "C"`, words(wanted.Documents), words(wanted.Folders), words(wanted.Lists))
		if err != nil {
			return err
		}
		clear(gathered.Documents)
		clear(gathered.Names)
		var name, folder string
		var one certstore.Document
		_, err = pgx.ForEachRow(rows, []any{&name, &folder, &one.Revision, &one.Data}, func() error {
			if one.Data != nil {
				gathered.Documents[name] = certstore.Document{Data: bytes.Clone(one.Data), Revision: one.Revision}
			}
			gathered.Names[folder] = append(gathered.Names[folder], path.Base(name))
			return nil
		})
		return err
	})
	return gathered, err
}

// words are an array as PostgreSQL takes it: none is empty, and not null.
func words(some []string) []string { return append([]string{}, some...) }

// Writable tells whether documents could be written: whether the database is there, takes writes, and lets us.
func (s *Store) Writable(ctx context.Context) error {
	return s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		var may bool
		err := pool.QueryRow(ctx, `select has_table_privilege('maascert.document', 'insert') and has_table_privilege('maascert.document', 'update')
			and has_table_privilege('maascert.fence', 'update') and not pg_is_in_recovery()`).Scan(&may)
		if err == nil && !may {
			return hint.Add(errors.New("the database does not let us write"), "as its owner: grant all on schema maascert and on all tables in it to USER; and is the server one that takes writes?")
		}
		return err
	})
}

// process is this one, as it tells who finds its lock taken.
func process() int { return os.Getpid() }

// token is a random word that nobody else has.
func token() string { return rand.Text() }
