-- $2: NULL for all. Only parked rows, which no take and no settlement touches.
WITH discarded AS (
    DELETE FROM coldstream.group_events
    WHERE group_id = $1 AND state = 'parked' AND ($2::bigint[] IS NULL OR position = ANY ($2))
    RETURNING position
)
SELECT count(*) AS changed FROM discarded
