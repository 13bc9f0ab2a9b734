SELECT * FROM coldstream.segments WHERE verified_at IS NULL AND first_position >= $1
ORDER BY first_position LIMIT $2
