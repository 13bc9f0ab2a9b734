-- One of each aggregate: stock postgres-es keeps no older one. One of no event is no state. A payload becomes text only once its row
-- is chosen: a large one is sorted as the pointer to where it is stored.
SELECT aggregate_type, aggregate_id, last_sequence, current_snapshot, payload::text AS payload
FROM (
    SELECT DISTINCT ON (1, 2)
        aggregate_type::text COLLATE "C" AS aggregate_type, aggregate_id::text COLLATE "C" AS aggregate_id,
        last_sequence::bigint AS last_sequence, current_snapshot::bigint AS current_snapshot, payload
    FROM {snapshots}
    WHERE last_sequence > 0
    ORDER BY 1, 2, last_sequence DESC
) AS newest
ORDER BY aggregate_type, aggregate_id
