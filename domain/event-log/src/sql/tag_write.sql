-- What conditions are looked up by: heads of types, and the tags of a group's events.
WITH types AS (
    INSERT INTO coldstream.type_heads AS known (event_type, position) SELECT * FROM unnest($1::text[], $2::bigint[])
    ON CONFLICT (event_type) DO UPDATE SET position = EXCLUDED.position WHERE known.position < EXCLUDED.position
)
INSERT INTO coldstream.event_tags (tag, event_type, position) SELECT * FROM unnest($3::text[], $4::text[], $5::bigint[])
