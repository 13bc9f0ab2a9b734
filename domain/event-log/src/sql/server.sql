SELECT
    pg_backend_pid() AS backend_pid,
    (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS backend_start,
    (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
    current_setting('fsync')::boolean AS fsync,
    current_setting('full_page_writes')::boolean AS full_page_writes,
    current_setting('server_encoding') = 'UTF8' AS utf8,
    current_setting('server_version_num')::integer AS version,
    pg_is_in_recovery() AS in_recovery,
    (SELECT rolsuper FROM pg_roles WHERE rolname = current_user) AS superuser,
    coalesce((SELECT pg_has_role(current_user, oid, 'MEMBER') FROM pg_roles WHERE rolname = 'coldstream_owner'), false)
        AS owner
