-- The part of the log's schema that the views need, for tests whose log is in memory.
CREATE SCHEMA coldstream;
CREATE TABLE coldstream.consumers (
    name       text        COLLATE "C" PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('projection', 'importer')),
    checkpoint bigint      NOT NULL CHECK (checkpoint >= 0),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
CREATE ROLE coldstream_service NOLOGIN;
CREATE ROLE service LOGIN IN ROLE coldstream_service;
GRANT USAGE ON SCHEMA coldstream TO coldstream_service;
GRANT SELECT, INSERT, UPDATE (checkpoint, updated_at) ON coldstream.consumers TO coldstream_service;
