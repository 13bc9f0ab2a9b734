-- Who holds the head row: its xmax is the transaction that locked it, which the session that runs it holds a lock on.
-- Only a session that waits for its own client, and has for longer than we have waited for it: one that is busy, or
-- waits for a disk, is let alone.
SELECT a.pid, a.application_name, pg_terminate_backend(a.pid) AS terminated
FROM coldstream.log_head h
    JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = h.xmax AND l.granted
    JOIN pg_stat_activity a ON a.pid = l.pid
WHERE a.pid <> pg_backend_pid() AND a.wait_event_type = 'Client'
    AND a.state_change < clock_timestamp() - make_interval(secs => $1)
