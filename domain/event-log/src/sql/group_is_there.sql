-- How many of a group's events are stored as they were to be: under their ids, at their positions and with their instants.
SELECT count(*)
FROM unnest($1::uuid[], $2::bigint[], $3::timestamptz[]) AS g (id_hash, position, recorded_at)
    JOIN coldstream.event_ids i ON i.id_hash = g.id_hash AND i.position = g.position
    JOIN coldstream.events e ON e.position = g.position AND e.recorded_at = g.recorded_at
