SELECT id, state, created_time, created_at, revisions, version, position, changed_at, false AS is_out
FROM items WHERE id = ANY ($1)
UNION ALL
SELECT id, state, created_time, created_at, revisions, version, position, changed_at, true
FROM stubs WHERE id = ANY ($1)
