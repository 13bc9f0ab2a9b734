-- Waits a second at most for queries under way in what is dropped.
SELECT projections.end_rebuild($1, $2)
