-- Where a session began, so that a person knows which one to end. Older binaries leave both empty.

-- +goose Up
ALTER TABLE sessions
    ADD COLUMN address text NOT NULL DEFAULT '', -- of the login
    ADD COLUMN agent   text NOT NULL DEFAULT ''; -- the browser, as it calls itself
