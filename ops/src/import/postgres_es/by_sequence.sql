SELECT {columns}, NULL::bigint AS place FROM {events}
ORDER BY sequence, aggregate_type::text COLLATE "C", aggregate_id::text COLLATE "C"
OFFSET $1
