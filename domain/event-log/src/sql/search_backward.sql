-- The rows of positions $1 to $2 that match, of one partition, no more of them and no more of their bytes than asked for;
-- and the last row that is looked at. Whether a row matches is asked below the window: so every row is counted, which shows
-- a hole also where nothing matches, and no other index than that of the positions can be chosen, which bounds the work.
SELECT {columns}, matches, looked_at
FROM (
    SELECT page.*, count(*) OVER so_far AS looked_at, sum(matching) OVER so_far - matching AS bytes_before
    FROM (
        SELECT asked.*, CASE WHEN matches THEN bytes ELSE 0 END AS matching
        FROM (SELECT {columns}, {matches} AS matches FROM {partition} WHERE position BETWEEN $1 AND $2) asked
    ) page
    WINDOW so_far AS (ORDER BY position DESC ROWS UNBOUNDED PRECEDING)
) counted
WHERE (matches OR position = $1) AND bytes_before <= $4 ORDER BY position DESC LIMIT $3
