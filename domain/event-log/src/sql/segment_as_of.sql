SELECT * FROM coldstream.segments WHERE first_at <= $1 ORDER BY first_at DESC, first_position DESC LIMIT 1
