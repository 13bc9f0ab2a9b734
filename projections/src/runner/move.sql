WITH consumer AS (
    UPDATE coldstream.consumers SET checkpoint = $2, updated_at = clock_timestamp() WHERE name = $1
)
UPDATE projections.progress SET cutoff = $3::text::timestamptz, leaf = $4 WHERE view = $1
