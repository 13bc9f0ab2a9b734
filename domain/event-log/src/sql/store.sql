-- A whole group in one statement, which is its own transaction, if the head still is what the group was decided on. A
-- writer between has moved the head, and the update, which waits for it, finds another row than it looks for: then
-- nothing is stored. The clocks are compared as whoever locks the head compares them.
WITH moved AS (
    UPDATE coldstream.log_head SET position = $1, recorded_at = $2
    WHERE one AND position = $3 AND epoch = $4 AND role = 'active' AND incarnation = $5 AND pruned = $6
        AND simulated_now IS NOT DISTINCT FROM $7
        AND ($7 IS NOT NULL OR abs(extract(epoch FROM clock_timestamp() - $8)) <= $9)
    RETURNING 1
), ids AS (
    -- A row that is there refuses the group: it is of a request that is known, or forgotten by a prune a moment later.
    INSERT INTO coldstream.event_ids (id_hash, position, kept)
    SELECT * FROM unnest($10::uuid[], $11::bigint[], $12::boolean[]) WHERE EXISTS (SELECT FROM moved)
    RETURNING 1
), heads AS (
    INSERT INTO coldstream.streams (category, id, version, position, first_position, closed)
    SELECT * FROM unnest($13::text[], $14::text[], $15::bigint[], $16::bigint[], $17::bigint[], $18::boolean[])
    WHERE EXISTS (SELECT FROM moved)
    ON CONFLICT (category, id) DO UPDATE
        SET version = EXCLUDED.version, position = EXCLUDED.position, closed = EXCLUDED.closed
), events AS (
    INSERT INTO {partition} ({columns})
    SELECT
        r.position, r.recorded_at, r.sequence, r.previous, r.epoch, r.bytes, r.data_kind, r.record_format,
        r.aggregate_type, r.aggregate_id, r.event_type, r.event_version, r.event_id, r.source, r.time,
        r.data_schema, r.data_content_type, r.metadata::json, r.payload::json
    FROM unnest(
        $19::bigint[], $20::timestamptz[], $21::bigint[], $22::bigint[], $23::bigint[], $24::integer[], $25::smallint[],
        $26::smallint[], $27::text[], $28::text[], $29::text[], $30::text[], $31::text[], $32::text[], $33::text[],
        $34::text[], $35::text[], $36::text[], $37::text[]
    ) AS r (
        position, recorded_at, sequence, previous, epoch, bytes, data_kind, record_format, aggregate_type, aggregate_id,
        event_type, event_version, event_id, source, time, data_schema, data_content_type, metadata, payload
    )
    WHERE EXISTS (SELECT FROM moved)
)
-- In this order: head, then ids. Whatever refuses the group does so before its rows are written.
SELECT (SELECT count(*) FROM moved) AS moved, (SELECT count(*) FROM ids) AS ids
