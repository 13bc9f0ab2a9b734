-- Of the live log: a pruned position is not, also where its id is kept.
SELECT position FROM coldstream.event_ids
WHERE id_hash = $1 AND position > (SELECT pruned FROM coldstream.log_head)
