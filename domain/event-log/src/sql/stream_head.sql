SELECT version, position, first_position, closed FROM coldstream.streams WHERE category = $1 AND id = $2
