-- The session, if it is still there: it may yet run what was sent to it. One that waits for a synchronous standby has
-- committed, and would let that be seen if it were ended.
SELECT CASE WHEN wait_event IS DISTINCT FROM 'SyncRep' THEN pg_terminate_backend(pid) END
FROM pg_stat_activity WHERE pid = $1 AND backend_start = $2
