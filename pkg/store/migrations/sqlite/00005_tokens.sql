-- See the PostgreSQL migration of this number.

-- +goose Up
ALTER TABLE users ADD COLUMN groups text;

ALTER TABLE users ADD COLUMN claims_at integer;

CREATE TABLE api_tokens (
    id             text PRIMARY KEY,
    kind           text NOT NULL, -- personal, resource
    format         text NOT NULL, -- opaque, jwt
    user_id        text NOT NULL REFERENCES users (id), -- whose it is; of a resource's token, who made it
    audience       text NOT NULL,
    resource       text NOT NULL DEFAULT '',
    name           text NOT NULL,
    description    text NOT NULL DEFAULT '',
    scopes         text NOT NULL DEFAULT '', -- with a blank between
    networks       text NOT NULL DEFAULT '',
    created_at     integer NOT NULL,
    expires_at     integer, -- null: it has no end
    revoked_at     integer,
    revoked_by     text NOT NULL DEFAULT '',
    revoked_for    text NOT NULL DEFAULT '',
    last_used_at   integer,
    last_used_from text NOT NULL DEFAULT '',
    noticed        integer NOT NULL DEFAULT 0, -- how many days before its end its owner was told last; 0: never
    notice_at      integer NOT NULL DEFAULT 0 -- not before then
);
CREATE INDEX api_tokens_by_user ON api_tokens (user_id, created_at, id);
CREATE INDEX api_tokens_by_resource ON api_tokens (audience, resource, created_at, id) WHERE resource <> '';

-- A value that was rotated stays, so that whoever presents it is known to have a copy.
CREATE TABLE api_token_values (
    digest      blob PRIMARY KEY, -- SHA-256 of the value
    token_id    text NOT NULL REFERENCES api_tokens (id) ON DELETE CASCADE,
    suffix      text NOT NULL,
    created_at  integer NOT NULL,
    valid_until integer, -- null: the one that counts
    status      integer UNIQUE -- the number in the status lists of one that is a JWT
);
CREATE INDEX api_tokens_by_end ON api_tokens (expires_at) WHERE revoked_at IS NULL;
CREATE INDEX api_tokens_revoked ON api_tokens (id) WHERE revoked_at IS NOT NULL;
CREATE INDEX api_token_values_replaced ON api_token_values (valid_until) WHERE status IS NOT NULL AND valid_until IS NOT NULL;

-- Numbers of the status lists that are given away.
CREATE TABLE status_numbers (
    id integer PRIMARY KEY AUTOINCREMENT
);
CREATE INDEX api_token_values_by_token ON api_token_values (token_id, created_at);

CREATE TABLE resources (
    audience   text NOT NULL,
    id         text NOT NULL,
    name       text NOT NULL,
    updated_at integer NOT NULL,
    PRIMARY KEY (audience, id)
);

-- A name that nobody has logged in by is bound to the first user who does.
CREATE TABLE resource_maintainers (
    audience text NOT NULL,
    resource text NOT NULL,
    username text NOT NULL,
    user_id  text REFERENCES users (id),
    PRIMARY KEY (audience, resource, username),
    FOREIGN KEY (audience, resource) REFERENCES resources (audience, id) ON DELETE CASCADE
);
CREATE INDEX resource_maintainers_by_user ON resource_maintainers (user_id);
