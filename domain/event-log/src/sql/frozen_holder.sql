-- Who holds the head row: its xmax is the transaction that locked it, which the session that runs it holds a lock on.
-- Only a session that waits for its own client, and began to do what it does longer ago than we have waited for it: one
-- that is busy, or waits for a disk, is let alone. What its COPY has got so far says whether its client still sends.
SELECT a.pid, a.backend_start, a.application_name, c.bytes_processed
FROM coldstream.log_head h
    JOIN pg_locks l ON l.locktype = 'transactionid' AND l.transactionid = h.xmax AND l.granted
    JOIN pg_stat_activity a ON a.pid = l.pid
    LEFT JOIN pg_stat_progress_copy c ON c.pid = a.pid
WHERE a.pid <> pg_backend_pid() AND a.wait_event_type = 'Client'
    AND a.state_change < clock_timestamp() - make_interval(secs => $1)
