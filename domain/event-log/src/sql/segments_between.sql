-- They follow each other, so the ends of the range bound both columns, and either index gives the rest.
SELECT * FROM coldstream.segments WHERE last_position >= $1 AND first_position <= $2 ORDER BY first_position
