SELECT id, role, created_at, revoked_at, expires_at, categories, requests_per_second, append_bytes_per_second,
    last_used_at, coalesce(expires_at <= clock_timestamp(), false) AS expired
FROM coldstream.tokens ORDER BY id
