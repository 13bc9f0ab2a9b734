SELECT id, version, position, first_position, closed
FROM coldstream.streams WHERE category = $1 AND id > $2 ORDER BY id LIMIT $3
