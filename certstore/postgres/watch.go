package postgres

import (
	"context"
	"strings"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgxpool"

	"maascert/certstore"
)

// channel is the one on which PostgreSQL tells who listens which document was written, by its name.
const channel = "maascert"

// watched begins the names of documents whose writing other hosts want to know of: versions are written once each, so that no two hosts
// can wake each other for ever.
const watched = "versions/"

const (
	// pollTime is after how long without a word the database is asked: words get lost where a connection was cut.
	pollTime = 10 * time.Second
	// watchPause is between two tries to listen.
	watchPause = 5 * time.Second
)

// Watch calls changed whenever another process has written a version of a certificate, until the context ends: at once where PostgreSQL
// says so, and within fifteen seconds otherwise; and whenever it begins to listen, at first or after the database was away, for what happened
// before. It keeps one connection.
func (s *Store) Watch(ctx context.Context, changed func()) {
	seen := map[certstore.Revision]bool{}
	for ctx.Err() == nil {
		// That it cannot listen now is no error: the daemon looks on its schedule as well, and says what is wrong with the database.
		_ = s.listen(ctx, seen, changed)
		timer := time.NewTimer(watchPause)
		select {
		case <-ctx.Done():
			timer.Stop()
		case <-timer.C:
		}
	}
}

// listen listens on a connection until that ends. seen are the versions that were there when the database was asked before.
func (s *Store) listen(ctx context.Context, seen map[certstore.Revision]bool, changed func()) error {
	conn, err := s.listener(ctx)
	if err != nil {
		return err
	}
	defer closeConn(conn)
	for isFirst := true; ; isFirst = false {
		isNews, err := s.news(ctx, conn, seen)
		if err != nil {
			return err
		}
		if isFirst || isNews {
			changed()
		}
		if err := waitForWord(ctx, conn); err != nil {
			return err
		}
	}
}

// waitForWord waits until a version was written, or for pollTime.
func waitForWord(ctx context.Context, conn *pgx.Conn) error {
	waiting, cancel := context.WithTimeout(ctx, pollTime)
	defer cancel()
	for {
		word, err := conn.WaitForNotification(waiting)
		switch {
		case err != nil && waiting.Err() != nil && ctx.Err() == nil:
			return nil // it is time to ask
		case err != nil:
			return err
		case strings.HasPrefix(word.Payload, watched):
			return nil
		}
	}
}

// news asks which versions there are, and tells whether any is new that this process did not write.
func (s *Store) news(ctx context.Context, conn *pgx.Conn, seen map[certstore.Revision]bool) (isNews bool, err error) {
	ctx, cancel := context.WithTimeout(ctx, queryTime)
	defer cancel()
	rows, err := conn.Query(ctx, "select revision from maascert.document where starts_with(name, $1)", pgx.QueryExecModeExec, watched)
	if err != nil {
		return false, err
	}
	revisions, err := pgx.CollectRows(rows, pgx.RowTo[certstore.Revision])
	if err != nil {
		return false, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	now := map[certstore.Revision]bool{}
	for _, revision := range revisions {
		now[revision] = true
		isNews = isNews || !seen[revision] && !s.written[revision]
	}
	clear(seen)
	for revision := range now {
		seen[revision] = true
		delete(s.written, revision)
	}
	return isNews, nil
}

// writes notes a version that this process writes.
func (s *Store) writes(name string, revision certstore.Revision) {
	if !strings.HasPrefix(name, watched) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.written == nil || len(s.written) > mostWritten {
		s.written = map[certstore.Revision]bool{}
	}
	s.written[revision] = true
}

// mostWritten bounds what is remembered of that while nobody watches.
const mostWritten = 1000

// listener is a connection that listens.
func (s *Store) listener(ctx context.Context) (conn *pgx.Conn, err error) {
	err = s.ask(ctx, func(ctx context.Context, _ *pgxpool.Pool) error {
		var err error
		if conn, err = s.connect(ctx); err != nil {
			return err
		}
		if _, err = conn.Exec(ctx, "listen "+channel); err != nil {
			closeConn(conn)
		}
		return err
	})
	return conn, err
}
