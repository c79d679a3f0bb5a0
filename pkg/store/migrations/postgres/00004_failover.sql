-- Which incarnations of the database (system identifier and timeline) are settled: what a failover lost was
-- offered again by the replicas. In any other nothing but that is stored. Older binaries go on beside it.

-- +goose Up
CREATE TABLE incarnations (
    id         text PRIMARY KEY,
    settled_at bigint NOT NULL
);

ALTER TABLE replicas
    ADD COLUMN offered       text   NOT NULL DEFAULT '', -- the incarnation in which it offered what it had stored
    ADD COLUMN stepped_until bigint NOT NULL DEFAULT 0,  -- the last step back of this clock that it saw:
    ADD COLUMN stepped_by    bigint NOT NULL DEFAULT 0,  -- the latest time before it, and how far
    ADD COLUMN gone          boolean NOT NULL DEFAULT FALSE; -- its process is dead, and its spool was offered
