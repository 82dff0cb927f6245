-- A store of the schema of November 2026, with made-up documents. It is read for ever, and this file is never changed.
create schema maascert;
create table maascert.document (name text primary key, revision text not null, data bytea not null);
create table maascert.fence (lock text primary key, token text not null, node text not null default '', pid integer not null default 0,
	since timestamptz not null default now());
create table maascert.meta (one boolean primary key default true check (one), version integer not null, min_version integer not null);
insert into maascert.meta (version, min_version) values (1, 1);
insert into maascert.document values ('state/maas', 'r1', convert_to('{"v":1,"current":3}', 'UTF8'));
insert into maascert.fence values ('maas', 'token', 'region1', 812, '2026-11-27 10:00:00+00');
alter schema maascert owner to maascert;
alter table maascert.document owner to maascert;
alter table maascert.fence owner to maascert;
alter table maascert.meta owner to maascert;
