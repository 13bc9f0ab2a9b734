-- Locks the view's tables against readers too, for about a second a 100 MB.
SELECT projections.compact($1, $2)
