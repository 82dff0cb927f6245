//go:build e2e

package postgres_test

import (
	"context"
	"fmt"
	"net"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"maascert/certstore"
	"maascert/certstore/postgres"
	"maascert/certstore/postgres/postgrestest"
	"maascert/certstore/sealed"
	"maascert/certstore/storetest"
	"maascert/internal/hint"
)

func open(t *testing.T, address, node string) *postgres.Store {
	t.Helper()
	s, err := postgres.Open(postgres.Config{URL: address, Node: node})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	return s
}

func TestStore(t *testing.T) {
	server := postgrestest.Start(t)
	var n atomic.Int32
	storetest.Run(t, func(t *testing.T) (a, b certstore.Store) {
		address := server.Database(fmt.Sprintf("d%d", n.Add(1)))
		return open(t, address, "region1"), open(t, address, "region2")
	})
}

func TestSealedStore(t *testing.T) {
	server := postgrestest.Start(t)
	var n atomic.Int32
	storetest.Run(t, func(t *testing.T) (certstore.Store, certstore.Store) {
		address := server.Database(fmt.Sprintf("d%d", n.Add(1)))
		a, err := sealed.New(open(t, address, "region1"), "a seal of more than thirty-two bytes")
		require.NoError(t, err)
		b, err := sealed.New(open(t, address, "region2"), "a seal of more than thirty-two bytes")
		require.NoError(t, err)
		return a, b
	})
}

// wire stands between us and the database, and can be cut: then nothing passes any more, and nobody is told.
type wire struct {
	listener net.Listener
	to       string
	cut      atomic.Bool
	swallow  atomic.Int32 // how many of the database's answers get lost, and the connection with each
}

func cutable(t *testing.T, server *postgrestest.Server) (*wire, string) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	w := &wire{listener: listener, to: fmt.Sprintf("127.0.0.1:%d", server.Port)}
	var open sync.Map
	var group sync.WaitGroup
	group.Go(func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			there, err := net.Dial("tcp", w.to)
			if err != nil {
				_ = conn.Close()
				continue
			}
			open.Store(conn, true)
			open.Store(there, true)
			group.Go(func() { w.pass(there, conn) })
			group.Go(func() { w.pass(conn, there) })
		}
	})
	t.Cleanup(func() {
		_ = listener.Close()
		open.Range(func(conn, _ any) bool { _ = conn.(net.Conn).Close(); return true })
		group.Wait()
	})
	address, err := url.Parse(server.URL())
	require.NoError(t, err)
	address.Host = listener.Addr().String()
	return w, address.String()
}

func (w *wire) pass(to, from net.Conn) {
	buffer := make([]byte, 32<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 && from.RemoteAddr().String() == w.to && w.swallow.Add(-1) >= 0 {
			_, _ = to.Close(), from.Close()
			return
		}
		if n > 0 && !w.cut.Load() {
			_, _ = to.Write(buffer[:n])
		}
		if err != nil {
			if !w.cut.Load() {
				_ = to.Close()
			}
			return
		}
	}
}

// Whoever lost a lock writes nothing any more, although he does not know yet that he lost it.
func TestWhoLostALockWritesNothing(t *testing.T) {
	server := postgrestest.Start(t)
	a, b := open(t, server.URL(), "region1"), open(t, server.URL(), "region2")
	held, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	revision, err := held.Write(t.Context(), "state/maas", []byte("1"), "")
	require.NoError(t, err)
	_, err = b.Lock(t.Context(), "maas")
	var locked *certstore.LockedError
	require.ErrorAs(t, err, &locked)
	require.Equal(t, "region1", locked.Holder.Node)
	// The fence goes to whoever PostgreSQL gives the lock to when our session is gone.
	server.Exec("maascert", "update maascert.fence set token = 'of somebody else' where lock = 'maas'")
	_, err = held.Write(t.Context(), "state/maas", []byte("2"), revision)
	require.ErrorIs(t, err, certstore.ErrLockLost)
	require.ErrorIs(t, held.Delete(t.Context(), "state/maas"), certstore.ErrLockLost)
	_, err = held.Write(t.Context(), "versions/maas/1", []byte("2"), "")
	require.ErrorIs(t, err, certstore.ErrLockLost)
	data, _, err := b.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, "1", string(data))
	held.Unlock()
}

