SELECT
    pg_backend_pid() AS backend_pid,
    (SELECT backend_start FROM pg_stat_activity WHERE pid = pg_backend_pid()) AS backend_start,
    (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
    current_setting('fsync')::boolean AS fsync,
    current_setting('server_encoding') = 'UTF8' AS utf8,
    pg_is_in_recovery() AS in_recovery,
    current_setting('synchronous_commit') AS synchronous_commit,
    (
        SELECT count(*) = 4 FROM pg_settings
        WHERE source = 'client'
          AND name IN ('synchronous_commit', 'lock_timeout', 'statement_timeout', 'idle_in_transaction_session_timeout')
    ) AS limited,
    (
        SELECT CASE
            WHEN mine.rolsuper THEN 'is a superuser'
            WHEN mine.rolcreaterole THEN 'may create roles (CREATEROLE)'
            WHEN EXISTS (
                SELECT FROM pg_roles AS other
                WHERE (other.rolsuper OR other.rolcreaterole) AND pg_has_role(mine.oid, other.oid, 'MEMBER')
            ) THEN 'can become a superuser or a role that may create roles'
            WHEN EXISTS (
                SELECT FROM pg_roles AS other
                WHERE other.rolname = 'coldstream_owner' AND pg_has_role(mine.oid, other.oid, 'MEMBER')
            ) THEN 'can become coldstream_owner'
            WHEN pg_has_role(mine.oid, 'pg_execute_server_program', 'MEMBER') THEN 'can become pg_execute_server_program'
            WHEN pg_has_role(mine.oid, 'pg_write_server_files', 'MEMBER') THEN 'can become pg_write_server_files'
            WHEN pg_has_role(mine.oid, 'pg_write_all_data', 'MEMBER') THEN 'can become pg_write_all_data'
            WHEN has_table_privilege(mine.oid, to_regclass('coldstream.events'), 'UPDATE, DELETE, TRUNCATE, TRIGGER')
                THEN 'has grants to change coldstream.events'
        END
        FROM pg_roles AS mine WHERE mine.rolname = current_user
    ) AS power
