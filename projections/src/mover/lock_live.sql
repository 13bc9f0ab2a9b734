-- One mover of a view at a time gets past here; readers of the view, and pruning, do not wait.
-- What the view says from here on is said of its live tables.
SELECT set_config('search_path', name || ', pg_temp', true) FROM coldstream.consumers
WHERE name = $1 FOR NO KEY UPDATE
