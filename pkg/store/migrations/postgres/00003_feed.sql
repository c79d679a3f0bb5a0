-- The change feed is read by transaction, so that a line is heard however late it commits; a revocation
-- says until when it may be on its way; a connection says what its provider answers. Older binaries go on
-- beside it: every column has a default.

-- +goose Up
ALTER TABLE changes ADD COLUMN xid bigint NOT NULL DEFAULT (pg_current_xact_id()::text::bigint);
CREATE INDEX changes_by_transaction ON changes (xid);

ALTER TABLE revocations
    ADD COLUMN taken_until bigint NOT NULL DEFAULT 0, -- nothing of it is sent later
    ADD COLUMN ended_at    bigint;                    -- when the provider was told
CREATE INDEX revocations_by_subject ON revocations (provider, subject);

ALTER TABLE connections
    ADD COLUMN failure       text NOT NULL DEFAULT '', -- what the provider answers, since failing_since
    ADD COLUMN failing_since bigint;
