-- Row locks by position, as a settlement takes them.
WITH held AS (
    SELECT e.position FROM coldstream.group_events e
    WHERE e.group_id = $1 AND e.state IN ('leased', 'waiting') AND e.lease = $2
    ORDER BY e.position
    FOR UPDATE
), extended AS (
    UPDATE coldstream.group_events e SET due_at = statement_timestamp() + $3::bigint * interval '1 second'
    FROM held WHERE e.group_id = $1 AND e.position = held.position AND e.lease = $2
    RETURNING e.due_at
)
SELECT (SELECT count(*) FROM extended) AS events, (SELECT max(due_at) FROM extended) AS deadline
FROM coldstream.consumer_groups WHERE id = $1
