-- Waits until no other process migrates the views; the number is "views" in ASCII.
SELECT pg_advisory_xact_lock(508574398323);
CREATE SCHEMA IF NOT EXISTS projections;
CREATE TABLE IF NOT EXISTS projections.migrations (
    number integer     PRIMARY KEY,
    sha256 bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    ran_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT USAGE ON SCHEMA projections TO coldstream_service;
GRANT SELECT ON projections.migrations TO coldstream_service;
