-- The row types of the tables that a group is written to, and of arrays of them.
SELECT c.relname::text AS "table", t.oid AS element, t.typarray AS "array"
FROM pg_catalog.pg_type t JOIN pg_catalog.pg_class c ON c.oid = t.typrelid
WHERE c.oid IN ('coldstream.events'::regclass, 'coldstream.event_ids'::regclass, 'coldstream.streams'::regclass)
