-- Only while the stub is the one that the item was read for. The lock keeps it so until the commit: a change that
-- comes meanwhile waits, and then takes the recalled item away.
WITH stub AS (
    SELECT id FROM view_content.stubs WHERE id = ($1::text[])[1] AND position = ($7::bigint[])[1] FOR SHARE
)
INSERT INTO view_content.recalled (id, state, created_time, created_at, revisions, version, position, changed_at,
    changed_time, author, change, oid, mode, size)
SELECT item.* FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::timestamptz[], $9::text[], $10::text[], $11::text[], $12::text[], $13::text[],
    $14::bigint[]) item (id, state, created_time, created_at, revisions, version, position, changed_at, changed_time,
    author, change, oid, mode, size)
JOIN stub ON stub.id = item.id
ON CONFLICT (id) DO UPDATE SET state = EXCLUDED.state
