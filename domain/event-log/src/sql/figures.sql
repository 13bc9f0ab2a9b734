-- Everything that a scrape asks the database for, in one round trip. The segments are some thousands at most: one pass.
SELECT
    clock_timestamp() AS database_now,
    -- Simulated time jumps over months: there each partition is made when it is needed.
    (SELECT simulated_now IS NOT NULL FROM coldstream.log_head) OR EXISTS (
        SELECT FROM coldstream.partitions p
        JOIN pg_catalog.pg_inherits i ON i.inhrelid = to_regclass(format('coldstream.%I', p.name))
        WHERE p.month AT TIME ZONE 'UTC'
            = date_trunc('month', clock_timestamp() AT TIME ZONE 'UTC') + interval '1 month'
    ) AS coming_partition,
    s.*,
    coalesce((SELECT number FROM coldstream.last_manifest), 0) AS manifest,
    coalesce((SELECT max(size) FROM coldstream.signed_checkpoints), 0) AS signed,
    coalesce((SELECT max(size) FROM coldstream.signed_checkpoints WHERE cosigned), 0) AS cosigned
FROM (
    SELECT
        count(*) AS segments,
        coalesce(sum(bytes + index_bytes), 0)::bigint AS stored_bytes,
        coalesce(sum(record_bytes), 0)::bigint AS record_bytes,
        coalesce(max(last_position), 0) AS sealed,
        -- Up to the first segment of which it is not so.
        coalesce(min(first_position) FILTER (WHERE verified_at IS NULL) - 1, max(last_position), 0) AS verified,
        coalesce(min(first_position) FILTER (WHERE confirmed_at IS NULL) - 1, max(last_position), 0) AS confirmed,
        count(*) FILTER (WHERE confirmed_at IS NULL) AS unconfirmed,
        max(last_at) AS newest_at,
        min(verified_at) AS oldest_verified_at
    FROM coldstream.segments
) s
