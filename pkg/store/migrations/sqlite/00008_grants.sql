-- See the PostgreSQL migration of this number.

-- +goose Up
CREATE TABLE authorizations (
    digest           text PRIMARY KEY, -- SHA-256 of the code, in hex
    user_code        text UNIQUE,      -- SHA-256 of what a device shows, in hex; null of a code for a browser
    client           text NOT NULL,
    audience         text NOT NULL,
    scopes           text NOT NULL DEFAULT '', -- with a blank between
    state            text NOT NULL,    -- pending, allowed, denied, spent
    redirect_uri     text NOT NULL DEFAULT '',
    challenge        text NOT NULL DEFAULT '',
    user_id          text REFERENCES users (id),
    authenticated_at integer,
    login            text,             -- the digest of the login that began for it, in hex
    address          text NOT NULL DEFAULT '',
    agent            text NOT NULL DEFAULT '',
    created_at       integer NOT NULL,
    expires_at       integer NOT NULL
);

CREATE INDEX authorizations_by_end ON authorizations (expires_at);

CREATE INDEX authorizations_by_user ON authorizations (user_id);

ALTER TABLE sessions ADD COLUMN client text NOT NULL DEFAULT '';

ALTER TABLE sessions ADD COLUMN audience text NOT NULL DEFAULT '';

ALTER TABLE sessions ADD COLUMN scopes text NOT NULL DEFAULT '';

ALTER TABLE sessions ADD COLUMN secret text NOT NULL DEFAULT '';
