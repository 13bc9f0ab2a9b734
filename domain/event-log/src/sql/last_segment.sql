SELECT * FROM coldstream.segments ORDER BY first_position DESC LIMIT 1
