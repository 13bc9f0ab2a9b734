-- $2: NULL for all. Only parked rows, which no take and no settlement touches.
WITH replayed AS (
    UPDATE coldstream.group_events
    SET state = 'ready', attempts = 0, replayed = true, due_at = statement_timestamp(), listed_at = statement_timestamp()
    WHERE group_id = $1 AND state = 'parked' AND ($2::bigint[] IS NULL OR position = ANY ($2))
    RETURNING position
)
SELECT count(*) AS changed FROM replayed
