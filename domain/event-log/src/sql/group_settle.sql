-- Locks those of the named rows that are under the lease, in the order in which they are named: by position. It waits for a
-- take that takes one back: the row is looked at again then, and is not under the lease any more. What is not locked here
-- is not changed. Only what is leased has a lease; its state is not asked for, so that each row is found by its position.
-- $6: after so many failures it is parked. $7: how long to wait after each failure before that.
WITH held AS MATERIALIZED (
    SELECT e.position, n.outcome, n.reason, e.attempts + 1 AS failed,
        coalesce(n.after_seconds, ($7::bigint[])[e.attempts + 1], 0) AS after_seconds
    FROM unnest($3::bigint[], $4::text[], $5::bigint[], $8::text[]) AS n (position, outcome, after_seconds, reason)
    CROSS JOIN LATERAL (
        SELECT h.position, h.attempts FROM coldstream.group_events h
        WHERE h.group_id = $1 AND h.position = n.position AND h.lease = $2
        FOR UPDATE
    ) e
), settled AS MATERIALIZED (
    SELECT h.*, CASE
        WHEN h.outcome = 'done' THEN 'done'
        WHEN h.outcome = 'release' THEN 'released'
        WHEN h.outcome = 'park' OR h.failed >= $6 THEN 'parked'
        ELSE 'waiting'
    END AS settled
    FROM held h
), gone AS (
    DELETE FROM coldstream.group_events e USING settled s
    WHERE s.settled = 'done' AND e.group_id = $1 AND e.position = s.position
), moved AS (
    UPDATE coldstream.group_events e SET
        state = CASE WHEN s.settled = 'released' THEN 'ready' ELSE s.settled END,
        attempts = CASE WHEN s.settled = 'released' THEN e.attempts ELSE s.failed END,
        reason = CASE WHEN s.settled = 'released' THEN e.reason ELSE s.reason END,
        due_at = statement_timestamp()
            + CASE WHEN s.settled = 'waiting' THEN s.after_seconds ELSE 0 END * interval '1 second',
        lease = NULL
    FROM settled s
    WHERE s.settled <> 'done' AND e.group_id = $1 AND e.position = s.position
)
SELECT position, settled FROM settled
