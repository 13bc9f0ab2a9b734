-- Both versions of a table, row beside row. Reads all of both, and sorts.
SELECT key, live.content AS live, beside.content AS beside
FROM projections.rows($1, $2) live FULL JOIN projections.rows($1 || '_next', $2) beside USING (key)
ORDER BY key COLLATE "C"
