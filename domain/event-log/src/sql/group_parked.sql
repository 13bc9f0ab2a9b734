SELECT position, category, stream_id, attempts, reason, consumer, due_at AS parked_at
FROM coldstream.group_events
WHERE group_id = $1 AND state = 'parked' AND position > $2
ORDER BY position LIMIT $3
