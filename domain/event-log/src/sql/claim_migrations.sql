-- Waits until no other process migrates the log; the number is "log" in ASCII.
SELECT pg_advisory_xact_lock(7106407);
CREATE TABLE IF NOT EXISTS coldstream.migrations (
    version    integer     PRIMARY KEY,
    name       text        NOT NULL,
    sha256     bytea       NOT NULL,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
GRANT USAGE ON SCHEMA coldstream TO coldstream_service;
GRANT SELECT ON coldstream.migrations TO coldstream_service;
