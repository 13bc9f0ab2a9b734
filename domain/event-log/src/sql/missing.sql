-- Reads only: what `db init` would find. Names are looked up without failing where they are not there.
SELECT
    ARRAY(
        SELECT wanted FROM unnest(ARRAY['coldstream_owner', 'coldstream_service', $1]) wanted
        WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = wanted)
    ) AS roles,
    to_regclass('coldstream.migrations') IS NOT NULL AS migrated,
    to_regclass('coldstream.log_head') IS NOT NULL AS prepared
