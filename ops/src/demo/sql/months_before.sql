-- Tables of a month's events that are older than the cutoff ($1), whether they are attached or not. Names sort as months do.
SELECT c.relname::text
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'coldstream'
    AND c.relkind IN ('r', 'p')
    AND c.relname ~ '^events_[0-9]{4}_[0-9]{2}$'
    AND c.relname COLLATE "C" < 'events_' || to_char($1::timestamptz AT TIME ZONE 'UTC', 'YYYY_MM')
ORDER BY 1
