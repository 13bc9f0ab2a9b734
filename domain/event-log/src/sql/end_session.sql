-- The session, if it is still there: it may yet run what was sent to it.
SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2
