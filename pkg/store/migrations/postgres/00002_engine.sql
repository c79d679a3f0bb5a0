-- The refresh engine: who presents which token, since when, and what is to be revoked. A binary that
-- knows only the first migration goes on beside it: every column has a default, and it takes a row
-- that is refreshing for one that it may not use.

-- +goose Up
ALTER TABLE connections
    ADD COLUMN parent_digest   bytea,                            -- of the token whose successor this one is
    ADD COLUMN rotates         text   NOT NULL DEFAULT 'unknown', -- yes, no: what this connection's refreshes showed
    ADD COLUMN flight          text   NOT NULL DEFAULT '',        -- the claim under way; empty where there is none
    ADD COLUMN replica         text   NOT NULL DEFAULT '',        -- whose it is
    ADD COLUMN claimed_at      bigint,
    ADD COLUMN presented_at    bigint,                           -- when this very token was first presented
    ADD COLUMN next_attempt_at bigint,
    ADD COLUMN stored_version  bigint NOT NULL DEFAULT 0;         -- the version of the claim that stored this token
CREATE INDEX connections_in_flight ON connections (claimed_at) WHERE flight <> '';
CREATE INDEX connections_in_doubt ON connections (next_attempt_at) WHERE phase = 'suspect';
CREATE INDEX connections_rotating ON connections (provider) WHERE rotates = 'yes';

CREATE TABLE replicas (
    id      text PRIMARY KEY,
    beat_at bigint NOT NULL
);

CREATE TABLE revocations (
    id              text PRIMARY KEY,
    user_id         text NOT NULL,
    provider        text NOT NULL,
    subject         text NOT NULL,
    token           bytea NOT NULL, -- sealed
    created_at      bigint NOT NULL,
    attempts        bigint NOT NULL DEFAULT 0,
    next_attempt_at bigint NOT NULL
);
CREATE INDEX revocations_by_attempt ON revocations (next_attempt_at);
