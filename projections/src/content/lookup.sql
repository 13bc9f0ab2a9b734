-- One statement, so one snapshot: an item on its way from one table to another is found in one of them.
SELECT source, id, state, created_time, created_at, revisions, version, position, changed_at, changed_time, author,
    change, oid, mode, size
FROM (
    SELECT 0 AS source, id, state, created_time, created_at, revisions, version, position, changed_at, changed_time,
        author, change, oid, mode, size
    FROM view_content.items WHERE id = $1
    UNION ALL
    SELECT 1, id, state, created_time, created_at, revisions, version, position, changed_at, changed_time, author,
        change, oid, mode, size
    FROM view_content.recalled WHERE id = $1
    UNION ALL
    SELECT 2, id, state, created_time, created_at, revisions, version, position, changed_at, NULL, NULL, NULL, NULL,
        NULL, NULL
    FROM view_content.stubs WHERE id = $1
) found
ORDER BY source LIMIT 1
