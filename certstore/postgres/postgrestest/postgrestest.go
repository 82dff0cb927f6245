// Package postgrestest starts PostgreSQL for tests: servers of their own, on loopback addresses and free ports.
package postgrestest

import (
	"context"
	"fmt"
	"net/url"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/jackc/pgx/v5"
	"github.com/stretchr/testify/require"

	"maascert/internal/loopback"
)

// T is a test, or another program that ends like one.
type T interface {
	require.TestingT
	Helper()
	Cleanup(func())
}

// Server is a PostgreSQL server with an empty database.
type Server struct {
	Address string // that it listens on
	Port    int
	Dir     string // of its data

	t    T
	user *syscall.Credential // nil: we are no root, and it is us
	cmd  *exec.Cmd
}

// bin is where Debian has PostgreSQL's programs.
const bin = "/usr/lib/postgresql/15/bin"

// Password is that of the user maascert.
const Password = "hunter2-of-the-database"

// Start starts a server on the loopback that stops at the test's end.
func Start(t T) *Server { return StartAt(t, "127.0.0.1") }

// StartAt starts a server on an address.
func StartAt(t T, address string) *Server {
	t.Helper()
	s := place(t, address)
	s.run("initdb", "-D", s.Dir, "-U", "postgres", "-A", "trust", "--no-sync", "-E", "UTF8", "--locale=C")
	require.NoError(t, os.WriteFile(filepath.Join(s.Dir, "pg_hba.conf"), []byte(letsIn), 0o644))
	s.Up()
	s.SQL("create role maascert login password '"+Password+"'", "create database maascert owner maascert")
	return s
}

// letsIn is whom a server lets in: from its own machine the superuser, and maascert with its password.
const letsIn = `local all postgres trust
host all postgres samehost trust
host replication postgres samehost trust
host all all samenet scram-sha-256
host all all 127.0.0.0/8 scram-sha-256
`

// place is where a server is going to be.
func place(t T, address string) *Server {
	t.Helper()
	port, err := loopback.Port()
	require.NoError(t, err)
	dir, err := os.MkdirTemp("", "maascert-postgres")
	require.NoError(t, err)
	s := &Server{Address: address, Port: port, Dir: filepath.Join(dir, "data"), t: t}
	t.Cleanup(func() { require.NoError(t, os.RemoveAll(dir)) })
	if os.Geteuid() == 0 { // which PostgreSQL refuses to be
		account, err := user.Lookup("postgres")
		require.NoError(t, err)
		uid, err := strconv.Atoi(account.Uid)
		require.NoError(t, err)
		gid, err := strconv.Atoi(account.Gid)
		require.NoError(t, err)
		require.NoError(t, os.Chown(dir, uid, gid))
		s.user = &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}
	}
	return s
}

// Standby starts a server on an address that follows this one by streaming replication.
func (s *Server) Standby(address string) *Server {
	s.t.Helper()
	follower := place(s.t, address)
	follower.Follow(s)
	return follower
}

// Follow has a server that is down follow another one from now on, with nothing left of what it had.
func (s *Server) Follow(primary *Server) {
	s.t.Helper()
	require.NoError(s.t, os.RemoveAll(s.Dir))
	s.run("pg_basebackup", "-h", primary.Address, "-p", strconv.Itoa(primary.Port), "-U", "postgres", "-D", s.Dir, "-R", "-X", "stream", "-c", "fast", "--no-sync")
	s.Up()
	require.Eventually(s.t, func() bool {
		return primary.Count("select count(*) from pg_stat_replication where state = 'streaming'") > 0
	}, time.Minute, 20*time.Millisecond, "it does not follow")
}

// Promote makes a follower the one that takes writes.
func (s *Server) Promote() {
	s.t.Helper()
	s.SQL("select pg_promote()")
	s.Synchronous(false)
}

// Synchronous has the server wait with each commit until its follower has it, or not.
func (s *Server) Synchronous(on bool) {
	s.t.Helper()
	s.SQL(fmt.Sprintf("alter system set synchronous_standby_names = '%s'", map[bool]string{true: "*"}[on]), "select pg_reload_conf()")
}

// command is one of PostgreSQL's programs.
func (s *Server) command(name string, args ...string) *exec.Cmd {
	cmd := exec.Command(filepath.Join(bin, name), args...)
	cmd.Dir = filepath.Dir(s.Dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user, Pdeathsig: syscall.SIGKILL}
	return cmd
}

func (s *Server) run(name string, args ...string) {
	s.t.Helper()
	out, err := s.command(name, args...).CombinedOutput()
	require.NoError(s.t, err, "%s: %s", name, out)
}

// Up starts the server again after Down.
func (s *Server) Up() {
	s.t.Helper()
	log, err := os.OpenFile(filepath.Join(filepath.Dir(s.Dir), "log"), os.O_CREATE|os.O_WRONLY|os.O_APPEND, 0o600)
	require.NoError(s.t, err)
	defer log.Close()
	s.cmd = s.command("postgres", "-D", s.Dir, "-p", strconv.Itoa(s.Port), "-h", s.Address, "-k", filepath.Dir(s.Dir), "-c", "fsync=off")
	s.cmd.Stdout, s.cmd.Stderr = log, log
	require.NoError(s.t, s.cmd.Start())
	cmd := s.cmd
	s.t.Cleanup(func() { s.down(cmd) })
	for began := time.Now(); ; time.Sleep(20 * time.Millisecond) {
		conn, err := pgx.Connect(context.Background(), s.admin())
		if err == nil {
			err = conn.Close(context.Background())
		}
		if err == nil {
			break
		}
		if time.Since(began) > time.Minute {
			require.NoError(s.t, err, "it does not start: %s", s.Log())
		}
	}
}

