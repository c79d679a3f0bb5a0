-- See the PostgreSQL migration of this number.

-- +goose Up
ALTER TABLE connections ADD COLUMN account text NOT NULL DEFAULT '';

CREATE INDEX audit_entries_handouts ON audit_entries (user_id, provider, at) WHERE action = 'handout' AND reason = '';

CREATE INDEX audit_entries_refused ON audit_entries (at, chain, seq) WHERE reason <> '';
