-- A snapshot whose event is not there: the aggregate's state is all that is left of some of its events.
SELECT s.aggregate_type::text AS aggregate_type, s.aggregate_id::text AS aggregate_id,
    s.last_sequence::bigint AS last_sequence
FROM {snapshots} s
WHERE s.last_sequence > 0 AND NOT EXISTS (
    SELECT FROM {events} e
    WHERE e.aggregate_type = s.aggregate_type AND e.aggregate_id = s.aggregate_id AND e.sequence = s.last_sequence
)
ORDER BY 1, 2, 3
LIMIT $1
