-- One runner of a view at a time gets past here; readers of the view, and pruning, do not wait.
SELECT checkpoint FROM coldstream.consumers WHERE name = $1 FOR NO KEY UPDATE
