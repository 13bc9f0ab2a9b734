-- At most one write a minute and token, however many processes serve it.
UPDATE coldstream.tokens SET last_used_at = clock_timestamp()
WHERE id = $1 AND coalesce(last_used_at < clock_timestamp() - interval '1 minute', true)
