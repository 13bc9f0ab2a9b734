SELECT id, state, created_time, created_at, revisions, version, position, changed_at, changed_time, author, change, oid,
    mode, size
FROM view_content.items WHERE id > $1 ORDER BY id LIMIT $2
