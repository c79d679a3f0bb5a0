-- See the PostgreSQL migration of this number.

-- +goose Up
CREATE TABLE audience_keys (
    id           text PRIMARY KEY,
    audience     text NOT NULL,
    algorithm    text NOT NULL,
    private      blob NOT NULL,
    public       blob,
    created_at   integer NOT NULL,
    activates_at integer,
    retired_at   integer
);

ALTER TABLE users ADD COLUMN full_name text NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN email text NOT NULL DEFAULT '';