// A lock is lost at once when its session ends, and its context says so.
func TestALockIsLostWithItsSession(t *testing.T) {
	server := postgrestest.Start(t)
	a, b := open(t, server.URL(), "region1"), open(t, server.URL(), "region2")
	held, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	server.SQL("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
	select {
	case <-held.Context().Done():
	case <-time.After(10 * time.Second):
		t.Fatal("nobody noticed")
	}
	_, err = held.Write(t.Context(), "state/maas", []byte("1"), "")
	require.ErrorIs(t, err, certstore.ErrLockLost)
	require.NotEmpty(t, hint.Of(err))
	again, err := certstore.LockWithin(t.Context(), b, "maas", 10*time.Second)
	require.NoError(t, err)
	again.Unlock()
	held.Unlock()
}

// The lock of a host that is cut off is free within half a minute, and that host knows.
func TestTheLockOfAHostThatIsCutOff(t *testing.T) {
	server := postgrestest.Start(t)
	wire, through := cutable(t, server)
	a, b := open(t, through, "region1"), open(t, server.URL(), "region2")
	held, err := a.Lock(t.Context(), "maas")
	require.NoError(t, err)
	wire.cut.Store(true)
	// A wire in this process answers keep-alives by itself, so the server is told what it would find out.
	began := time.Now()
	server.SQL("select pg_terminate_backend(pid) from pg_locks where locktype = 'advisory'")
	again, err := certstore.LockWithin(t.Context(), b, "maas", 30*time.Second)
	require.NoError(t, err)
	t.Logf("free after %v", time.Since(began))
	_, err = again.Write(t.Context(), "state/maas", []byte("new"), "")
	require.NoError(t, err)
	wire.cut.Store(false)
	_, err = held.Write(t.Context(), "state/maas", []byte("late"), "")
	require.Error(t, err)
	data, _, err := b.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, "new", string(data))
	again.Unlock()
	held.Unlock()
}

// A write whose answer is lost was made once, and its author knows it; so does whoever deletes.
func TestAnAnswerThatIsLost(t *testing.T) {
	server := postgrestest.Start(t)
	wire, through := cutable(t, server)
	s := open(t, through, "region1")
	revision := certstore.Revision("")
	for n := range 3 {
		var err error
		revision, err = s.Write(t.Context(), "state/maas", fmt.Append(nil, "before ", n), revision)
		require.NoError(t, err)
		wire.swallow.Store(1)
		revision, err = s.Write(t.Context(), "state/maas", fmt.Append(nil, "after ", n), revision)
		require.NoError(t, err)
		data, now, err := s.Read(t.Context(), "state/maas")
		require.NoError(t, err)
		require.Equal(t, fmt.Sprint("after ", n), string(data))
		require.Equal(t, now, revision)
	}
	wire.swallow.Store(1)
	require.NoError(t, s.Delete(t.Context(), "state/maas"))
	wire.swallow.Store(1)
	_, _, err := s.Read(t.Context(), "state/maas")
	require.ErrorIs(t, err, certstore.ErrNotFound)
	wire.swallow.Store(1000)
	_, _, err = s.Read(t.Context(), "state/maas")
	require.Error(t, err, "what is lost again and again is an outage")
	require.NotErrorIs(t, err, certstore.ErrNotFound)
}

func TestTheDatabaseComesBack(t *testing.T) {
	server := postgrestest.Start(t)
	s := open(t, server.URL(), "region1")
	revision, err := s.Write(t.Context(), "state/maas", []byte("1"), "")
	require.NoError(t, err)
	server.Down()
	_, err = s.Write(t.Context(), "state/maas", []byte("2"), revision)
	require.Error(t, err)
	require.NotContains(t, err.Error(), postgrestest.Password)
	require.NotContains(t, fmt.Sprintf("%+v %#v", err, err), postgrestest.Password)
	require.Contains(t, hint.Of(err), "does PostgreSQL run there")
	require.ErrorIs(t, err, certstore.ErrAway)
	server.Up()
	_, err = s.Write(t.Context(), "state/maas", []byte("3"), revision)
	require.NoError(t, err)
}

