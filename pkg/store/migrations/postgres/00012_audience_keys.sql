-- Keys of one audience's own, for services that read no key set, and what the default provider says of a person beside
-- their groups. Older binaries go on beside it.

-- +goose Up
CREATE TABLE audience_keys (
    id           text PRIMARY KEY,
    audience     text NOT NULL,
    algorithm    text NOT NULL,
    private      bytea NOT NULL, -- sealed
    public       bytea,          -- null for a secret
    created_at   bigint NOT NULL,
    activates_at bigint, -- null: the next one, which does not sign yet
    retired_at   bigint  -- null: it signs, or will
);

ALTER TABLE users ADD COLUMN full_name text NOT NULL DEFAULT '';
ALTER TABLE users ADD COLUMN email text NOT NULL DEFAULT '';
