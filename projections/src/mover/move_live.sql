-- A view that moves is not stopped any more.
WITH consumer AS (
    UPDATE coldstream.consumers SET checkpoint = $2, updated_at = clock_timestamp() WHERE name = $1
)
UPDATE projections.progress SET cutoff = $3, leaf = $4, stopped_position = NULL, stopped_id = NULL,
    stopped_type = NULL, stopped_reason = NULL
WHERE view = $1
