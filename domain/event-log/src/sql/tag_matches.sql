-- What the log knows of each item, under the head lock. Tags are separated by spaces, types by line ends: neither holds any.
SELECT i.ord, m.matched, m.unsettled
FROM unnest($1::text[], $2::text[], $3::bigint[]) WITH ORDINALITY AS i (tags, types, after, ord)
    CROSS JOIN LATERAL coldstream.newest_match(
        string_to_array(i.tags, ' '), string_to_array(i.types, E'\n'), i.after, $4, $5, $6
    ) m
