-- See the PostgreSQL migration of this number.

-- +goose Up
ALTER TABLE connections ADD COLUMN end_stated_at integer;

CREATE INDEX connections_by_end ON connections (CASE WHEN refresh_token IS NULL THEN access_expires_at ELSE refresh_expires_at END)
    WHERE phase IN ('ready', 'refreshing', 'suspect') AND CASE WHEN refresh_token IS NULL THEN access_expires_at ELSE refresh_expires_at END IS NOT NULL;

CREATE INDEX connections_without_end ON connections (provider, connected_at)
    WHERE phase IN ('ready', 'refreshing', 'suspect') AND CASE WHEN refresh_token IS NULL THEN access_expires_at ELSE refresh_expires_at END IS NULL;

CREATE TABLE grants_ended (
    provider     text NOT NULL,
    user_id      text NOT NULL,
    connected_at integer NOT NULL,
    ended_at     integer NOT NULL,
    PRIMARY KEY (provider, user_id, connected_at)
);
CREATE INDEX grants_ended_by_time ON grants_ended (provider, ended_at);

CREATE TABLE grant_notices (
    user_id      text NOT NULL,
    provider     text NOT NULL,
    connected_at integer NOT NULL,
    noticed      integer NOT NULL DEFAULT 0,
    notice_at    integer NOT NULL DEFAULT 0,
    PRIMARY KEY (user_id, provider)
);