// Log is what the server said.
func (s *Server) Log() string {
	s.t.Helper()
	text, err := os.ReadFile(filepath.Join(filepath.Dir(s.Dir), "log"))
	require.NoError(s.t, err)
	return string(text)
}

// Statements has the server log every statement, after the address of whoever makes it.
func (s *Server) Statements() {
	s.t.Helper()
	s.SQL("alter system set log_statement = 'all'", "alter system set log_line_prefix = '%h '", "select pg_reload_conf()")
}

// Down stops the server at once, as a crash does.
func (s *Server) Down() { s.down(s.cmd) }

func (s *Server) down(cmd *exec.Cmd) {
	if cmd.ProcessState != nil {
		return
	}
	// Its end is what is wanted, whatever its exit code.
	_ = cmd.Process.Signal(syscall.SIGQUIT)
	_ = cmd.Wait()
}

func (s *Server) admin() string {
	return fmt.Sprintf("postgres://postgres@%s:%d/postgres", s.Address, s.Port)
}

// URL is the database's, as the configuration has it.
func (s *Server) URL() string {
	return fmt.Sprintf("postgres://maascert:%s@%s:%d/maascert", url.QueryEscape(Password), s.Address, s.Port)
}

// Database is the URL of another database of the server, which is made.
func (s *Server) Database(name string) string {
	s.t.Helper()
	s.SQL("create database " + name + " owner maascert")
	return fmt.Sprintf("postgres://maascert:%s@%s:%d/%s", url.QueryEscape(Password), s.Address, s.Port, name)
}

// SQL runs statements as the superuser.
func (s *Server) SQL(statements ...string) {
	s.t.Helper()
	s.Exec("postgres", statements...)
}

// Exec runs statements in a database as the superuser.
func (s *Server) Exec(database string, statements ...string) {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), fmt.Sprintf("postgres://postgres@%s:%d/%s", s.Address, s.Port, database))
	require.NoError(s.t, err)
	defer conn.Close(context.Background())
	for _, statement := range statements {
		_, err := conn.Exec(context.Background(), statement)
		require.NoError(s.t, err, statement)
	}
}

// Count is a number that a statement answers as the superuser.
func (s *Server) Count(statement string) (n int) {
	s.t.Helper()
	return s.CountIn("postgres", statement)
}

// CountIn is a number that a statement answers in a database as the superuser.
func (s *Server) CountIn(database, statement string) (n int) {
	s.t.Helper()
	conn, err := pgx.Connect(context.Background(), fmt.Sprintf("postgres://postgres@%s:%d/%s", s.Address, s.Port, database))
	require.NoError(s.t, err)
	defer conn.Close(context.Background())
	require.NoError(s.t, conn.QueryRow(context.Background(), statement).Scan(&n))
	return n
}

// Dump is all that a database holds, as pg_dump writes it.
func (s *Server) Dump(database string) string {
	s.t.Helper()
	out, err := s.command("pg_dump", "-h", s.Address, "-p", strconv.Itoa(s.Port), "-U", "postgres", database).Output()
	require.NoError(s.t, err)
	return string(out)
}

// Restore has a database hold what a dump holds, and nothing else of ours.
func (s *Server) Restore(database, dump string) {
	s.t.Helper()
	s.Exec(database, "drop schema maascert cascade")
	cmd := s.command("psql", "-h", s.Address, "-p", strconv.Itoa(s.Port), "-U", "postgres", "-v", "ON_ERROR_STOP=1", "-q", database)
	cmd.Stdin = strings.NewReader(dump)
	out, err := cmd.CombinedOutput()
	require.NoError(s.t, err, "psql: %s", out)
}

// Pooler starts a pgbouncer before the server and returns the URL through it; mode is session or transaction.
func (s *Server) Pooler(mode string) string {
	s.t.Helper()
	port, err := loopback.Port()
	require.NoError(s.t, err)
	dir, err := os.MkdirTemp("", "maascert-pgbouncer")
	require.NoError(s.t, err)
	s.t.Cleanup(func() { require.NoError(s.t, os.RemoveAll(dir)) })
	users := filepath.Join(dir, "users")
	config := filepath.Join(dir, "pgbouncer.ini")
	for name, text := range map[string]string{
		users: fmt.Sprintf("\"maascert\" %q\n", Password),
		config: fmt.Sprintf("[databases]\nmaascert = host=127.0.0.1 port=%d\n[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = %d\nunix_socket_dir =\nauth_type = scram-sha-256\nauth_file = %s\npool_mode = %s\n",
			s.Port, port, users, mode),
	} {
		require.NoError(s.t, os.WriteFile(name, []byte(text), 0o644))
	}
	require.NoError(s.t, os.Chmod(dir, 0o755))
	program, err := exec.LookPath("pgbouncer")
	if err != nil {
		program = "/usr/sbin/pgbouncer"
	}
	cmd := exec.Command(program, config)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: s.user, Pdeathsig: syscall.SIGKILL}
	require.NoError(s.t, cmd.Start())
	s.t.Cleanup(func() { s.down(cmd) })
	address := fmt.Sprintf("postgres://maascert:%s@127.0.0.1:%d/maascert", url.QueryEscape(Password), port)
	require.Eventually(s.t, func() bool {
		conn, err := pgx.Connect(context.Background(), address)
		if err != nil {
			return false
		}
		return conn.Close(context.Background()) == nil
	}, time.Minute, 20*time.Millisecond, "pgbouncer does not start")
	return address
}
