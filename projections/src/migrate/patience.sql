-- A query that does not end must not make those wait that come after it.
SET LOCAL lock_timeout = '5s'
