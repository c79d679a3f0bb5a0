-- Programs that a person lets act for them: what was allowed until it is fetched, and the logins that go on, which stand
-- among the person's sessions. Older binaries take none of these logins for a browser's: no cookie has such a digest.

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
    authenticated_at bigint,
    login            text,             -- the digest of the login that began for it, in hex
    address          text NOT NULL DEFAULT '',
    agent            text NOT NULL DEFAULT '',
    created_at       bigint NOT NULL,
    expires_at       bigint NOT NULL
);

CREATE INDEX authorizations_by_end ON authorizations (expires_at);

CREATE INDEX authorizations_by_user ON authorizations (user_id);

ALTER TABLE sessions
    ADD COLUMN client   text NOT NULL DEFAULT '', -- the program; empty for a browser
    ADD COLUMN audience text NOT NULL DEFAULT '',
    ADD COLUMN scopes   text NOT NULL DEFAULT '',
    ADD COLUMN secret   text NOT NULL DEFAULT ''; -- SHA-256 of the part of its refresh token that changes, in hex
