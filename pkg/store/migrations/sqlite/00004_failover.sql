-- See the PostgreSQL migration of this number. An SQLite file has no failover.

-- +goose Up
ALTER TABLE replicas ADD COLUMN offered text NOT NULL DEFAULT '';
ALTER TABLE replicas ADD COLUMN stepped_until integer NOT NULL DEFAULT 0;
ALTER TABLE replicas ADD COLUMN stepped_by integer NOT NULL DEFAULT 0;
ALTER TABLE replicas ADD COLUMN gone boolean NOT NULL DEFAULT FALSE;
