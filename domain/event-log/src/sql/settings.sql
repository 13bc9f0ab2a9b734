SELECT
    current_setting('full_page_writes')::boolean AS full_page_writes,
    current_setting('data_checksums')::boolean AS data_checksums,
    current_setting('autovacuum')::boolean AS autovacuum,
    current_setting('wal_level') AS wal_level,
    pg_size_bytes(current_setting('max_wal_size')) AS max_wal_bytes,
    current_setting('synchronous_commit') AS synchronous_commit,
    -- From PostgreSQL 17 on.
    coalesce(current_setting('transaction_timeout', true), '0') AS transaction_timeout,
    -- What those get who set none: every session of the log sets its own.
    current_setting('lock_timeout') AS lock_timeout,
    current_setting('statement_timeout') AS statement_timeout,
    current_setting('idle_in_transaction_session_timeout') AS idle_in_transaction,
    least(
        current_setting('max_connections')::integer - current_setting('superuser_reserved_connections')::integer,
        -- -1: no limit.
        nullif((SELECT rolconnlimit FROM pg_roles WHERE rolname = current_user), -1),
        nullif((SELECT datconnlimit FROM pg_database WHERE datname = current_database()), -1)
    ) AS connections
