-- See the PostgreSQL migration of this number.

-- +goose Up
CREATE TABLE audit_chains (
    id       text PRIMARY KEY,
    number   integer NOT NULL UNIQUE, -- from 1, without a gap
    process  text NOT NULL,
    began_at integer NOT NULL,
    seq      integer NOT NULL DEFAULT 0, -- of the last entry
    head     blob NOT NULL,            -- its digest, sealed
    cut_seq  integer NOT NULL DEFAULT 0, -- of the last entry that was deleted when it was old enough
    cut      blob                      -- its digest, sealed
);

-- How many chains there are, so that none can be removed unseen.
CREATE TABLE audit_register (
    id     integer PRIMARY KEY CHECK (id = 1),
    number integer NOT NULL,
    sealed blob NOT NULL -- the number
);

CREATE TABLE audit_entries (
    chain    text NOT NULL,
    seq      integer NOT NULL,
    at       integer NOT NULL,
    times    integer NOT NULL,
    action   text NOT NULL,
    reason   text NOT NULL DEFAULT '',
    user_id  text NOT NULL DEFAULT '',
    username text NOT NULL DEFAULT '',
    proof    text NOT NULL DEFAULT '',
    actor    text NOT NULL DEFAULT '',
    provider text NOT NULL DEFAULT '',
    audience text NOT NULL DEFAULT '',
    resource text NOT NULL DEFAULT '',
    client   text NOT NULL DEFAULT '',
    token    text NOT NULL DEFAULT '',
    request  text NOT NULL DEFAULT '',
    peer     text NOT NULL DEFAULT '',
    digest   blob NOT NULL,
    PRIMARY KEY (chain, seq)
);

CREATE INDEX audit_entries_by_time ON audit_entries (at, chain, seq);

CREATE INDEX audit_entries_by_user ON audit_entries (user_id, at, chain, seq);
