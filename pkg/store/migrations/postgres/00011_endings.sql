-- When grants end: what was told of it, and at what age providers end grants whose end they do not state. Older
-- binaries go on beside it.

-- +goose Up
ALTER TABLE connections
    ADD COLUMN end_stated_at bigint; -- when the grant was last given another end; null: when it was connected

CREATE INDEX connections_by_end ON connections ((CASE WHEN refresh_token IS NULL THEN access_expires_at ELSE refresh_expires_at END))
    WHERE phase IN ('ready', 'refreshing', 'suspect') AND CASE WHEN refresh_token IS NULL THEN access_expires_at ELSE refresh_expires_at END IS NOT NULL;

CREATE INDEX connections_without_end ON connections (provider, connected_at)
    WHERE phase IN ('ready', 'refreshing', 'suspect') AND CASE WHEN refresh_token IS NULL THEN access_expires_at ELSE refresh_expires_at END IS NULL;

-- Grants that their providers ended, without having stated an end. The latest of each provider are kept.
CREATE TABLE grants_ended (
    provider     text NOT NULL,
    user_id      text NOT NULL,
    connected_at bigint NOT NULL,
    ended_at     bigint NOT NULL,
    PRIMARY KEY (provider, user_id, connected_at)
);
CREATE INDEX grants_ended_by_time ON grants_ended (provider, ended_at);

-- What was told of a connection's end. It counts for the grant of that time alone.
CREATE TABLE grant_notices (
    user_id      text NOT NULL,
    provider     text NOT NULL,
    connected_at bigint NOT NULL,
    noticed      integer NOT NULL DEFAULT 0, -- how many days before the end its user was told last; 0: never
    notice_at    bigint NOT NULL DEFAULT 0,  -- not before then
    PRIMARY KEY (user_id, provider)
);
