-- A name that is taken stores nothing: whoever comes second reads what the first has made. The count may be one too high
-- where two come at once, which harms nobody.
INSERT INTO coldstream.consumer_groups (
    name, categories, event_types, stream_prefixes, from_position, lease_seconds, attempts_max, retry_first_seconds,
    retry_max_seconds, unsettled_max, listed_to
)
SELECT $1, $2, $3, $4, $5, $6, $7, $8, $9, $10, coalesce($5 - 1, h.position)
FROM coldstream.log_head h
WHERE coalesce($5 - 1, 0) <= h.position
    AND (SELECT count(*) FROM coldstream.consumer_groups) < $11
ON CONFLICT (name) DO NOTHING
