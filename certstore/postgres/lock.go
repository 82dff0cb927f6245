package postgres

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"maascert/certstore"
	"maascert/internal/hint"
)

// fence is what whoever holds a lock writes under: a random word in the database that the next holder replaces. A nil fence is no lock.
type fence struct{ lock, token string }

func (f *fence) words() (lock, token string) {
	if f == nil {
		return "", ""
	}
	return f.lock, f.token
}

// check tells whether the fence is still ours.
func (f *fence) check(ctx context.Context, pool *pgxpool.Pool) error {
	if f == nil {
		return nil
	}
	var isOurs bool
	err := pool.QueryRow(ctx, "select exists (select 1 from maascert.fence where lock = $1 and token = $2)", f.lock, f.token).Scan(&isOurs)
	if err == nil && !isOurs {
		return fmt.Errorf("store: %s: %w", f.lock, certstore.ErrLockLost)
	}
	return err
}

// fenced is the store as whoever holds a lock writes to it.
type fenced struct {
	*Store
	fence *fence
}

func (f *fenced) Write(ctx context.Context, name string, data []byte, prev certstore.Revision) (certstore.Revision, error) {
	return f.write(ctx, f.fence, name, data, prev)
}

func (f *fenced) Delete(ctx context.Context, name string) error {
	return f.delete(ctx, f.fence, name)
}

// key is the advisory lock's of a name: the first 32 bits of its hash.
func key(name string) int32 {
	sum := sha256.Sum256([]byte(name))
	return int32(binary.BigEndian.Uint32(sum[:4]))
}

// Lock takes a lock: an advisory one of a session, on a connection of its own. When that ends, wherever it is cut, the lock is lost: the
// context ends at once, and PostgreSQL gives the lock to whoever wants it within half a minute.
func (s *Store) Lock(ctx context.Context, name string) (*certstore.Held, error) {
	if err := certstore.CheckName(name); err != nil {
		return nil, err
	}
	var held *certstore.Held
	err := s.ask(ctx, func(ctx2 context.Context, pool *pgxpool.Pool) error {
		conn, err := s.session(ctx2, pool)
		if err != nil {
			return err
		}
		held, err = s.lock(ctx2, ctx, pool, conn, name)
		if err != nil {
			closeConn(conn)
		}
		return err
	})
	return held, err
}

// lock takes a lock on a connection, within the time of asking; the lock lives within the time of living.
func (s *Store) lock(asking, living context.Context, pool *pgxpool.Pool, conn *pgx.Conn, name string) (*certstore.Held, error) {
	var isOurs bool
	if err := conn.QueryRow(asking, "select pg_try_advisory_lock($1, $2)", lockClass, key(name)).Scan(&isOurs); err != nil {
		return nil, err
	}
	if !isOurs {
		holder, err := holderOf(asking, pool, name)
		if err != nil {
			return nil, err
		}
		taken := &certstore.LockedError{Name: name}
		if holder != nil {
			taken.Holder = *holder
		}
		return nil, taken
	}
	own := &fence{lock: name, token: token()}
	_, err := conn.Exec(asking, `insert into maascert.fence (lock, token, node, pid, since) values ($1, $2, $3, $4, now())
		on conflict (lock) do update set token = excluded.token, node = excluded.node, pid = excluded.pid, since = excluded.since`, own.lock, own.token, s.node, process())
	if err != nil {
		return nil, err
	}
	waiting, stop := context.WithCancel(context.Background())
	watched := make(chan struct{})
	held := certstore.NewHeld(living, &fenced{s, own}, sync.OnceFunc(func() {
		stop()
		<-watched
		unlock(conn, name)
	}))
	go func() {
		defer close(watched)
		// Nothing is sent on this connection: what comes is its end.
		if _, err := conn.WaitForNotification(waiting); err != nil && waiting.Err() == nil {
			held.Lose()
		}
	}()
	return held, nil
}

var errPooled = hint.Add(errors.New("store: a pooler that pools transactions stands before the database, and no lock can be held through it"),
	"pool_mode = session for this user (pgbouncer.ini), or connect to PostgreSQL itself")

// session is a connection of its own, which is seen to be one: behind a pooler that gives a session's statements to several connections
// no lock can be held.
func (s *Store) session(ctx context.Context, pool *pgxpool.Pool) (*pgx.Conn, error) {
	conn, err := s.connect(ctx)
	if err != nil {
		return nil, err
	}
	if err := s.checkSession(ctx, pool, conn); err != nil {
		closeConn(conn)
		return nil, err
	}
	return conn, nil
}

// checkSession makes sure, once, that a session keeps its connection: while another one is in a transaction, a pooler that pools
// transactions has given that the connection on which ours was served last.
func (s *Store) checkSession(ctx context.Context, pool *pgxpool.Pool, conn *pgx.Conn) error {
	s.mu.Lock()
	isWhole := s.isWhole
	s.mu.Unlock()
	if isWhole {
		return nil
	}
	var own, other uint32
	if err := conn.QueryRow(ctx, "select pg_backend_pid()").Scan(&own); err != nil {
		return err
	}
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error { return tx.QueryRow(ctx, "select pg_backend_pid()").Scan(&other) })
	if err != nil {
		return err
	}
	if own == other {
		return errPooled
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.isWhole = true
	return nil
}

// unlock gives a lock back, so that the next may take it at once, and ends its connection.
func unlock(conn *pgx.Conn, name string) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Where that cannot be said, the end of the connection says it.
	_, _ = conn.Exec(ctx, "select pg_advisory_unlock($1, $2)", lockClass, key(name))
	closeConn(conn)
}

// closeConn ends a connection, and with it what it holds.
func closeConn(conn *pgx.Conn) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	// Where that cannot be said, the server notices.
	_ = conn.Close(ctx)
}

// Holder tells who holds a lock now.
func (s *Store) Holder(ctx context.Context, name string) (holder *certstore.Holder, err error) {
	err = s.ask(ctx, func(ctx context.Context, pool *pgxpool.Pool) error {
		holder, err = holderOf(ctx, pool, name)
		return err
	})
	return holder, err
}

// holderOf is who holds a lock; nil for nobody. Who took it last stands beside the fence; that it is held PostgreSQL says.
func holderOf(ctx context.Context, pool *pgxpool.Pool, name string) (*certstore.Holder, error) {
	var h certstore.Holder
	err := pool.QueryRow(ctx, `select node, pid, since from maascert.fence where lock = $1 and exists (select 1 from pg_locks
		where locktype = 'advisory' and classid = $2 and objid = $3 and objsubid = 2 and granted and database = (select oid from pg_database where datname = current_database()))`,
		name, uint32(lockClass), uint32(key(name))).Scan(&h.Node, &h.PID, &h.Since)
	if errors.Is(err, pgx.ErrNoRows) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	h.Since = h.Since.UTC()
	return &h, nil
}
