SELECT DISTINCT relname::text COLLATE "C" AS name FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
WHERE relkind = 'r' AND nspname IN ($1, $1 || '_next') AND relname <> ALL ($2)
ORDER BY name
