-- A page of one partition, by position, and no more bytes than asked for: at least one row where there is one.
SELECT {columns}
FROM (
    SELECT page.*, sum(bytes) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
    FROM (SELECT {columns} FROM {partition} WHERE position >= $1 ORDER BY position LIMIT $2) page
) counted
WHERE bytes_before <= $3 ORDER BY position
