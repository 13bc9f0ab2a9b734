-- One of each aggregate: stock postgres-es keeps no older one. One of no event is no state.
SELECT DISTINCT ON (aggregate_type::text COLLATE "C", aggregate_id::text COLLATE "C")
    aggregate_type::text AS aggregate_type, aggregate_id::text AS aggregate_id,
    last_sequence::bigint AS last_sequence, current_snapshot::bigint AS current_snapshot, payload::text AS payload
FROM {snapshots}
WHERE last_sequence > 0
ORDER BY aggregate_type::text COLLATE "C", aggregate_id::text COLLATE "C", last_sequence DESC
