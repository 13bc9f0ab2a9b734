-- What a take that gives nothing says: how much may be listed, and when something is due. Parked rows are counted up to $2.
SELECT g.listed_to,
    (SELECT count(*) FROM coldstream.group_events e WHERE e.group_id = g.id AND e.state = 'ready')
    + (SELECT count(*) FROM coldstream.group_events e WHERE e.group_id = g.id AND e.state IN ('leased', 'waiting'))
    AS unsettled,
    (SELECT count(*) FROM (
        SELECT FROM coldstream.group_events e WHERE e.group_id = g.id AND e.state = 'parked' LIMIT $2
    ) p) AS parked,
    (SELECT (extract(epoch FROM min(e.due_at) - statement_timestamp()) * 1000000)::bigint
        FROM coldstream.group_events e WHERE e.group_id = g.id AND e.state IN ('leased', 'waiting')
    ) AS due_in_micros
FROM coldstream.consumer_groups g WHERE g.id = $1
