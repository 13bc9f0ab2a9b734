-- Whether a take has anything to do: it locks nothing and writes nothing, so whoever waits for events may ask often.
SELECT h.role, h.epoch,
    EXISTS (SELECT FROM coldstream.group_events e WHERE e.group_id = g.id AND e.state = 'ready')
    OR EXISTS (
        SELECT FROM coldstream.group_events e
        WHERE e.group_id = g.id AND e.state IN ('leased', 'waiting') AND e.due_at <= statement_timestamp()
    ) AS has_work
FROM coldstream.consumer_groups g CROSS JOIN coldstream.log_head h
WHERE g.id = $1
