SELECT
    count(*) AS segments,
    coalesce(max(last_position), 0) AS archived,
    count(verified_at) AS verified,
    count(confirmed_at) AS confirmed,
    coalesce(sum(bytes + index_bytes), 0)::bigint AS stored_bytes,
    coalesce(sum(record_bytes), 0)::bigint AS record_bytes,
    min(verified_at) AS oldest_verified_at
FROM coldstream.segments
