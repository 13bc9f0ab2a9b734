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
    SELECT id_hash, position, kept FROM unnest($10::coldstream.event_ids[]) WHERE EXISTS (SELECT FROM moved)
    RETURNING 1
), heads AS (
    INSERT INTO coldstream.streams (category, id, version, position, first_position, closed)
    SELECT category, id, version, position, first_position, closed FROM unnest($11::coldstream.streams[])
    WHERE EXISTS (SELECT FROM moved)
    ON CONFLICT (category, id) DO UPDATE
        SET version = EXCLUDED.version, position = EXCLUDED.position, closed = EXCLUDED.closed
), events AS (
    INSERT INTO {partition} ({columns})
    SELECT {columns} FROM unnest($12::coldstream.events[]) WHERE EXISTS (SELECT FROM moved)
)
-- In this order: head, then ids. Whatever refuses the group does so before its rows are written.
SELECT (SELECT count(*) FROM moved) AS moved, (SELECT count(*) FROM ids) AS ids
