INSERT INTO coldstream.tokens
    (id, sha256, role, expires_at, categories, requests_per_second, append_bytes_per_second)
VALUES ($1, $2, $3, $4, $5, $6, $7)
ON CONFLICT DO NOTHING
