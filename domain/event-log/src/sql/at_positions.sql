SELECT {columns} FROM {partition} WHERE position = ANY ($1) ORDER BY position
