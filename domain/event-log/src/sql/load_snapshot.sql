SELECT last_sequence, current_snapshot, payload FROM coldstream.snapshots
WHERE aggregate_type = $1 AND aggregate_id = $2 ORDER BY last_sequence DESC LIMIT 1
