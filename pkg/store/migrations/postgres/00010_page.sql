-- What the page shows: what a person is called at a provider, the last token that was handed out of each connection,
-- and what was refused of late. Older binaries go on beside it.

-- +goose Up
ALTER TABLE connections ADD COLUMN account text NOT NULL DEFAULT ''; -- what the user is called there

CREATE INDEX audit_entries_handouts ON audit_entries (user_id, provider, at) WHERE action = 'handout' AND reason = '';

CREATE INDEX audit_entries_refused ON audit_entries (at, chain, seq) WHERE reason <> '';