func TestPoolers(t *testing.T) {
	server := postgrestest.Start(t)
	whole := open(t, server.Pooler("session"), "region1")
	held, err := whole.Lock(t.Context(), "maas")
	require.NoError(t, err)
	_, err = held.Write(t.Context(), "state/maas", []byte("1"), "")
	require.NoError(t, err)
	held.Unlock()
	held, err = certstore.LockWithin(t.Context(), open(t, server.URL(), "region2"), "maas", 10*time.Second)
	require.NoError(t, err, "what a pooler gives back holds no lock")
	held.Unlock()
	for range 5 {
		_, err = open(t, server.Pooler("transaction"), "region3").Lock(t.Context(), "maas")
		require.ErrorContains(t, err, "a pooler that pools transactions")
		require.Contains(t, hint.Of(err), "pool_mode = session")
	}
}

// A version that one host writes is noticed by the others at once, and soon after when a word was lost; nobody wakes himself.
func TestHostsNoticeANewVersion(t *testing.T) {
	server := postgrestest.Start(t)
	a, b := open(t, server.URL(), "region1"), open(t, server.URL(), "region2")
	_, err := a.Write(t.Context(), "versions/maas/1", []byte("1"), "")
	require.NoError(t, err)
	ctx, cancel := context.WithCancel(t.Context())
	woken := map[string]chan struct{}{"a": make(chan struct{}, 100), "b": make(chan struct{}, 100)}
	var group sync.WaitGroup
	for name, store := range map[string]*postgres.Store{"a": a, "b": b} {
		group.Go(func() { store.Watch(ctx, func() { woken[name] <- struct{}{} }) })
	}
	defer group.Wait()
	defer cancel()
	for name := range woken { // which says that it listens
		select {
		case <-woken[name]:
		case <-time.After(10 * time.Second):
			t.Fatal("it does not listen")
		}
	}
	took := func(within time.Duration) {
		t.Helper()
		began := time.Now()
		select {
		case <-woken["b"]:
			t.Logf("noticed after %v", time.Since(began))
		case <-time.After(within):
			t.Fatal("nobody noticed")
		}
	}
	_, err = a.Write(t.Context(), "versions/maas/2", []byte("2"), "")
	require.NoError(t, err)
	took(2 * time.Second)
	_, err = a.Write(t.Context(), "state/maas", []byte("2"), "")
	require.NoError(t, err)
	server.Exec("maascert", "insert into maascert.document values ('versions/maas/3', 'of a host that says nothing', '')")
	took(15 * time.Second)
	server.SQL("select pg_terminate_backend(pid) from pg_stat_activity where usename = 'maascert'")
	_, err = a.Write(t.Context(), "versions/maas/4", []byte("4"), "")
	require.NoError(t, err)
	took(15 * time.Second)
	require.LessOrEqual(t, len(woken["a"]), 2, "of what it wrote itself a host is not told, but of the other version, and that the database is back")
}

// Who could not listen at first is told when the database is there: something may have happened before.
func TestADatabaseThatComesLate(t *testing.T) {
	server := postgrestest.Start(t)
	s := open(t, server.URL(), "region1")
	server.Down()
	woken := make(chan struct{}, 100)
	var group sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	group.Go(func() { s.Watch(ctx, func() { woken <- struct{}{} }) })
	defer group.Wait()
	defer cancel()
	require.Eventually(t, func() bool {
		_, _, err := s.Read(t.Context(), "account")
		return err != nil
	}, time.Second, 10*time.Millisecond)
	server.Up()
	select {
	case <-woken:
	case <-time.After(15 * time.Second):
		t.Fatal("nobody is told")
	}
}

