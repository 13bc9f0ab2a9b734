-- A stream's events stay in its order also where its times go back: an event's place is the latest time up to it.
SELECT * FROM (
    SELECT {columns},
        max({time}) OVER (PARTITION BY aggregate_type, aggregate_id ORDER BY sequence) AS place
    FROM {events}
) AS placed
ORDER BY place, aggregate_type COLLATE "C", aggregate_id COLLATE "C", sequence
OFFSET $1
