-- Each group's rows once, by the indexes of its states: up to unsettled_max and what is parked. A replayed event takes no
-- checkpoint back.
SELECT g.id, g.name, g.categories, g.event_types, g.stream_prefixes, g.from_position, g.lease_seconds, g.attempts_max,
    g.retry_first_seconds, g.retry_max_seconds, g.unsettled_max, g.created_at, g.listed_to, g.lapses,
    u.unsettled, u.lowest, u.oldest_seconds, p.parked
FROM coldstream.consumer_groups g
CROSS JOIN LATERAL (
    SELECT count(*) AS unsettled, min(e.position) FILTER (WHERE NOT e.replayed) AS lowest,
        floor(extract(epoch FROM statement_timestamp() - min(e.listed_at)))::bigint AS oldest_seconds
    FROM (
        SELECT r.position, r.replayed, r.listed_at
        FROM coldstream.group_events r WHERE r.group_id = g.id AND r.state = 'ready'
        UNION ALL
        SELECT h.position, h.replayed, h.listed_at
        FROM coldstream.group_events h WHERE h.group_id = g.id AND h.state IN ('leased', 'waiting')
    ) e
) u
CROSS JOIN LATERAL (
    SELECT count(*) AS parked FROM coldstream.group_events e WHERE e.group_id = g.id AND e.state = 'parked'
) p
ORDER BY g.name