// A password that is changed where the URL is read from is used from then on, and shows up in no error either.
func TestAPasswordThatChanges(t *testing.T) {
	server := postgrestest.Start(t)
	var now atomic.Value
	now.Store(server.URL())
	s, err := postgres.Open(postgres.Config{URL: server.URL(), Again: func(context.Context) (string, error) { return now.Load().(string), nil }})
	require.NoError(t, err)
	t.Cleanup(s.Close)
	_, err = s.Write(t.Context(), "account", []byte("x"), "")
	require.NoError(t, err)
	server.SQL("alter role maascert password 'another-hunter2'", "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'maascert'")
	now.Store(strings.Replace(server.URL(), postgrestest.Password, "a-wrong-hunter2", 1))
	_, _, err = s.Read(t.Context(), "account")
	require.ErrorContains(t, err, "password authentication failed")
	require.NotContains(t, fmt.Sprintf("%+v %#v", err, err), "hunter2")
	now.Store(strings.Replace(server.URL(), postgrestest.Password, "another-hunter2", 1))
	_, _, err = s.Read(t.Context(), "account")
	require.NoError(t, err)
	held, err := s.Lock(t.Context(), "maas")
	require.NoError(t, err)
	held.Unlock()
}

func TestWrongURLs(t *testing.T) {
	t.Parallel()
	for _, address := range []string{"postgres://u:hunter2@[::1", "postgres://u:a@hunter2@127.0.0.1/d", "postgres://u:a@hunter2@127.0.0.1,10.0.0.1/d", "postgres://u:hunter2/x@127.0.0.1/d"} {
		_, err := postgres.Open(postgres.Config{URL: address})
		require.Error(t, err, address)
		require.NotContains(t, err.Error(), "hunter2")
		require.Contains(t, hint.Of(err), "%40 for @")
	}
	server := postgrestest.Start(t)
	s := open(t, strings.Replace(server.URL(), postgrestest.Password, "hunter2", 1), "region1")
	_, _, err := s.Read(t.Context(), "account")
	require.ErrorContains(t, err, "password authentication failed")
	require.NotContains(t, err.Error(), "hunter2")
}

// Where the user may not make schemas, the hint says what to do, and that is enough.
func TestASchemaThatTheOwnerMade(t *testing.T) {
	server := postgrestest.Start(t)
	address := server.Database("owned")
	server.Exec("owned", "alter database owned owner to postgres")
	s := open(t, address, "region1")
	_, _, err := s.Read(t.Context(), "account")
	require.Error(t, err)
	require.Contains(t, hint.Of(err), "create schema maascert authorization USER")
	server.Exec("owned", "create schema maascert authorization maascert")
	_, err = s.Write(t.Context(), "account", []byte("x"), "")
	require.NoError(t, err)
}

func TestALaterSchemaIsRefused(t *testing.T) {
	server := postgrestest.Start(t)
	_, err := open(t, server.URL(), "region1").Write(t.Context(), "account", []byte("x"), "")
	require.NoError(t, err)
	server.Exec("maascert", "update maascert.meta set version = 7")
	_, _, err = open(t, server.URL(), "region1").Read(t.Context(), "account")
	require.NoError(t, err, "what was only added to is no matter")
	server.Exec("maascert", "update maascert.meta set min_version = 7")
	_, _, err = open(t, server.URL(), "region1").Read(t.Context(), "account")
	require.ErrorContains(t, err, "written by a later maascert")
	require.Contains(t, hint.Of(err), "run the maascert that wrote it")
	require.NotErrorIs(t, err, certstore.ErrAway, "it is there")
}

// A database of the schema of November 2026 is read, locked and written for ever.
func TestAGoldenDatabaseIsUsed(t *testing.T) {
	server := postgrestest.Start(t)
	address := server.Database("golden")
	left, err := os.ReadFile(filepath.Join("testdata", "v1.sql"))
	require.NoError(t, err)
	server.Exec("golden", string(left))
	store := open(t, address, "region2")
	data, revision, err := store.Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, `{"v":1,"current":3}`, string(data))
	held, err := store.Lock(t.Context(), "maas")
	require.NoError(t, err, "its holder is long gone")
	defer held.Unlock()
	_, err = held.Write(t.Context(), "state/maas", []byte(`{"v":1,"current":4}`), revision)
	require.NoError(t, err)
	_, err = held.Write(t.Context(), "state/maas", []byte(`{"v":1,"current":5}`), revision)
	require.ErrorIs(t, err, certstore.ErrConflict)
	data, _, err = open(t, address, "region1").Read(t.Context(), "state/maas")
	require.NoError(t, err)
	require.Equal(t, `{"v":1,"current":4}`, string(data))
}
