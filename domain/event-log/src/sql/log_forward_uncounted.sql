-- A page of one partition, by position, whatever its bytes: whoever takes the rows counts them.
SELECT {columns} FROM {partition} WHERE position >= $1 ORDER BY position LIMIT $2
