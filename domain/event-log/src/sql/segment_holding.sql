SELECT * FROM (
    SELECT * FROM coldstream.segments WHERE first_position <= $1 ORDER BY first_position DESC LIMIT 1
) below
WHERE last_position >= $1
