-- A page of one partition, by position, and no more bytes than asked for: at least one row where there is one. COPY takes no
-- parameters: {from}, {rows} and {bytes} are numbers.
COPY (
    SELECT {columns}
    FROM (
        SELECT page.*, sum(bytes) OVER (ORDER BY position ROWS UNBOUNDED PRECEDING) - bytes AS bytes_before
        FROM (SELECT {columns} FROM {partition} WHERE position >= {from} ORDER BY position LIMIT {rows}) page
    ) counted
    WHERE bytes_before <= {bytes} ORDER BY position
) TO STDOUT (FORMAT binary)
