-- See the PostgreSQL migration of this number. In SQLite lines commit in the order of their numbers.

-- +goose Up
ALTER TABLE revocations ADD COLUMN taken_until integer NOT NULL DEFAULT 0;
ALTER TABLE revocations ADD COLUMN ended_at integer;
CREATE INDEX revocations_by_subject ON revocations (provider, subject);
ALTER TABLE connections ADD COLUMN failure text NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN failing_since integer;
