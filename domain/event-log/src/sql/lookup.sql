-- All that a group needs to know, in one round trip. Ids of pruned positions mean nothing any more, unless they are kept.
SELECT 0::smallint AS what, w.ord, s.version, s.position, s.first_position, s.closed
FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (category, id, ord)
    JOIN coldstream.streams s ON s.category = w.category AND s.id = w.id
UNION ALL
SELECT 1::smallint, w.ord, NULL, e.position, NULL, NULL
FROM unnest($3::uuid[]) WITH ORDINALITY AS w (id_hash, ord)
    JOIN coldstream.event_ids e ON e.id_hash = w.id_hash
WHERE e.position > $4 OR e.kept
UNION ALL
SELECT 2::smallint, w.ord, NULL, c.checkpoint, NULL, NULL
FROM unnest($5::text[]) WITH ORDINALITY AS w (name, ord)
    JOIN coldstream.consumers c ON c.name = w.name
