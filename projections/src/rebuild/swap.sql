-- Holds no lock that a reader of the view waits for.
SELECT projections.swap($1)
