-- See the PostgreSQL migration of this number.

-- +goose Up
ALTER TABLE sessions ADD COLUMN address text NOT NULL DEFAULT '';

ALTER TABLE sessions ADD COLUMN agent text NOT NULL DEFAULT '';
