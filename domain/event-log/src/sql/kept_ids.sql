-- Which of these positions have ids that are kept for ever.
SELECT position FROM coldstream.event_ids WHERE kept AND position BETWEEN $1 AND $2 ORDER BY position
