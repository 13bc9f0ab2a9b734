-- Everything of a group but its rows, in one statement and one round trip.
WITH ids AS (
    INSERT INTO coldstream.event_ids (id_hash, position, kept)
    SELECT id_hash, position, kept FROM unnest($1::coldstream.event_ids[]) {where_an_id_is_there}
), heads AS (
    INSERT INTO coldstream.streams (category, id, version, position, first_position, closed)
    SELECT category, id, version, position, first_position, closed FROM unnest($2::coldstream.streams[])
    ON CONFLICT (category, id) DO UPDATE
        SET version = EXCLUDED.version, position = EXCLUDED.position, closed = EXCLUDED.closed
), checkpoints AS (
    INSERT INTO coldstream.consumers (name, kind, checkpoint)
    SELECT name, 'importer', checkpoint FROM unnest($3::text[], $4::bigint[]) AS moved (name, checkpoint)
    ON CONFLICT (name) DO UPDATE SET checkpoint = EXCLUDED.checkpoint, updated_at = clock_timestamp()
), begun AS (
    UPDATE coldstream.partitions p SET first_position = b.first
    FROM unnest($5::timestamptz[], $6::bigint[]) AS b (month, first)
    WHERE p.month = b.month AND p.first_position IS NULL
)
UPDATE coldstream.log_head SET position = $7, recorded_at = $8
