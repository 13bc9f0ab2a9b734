INSERT INTO stubs (id, state, created_time, created_at, revisions, version, position, changed_at)
SELECT * FROM UNNEST($1::text[], $2::text[], $3::text[], $4::timestamptz[], $5::bigint[], $6::bigint[],
    $7::bigint[], $8::timestamptz[])
ON CONFLICT (id) DO UPDATE SET
    (state, created_time, created_at, revisions, version, position, changed_at)
    = (EXCLUDED.state, EXCLUDED.created_time, EXCLUDED.created_at, EXCLUDED.revisions, EXCLUDED.version,
        EXCLUDED.position, EXCLUDED.changed_at)
