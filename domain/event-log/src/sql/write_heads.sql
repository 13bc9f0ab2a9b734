-- Everything of a group but its rows, in one statement and one round trip.
WITH ids AS (
    INSERT INTO coldstream.event_ids (id_hash, position, kept)
    SELECT * FROM unnest($1::uuid[], $2::bigint[], $3::boolean[]) {where_an_id_is_there}
), heads AS (
    INSERT INTO coldstream.streams (category, id, version, position, first_position, closed)
    SELECT * FROM unnest($4::text[], $5::text[], $6::bigint[], $7::bigint[], $8::bigint[], $9::boolean[])
    ON CONFLICT (category, id) DO UPDATE
        SET version = EXCLUDED.version, position = EXCLUDED.position, closed = EXCLUDED.closed
), checkpoints AS (
    INSERT INTO coldstream.consumers (name, kind, checkpoint)
    SELECT name, 'importer', checkpoint FROM unnest($10::text[], $11::bigint[]) AS moved (name, checkpoint)
    ON CONFLICT (name) DO UPDATE SET checkpoint = EXCLUDED.checkpoint, updated_at = clock_timestamp()
), begun AS (
    UPDATE coldstream.partitions p SET first_position = b.first
    FROM unnest($12::timestamptz[], $13::bigint[]) AS b (month, first)
    WHERE p.month = b.month AND p.first_position IS NULL
)
UPDATE coldstream.log_head SET position = $14, recorded_at = $15
