-- Hands out what is ready, lowest positions first, under the group's row lock: nobody else moves a ready row meanwhile. A
-- stream under another lease is passed over, and so is what stands behind one of its stream that waits; what is picked of
-- a stream is therefore without a gap. What failed with its lease ($5, the reason) is handed out alone. A sequence gives no
-- number twice, whether this commits or not.
WITH first AS MATERIALIZED (
    SELECT e.position, e.attempts > 0 AND e.reason = $5 AS lapsed FROM coldstream.group_events e
    WHERE e.group_id = $1 AND e.state = 'ready' AND NOT EXISTS (
        SELECT FROM coldstream.group_events b
        WHERE b.group_id = $1 AND b.category = e.category AND b.stream_id = e.stream_id
            AND b.state <> 'ready' AND b.state <> 'parked' AND (b.state = 'leased' OR b.position < e.position)
    )
    ORDER BY e.position LIMIT $2
), ready AS MATERIALIZED (
    SELECT f.position FROM (
        SELECT position, row_number() OVER w AS number, bool_or(lapsed) OVER w AS behind
        FROM first WINDOW w AS (ORDER BY position)
    ) f
    WHERE f.number = 1 OR f.behind IS NOT TRUE
), lease AS MATERIALIZED (
    SELECT nextval('coldstream.group_leases') AS number WHERE EXISTS (SELECT FROM ready)
)
UPDATE coldstream.group_events e
SET state = 'leased', lease = lease.number, consumer = $3,
    due_at = statement_timestamp() + $4::bigint * interval '1 second'
FROM ready CROSS JOIN lease
WHERE e.group_id = $1 AND e.position = ready.position
RETURNING e.position, e.attempts, e.replayed, e.lease, e.due_at
