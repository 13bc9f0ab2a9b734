-- The statements that make the service's role what it has to be, in order; $1 its name, $2 the SCRAM-SHA-256
-- verifier of its password, or NULL.
SELECT statement FROM (VALUES
    (1, format('CREATE ROLE %I LOGIN', $1)),
    (2, format('ALTER ROLE %I LOGIN PASSWORD %L', $1, $2)),
    (3, format('GRANT coldstream_service TO %I', $1))
) AS statements (ord, statement)
WHERE ord <> 2 OR $2::text IS NOT NULL
ORDER BY ord
