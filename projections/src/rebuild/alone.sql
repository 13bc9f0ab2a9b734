-- Held by the session, not by a transaction; the number is "views" in ASCII.
SELECT pg_try_advisory_lock(hashtextextended($1, 508574398323))
