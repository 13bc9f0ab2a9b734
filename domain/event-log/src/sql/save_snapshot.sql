-- Two at once for one stream may leave two rows: the newer one is read, and the next save removes the older.
WITH older AS (
    DELETE FROM coldstream.snapshots WHERE aggregate_type = $1 AND aggregate_id = $2 AND last_sequence < $3
)
INSERT INTO coldstream.snapshots (aggregate_type, aggregate_id, last_sequence, current_snapshot, payload)
SELECT $1, $2, $3, $4, $5
WHERE NOT EXISTS (
    SELECT FROM coldstream.snapshots WHERE aggregate_type = $1 AND aggregate_id = $2 AND last_sequence > $3
)
ON CONFLICT (aggregate_type, aggregate_id, last_sequence)
    DO UPDATE SET (current_snapshot, payload) = (EXCLUDED.current_snapshot, EXCLUDED.payload)
