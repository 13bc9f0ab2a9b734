SELECT {columns} FROM {events}
ORDER BY aggregate_type::text COLLATE "C", aggregate_id::text COLLATE "C", sequence
