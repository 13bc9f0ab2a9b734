SELECT id, name, categories, event_types, stream_prefixes, from_position, lease_seconds, attempts_max,
    retry_first_seconds, retry_max_seconds, unsettled_max, created_at
FROM coldstream.consumer_groups WHERE name = $1
