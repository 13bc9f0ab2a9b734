-- Rows are locked one by one; readers do not wait, and other writers are kept away by the checkpoint's lock.
INSERT INTO items (id, state, created_time, created_at, revisions, version, position, changed_at,
    changed_time, author, change, oid, mode, size)
SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
    $14::bigint[])
ON CONFLICT (id) DO UPDATE SET
    (state, created_time, created_at, revisions, version, position, changed_at, changed_time, author, change, oid,
        mode, size)
    = (EXCLUDED.state, EXCLUDED.created_time, EXCLUDED.created_at, EXCLUDED.revisions, EXCLUDED.version,
        EXCLUDED.position, EXCLUDED.changed_at, EXCLUDED.changed_time, EXCLUDED.author, EXCLUDED.change, EXCLUDED.oid,
        EXCLUDED.mode, EXCLUDED.size)
