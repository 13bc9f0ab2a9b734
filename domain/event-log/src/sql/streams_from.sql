-- For each (stream, version) the oldest row of one partition that has this version or a later one.
SELECT w.ord, r.position, r.sequence, r.previous
FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS w (category, id, version, ord)
    CROSS JOIN LATERAL (
        SELECT position, sequence, previous FROM {partition}
        WHERE aggregate_type = w.category AND aggregate_id = w.id AND sequence >= w.version
        ORDER BY sequence LIMIT 1
    ) r
