-- As many as it takes for their objects to be $1 bytes long together. One pass along the index; what is sent is what is read.
SELECT * FROM (
    SELECT *, sum(bytes + index_bytes) OVER (
        ORDER BY verified_at NULLS FIRST, first_position ROWS UNBOUNDED PRECEDING
    ) - bytes - index_bytes AS before
    FROM coldstream.segments
) ordered
WHERE before < $1 ORDER BY verified_at NULLS FIRST, first_position
