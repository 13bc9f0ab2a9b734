SELECT id, state, created_time, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at, revisions, version,
    position, (extract(epoch FROM changed_at) * 1000000)::bigint AS changed_at, is_out
FROM (
    SELECT id, state, created_time, created_at, revisions, version, position, changed_at,
        false AS is_out
    FROM items WHERE id = ANY ($1)
    UNION ALL
    SELECT id, state, created_time, created_at, revisions, version, position, changed_at, true
    FROM stubs WHERE id = ANY ($1)
) known
