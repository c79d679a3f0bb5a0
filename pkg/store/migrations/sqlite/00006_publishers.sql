-- See the PostgreSQL migration of this number.

-- +goose Up
CREATE TABLE publishers (
    id           text PRIMARY KEY,
    audience     text NOT NULL,
    resource     text NOT NULL,
    issuer       text NOT NULL,
    subject      text NOT NULL, -- a pattern
    claims       text NOT NULL, -- JSON: names and values that a job's token has to have
    scopes       text NOT NULL DEFAULT '', -- with a blank between
    name         text NOT NULL,
    created_at   integer NOT NULL,
    created_by   text NOT NULL REFERENCES users (id),
    last_used_at integer,
    FOREIGN KEY (audience, resource) REFERENCES resources (audience, id) ON DELETE CASCADE
);

CREATE INDEX publishers_by_resource ON publishers (audience, resource, created_at, id);

-- The tokens of jobs that were exchanged, until they expire: each is good once.
CREATE TABLE assertions (
    digest     text PRIMARY KEY, -- SHA-256 of issuer and jti, in hex
    expires_at integer NOT NULL
);

CREATE INDEX assertions_by_end ON assertions (expires_at);
