-- Takes back what is due, under the group's row lock: what waited is ready, and what was handed out has failed once more.
-- A row that a settlement holds at this moment is left to it (SKIP LOCKED): who comes in time is not late.
-- $2: after so many failures it is parked. $3: how long to wait after each failure before that. $4: the reason.
WITH due AS (
    SELECT e.position FROM coldstream.group_events e
    WHERE e.group_id = $1 AND e.state IN ('leased', 'waiting') AND e.due_at <= statement_timestamp()
    ORDER BY e.position
    FOR UPDATE SKIP LOCKED
), woken AS (
    UPDATE coldstream.group_events e SET
        state = CASE WHEN e.state = 'waiting' THEN 'ready' WHEN e.attempts + 1 >= $2 THEN 'parked' ELSE 'waiting' END,
        attempts = CASE WHEN e.state = 'leased' THEN e.attempts + 1 ELSE e.attempts END,
        reason = CASE WHEN e.state = 'leased' THEN $4 ELSE e.reason END,
        due_at = statement_timestamp() + CASE
            WHEN e.state = 'leased' AND e.attempts + 1 < $2 THEN ($3::bigint[])[e.attempts + 1] ELSE 0
        END * interval '1 second',
        lease = NULL
    FROM due WHERE e.group_id = $1 AND e.position = due.position
    RETURNING e.state
)
UPDATE coldstream.consumer_groups g SET lapses = g.lapses + w.lapses
FROM (SELECT count(*) AS lapses FROM woken WHERE state <> 'ready') w
WHERE g.id = $1 AND w.lapses > 0
