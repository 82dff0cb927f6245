package postgres

import (
	"context"
	"errors"
	"fmt"

	"github.com/jackc/pgx/v5"
	"github.com/jackc/pgx/v5/pgconn"
	"github.com/jackc/pgx/v5/pgxpool"

	"maascert/internal/hint"
)

// version of the schema. Later ones add to it, and a maascert works on any whose min_version it knows.
const version = 1

// schema makes what there is to make; several hosts may do so at once. The holder of a lock stands beside its fence for people.
const schema = `create table if not exists maascert.document (name text primary key, revision text not null, data bytea not null);
create table if not exists maascert.fence (lock text primary key, token text not null, node text not null default '', pid integer not null default 0,
	since timestamptz not null default now());
create table if not exists maascert.meta (one boolean primary key default true check (one), version integer not null, min_version integer not null);
insert into maascert.meta (version, min_version) values (1, 1) on conflict do nothing;`

// The advisory lock under which the schema is made: of a class of our own, as all of ours are, and of no lock's name.
const (
	lockClass  = 0x6d636572 // "mcer"; MAAS's own is another
	schemaLock = 0
)

// noTable is PostgreSQL's code for a table that is not there, noSchema for a schema.
const (
	noTable  = "42P01"
	noSchema = "3F000"
)

// ready is a pool whose database has our tables, in a version that we know.
func (s *Store) ready(ctx context.Context) (*pgxpool.Pool, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pool == nil {
		pool, err := pgxpool.NewWithConfig(context.WithoutCancel(ctx), s.config)
		if err != nil {
			return nil, err
		}
		s.pool = pool
	}
	if s.isReady {
		return s.pool, nil
	}
	has, least, err := found(ctx, s.pool)
	if isMissing(err) {
		if err = create(ctx, s.pool); err == nil {
			has, least, err = found(ctx, s.pool)
		}
	}
	switch {
	case err != nil:
		return s.pool, err
	case least > version:
		return s.pool, hint.Add(fmt.Errorf("the database was written by a later maascert (schema %d, which wants %d or later; this one knows %d)", has, least, version),
			"run the maascert that wrote it, or a later one")
	}
	s.isReady = true
	return s.pool, nil
}

// found is the version of the schema that is there, and the least that a maascert has to know for it.
func found(ctx context.Context, pool *pgxpool.Pool) (has, least int, err error) {
	err = pool.QueryRow(ctx, "select version, min_version from maascert.meta").Scan(&has, &least)
	return has, least, err
}

func isMissing(err error) bool {
	var refused *pgconn.PgError
	return errors.Is(err, pgx.ErrNoRows) || errors.As(err, &refused) && (refused.Code == noTable || refused.Code == noSchema)
}

// create makes the schema, one host at a time.
func create(ctx context.Context, pool *pgxpool.Pool) error {
	err := pgx.BeginFunc(ctx, pool, func(tx pgx.Tx) error {
		if _, err := tx.Exec(ctx, "select pg_advisory_xact_lock($1, $2)", lockClass, schemaLock); err != nil {
			return err
		}
		// Whoever may not make schemas may not say "if not exists" either.
		var isThere bool
		if err := tx.QueryRow(ctx, "select to_regnamespace('maascert') is not null").Scan(&isThere); err != nil {
			return err
		}
		if !isThere {
			if _, err := tx.Exec(ctx, "create schema maascert"); err != nil {
				return err
			}
		}
		_, err := tx.Exec(ctx, schema, pgx.QueryExecModeSimpleProtocol)
		return err
	})
	var refused *pgconn.PgError
	if errors.As(err, &refused) && refused.Code == insufficientPrivilege {
		return hint.Add(err, "as the database's owner: create schema maascert authorization USER, or grant create on database to USER")
	}
	return err
}

const insufficientPrivilege = "42501"
