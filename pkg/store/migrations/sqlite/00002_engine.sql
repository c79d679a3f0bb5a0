-- As for PostgreSQL; see there.

-- +goose Up
ALTER TABLE connections ADD COLUMN parent_digest blob;
ALTER TABLE connections ADD COLUMN rotates text NOT NULL DEFAULT 'unknown';
ALTER TABLE connections ADD COLUMN flight text NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN replica text NOT NULL DEFAULT '';
ALTER TABLE connections ADD COLUMN claimed_at integer;
ALTER TABLE connections ADD COLUMN presented_at integer;
ALTER TABLE connections ADD COLUMN next_attempt_at integer;
ALTER TABLE connections ADD COLUMN stored_version integer NOT NULL DEFAULT 0;
CREATE INDEX connections_in_flight ON connections (claimed_at) WHERE flight <> '';
CREATE INDEX connections_in_doubt ON connections (next_attempt_at) WHERE phase = 'suspect';
CREATE INDEX connections_rotating ON connections (provider) WHERE rotates = 'yes';

CREATE TABLE replicas (
    id      text PRIMARY KEY,
    beat_at integer NOT NULL
);

CREATE TABLE revocations (
    id              text PRIMARY KEY,
    user_id         text NOT NULL,
    provider        text NOT NULL,
    subject         text NOT NULL,
    token           blob NOT NULL,
    created_at      integer NOT NULL,
    attempts        integer NOT NULL DEFAULT 0,
    next_attempt_at integer NOT NULL
);
CREATE INDEX revocations_by_attempt ON revocations (next_attempt_at);
