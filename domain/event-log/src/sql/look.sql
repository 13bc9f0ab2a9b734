-- The head and all that a group needs to know, as one snapshot sees them: what is decided on it holds for as long as the
-- head is the same. Ids of pruned positions mean nothing any more, unless they are kept.
SELECT
    h.position AS head, h.epoch, h.role, h.pruned, h.log_id, h.incarnation,
    (extract(epoch FROM h.recorded_at) * 1000000)::bigint AS recorded_micros,
    (extract(epoch FROM h.simulated_now) * 1000000)::bigint AS simulated_micros,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS database_micros,
    f.what, f.ord, f.version, f.position, f.first_position, f.closed
FROM coldstream.log_head h LEFT JOIN LATERAL (
    SELECT 0::smallint AS what, w.ord, s.version, s.position, s.first_position, s.closed
    FROM unnest($1::text[], $2::text[]) WITH ORDINALITY AS w (category, id, ord)
        JOIN coldstream.streams s ON s.category = w.category AND s.id = w.id
    UNION ALL
    SELECT 1::smallint, w.ord, NULL, e.position, NULL, NULL
    FROM unnest($3::uuid[]) WITH ORDINALITY AS w (id_hash, ord)
        JOIN coldstream.event_ids e ON e.id_hash = w.id_hash
    WHERE e.position > h.pruned OR e.kept
) f ON true
