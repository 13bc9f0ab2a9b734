SELECT id, state, created_time, (extract(epoch FROM created_at) * 1000000)::bigint AS created_at, revisions, version,
    position, (extract(epoch FROM changed_at) * 1000000)::bigint AS changed_at
FROM view_content.stubs WHERE id > $1 ORDER BY id LIMIT $2
