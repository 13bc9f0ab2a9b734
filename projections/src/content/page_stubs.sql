SELECT id, state, created_time, created_at, revisions, version, position, changed_at
FROM view_content.stubs WHERE id > $1 ORDER BY id LIMIT $2
