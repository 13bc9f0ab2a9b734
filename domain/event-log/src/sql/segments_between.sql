-- The segments follow each other, so the one that holds $1 is the last that begins there or before: from it on, one range
-- of the primary key, however long the catalog is.
SELECT * FROM coldstream.segments
WHERE first_position BETWEEN
        (SELECT coalesce(max(first_position), 0) FROM coldstream.segments WHERE first_position <= $1) AND $2
    AND last_position >= $1
ORDER BY first_position
