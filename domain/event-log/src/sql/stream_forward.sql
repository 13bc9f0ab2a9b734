-- A page of a stream from one partition, by version, and no more bytes than asked for.
SELECT {columns}
FROM (
    SELECT page.*, sum(bytes) OVER (ORDER BY sequence ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
    FROM (
        SELECT {columns} FROM {partition}
        WHERE aggregate_type = $4 AND aggregate_id = $5 AND sequence >= $1
        ORDER BY sequence LIMIT $2
    ) page
) counted
WHERE bytes_before <= $3 ORDER BY sequence
