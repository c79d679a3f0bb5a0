-- All times are unix milliseconds of the database's clock. Columns of type bytea that hold tokens or
-- private keys are sealed; digests are keyed.

-- +goose Up
CREATE TABLE wts_schema (
    oldest bigint NOT NULL -- the newest migration that a binary must know to run on this schema
);
INSERT INTO wts_schema (oldest) VALUES (1);

CREATE TABLE users (
    id           text PRIMARY KEY, -- ours, never reused
    issuer       text NOT NULL,    -- issuer and subject at the default provider
    subject      text NOT NULL,
    username     text NOT NULL,
    created_at   bigint NOT NULL,
    disabled_at  bigint,
    set_aside_at bigint,           -- the name came back with another subject: it no longer means this user
    UNIQUE (issuer, subject)
);
CREATE UNIQUE INDEX users_by_username ON users (username) WHERE set_aside_at IS NULL;

CREATE TABLE connections (
    user_id            text NOT NULL REFERENCES users (id),
    provider           text NOT NULL,
    subject            text NOT NULL, -- who the user is there
    phase              text NOT NULL, -- ready, broken, disconnected
    reason             text NOT NULL DEFAULT '',
    version            bigint NOT NULL,
    refresh_token      bytea,
    refresh_digest     bytea,
    access_token       bytea,
    access_issued_at   bigint,
    access_expires_at  bigint,
    refresh_expires_at bigint,
    connected_at       bigint NOT NULL,
    updated_at         bigint NOT NULL,
    PRIMARY KEY (user_id, provider)
);

CREATE TABLE sessions (
    digest     bytea PRIMARY KEY, -- SHA-256 of the handle in the browser's cookie
    user_id    text NOT NULL REFERENCES users (id),
    created_at bigint NOT NULL,
    seen_at    bigint NOT NULL,
    ends_at    bigint NOT NULL
);
CREATE INDEX sessions_by_user ON sessions (user_id);
CREATE INDEX sessions_by_end ON sessions (ends_at);

CREATE TABLE login_states (
    digest     bytea PRIMARY KEY,
    expires_at bigint NOT NULL
);
CREATE INDEX login_states_by_end ON login_states (expires_at);

CREATE TABLE signing_keys (
    id           text PRIMARY KEY,
    algorithm    text NOT NULL,
    private      bytea NOT NULL, -- PKCS #8, sealed
    public       bytea NOT NULL, -- PKIX, in clear
    created_at   bigint NOT NULL,
    activates_at bigint NOT NULL,
    leaves_at    bigint,
    token_life   bigint NOT NULL -- milliseconds
);

CREATE TABLE changes (
    seq    bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at     bigint NOT NULL,
    kind   text NOT NULL,
    object text NOT NULL
);
CREATE INDEX changes_by_time ON changes (at);
