-- An id whose position is pruned means nothing any more.
SELECT position FROM coldstream.event_ids
WHERE id_hash = $1 AND position > (SELECT pruned FROM coldstream.log_head)
