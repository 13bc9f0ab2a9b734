-- What must be zero in a sound log, counted on the rows, independent of the code that wrote them.
WITH head AS (SELECT position, pruned FROM coldstream.log_head),
walked AS (
    SELECT position, sequence, previous, recorded_at,
        lag(position) OVER (ORDER BY position) AS position_before,
        lag(recorded_at) OVER (ORDER BY position) AS recorded_before,
        lag(sequence) OVER stream AS version_before,
        lag(position) OVER stream AS stream_position_before
    FROM coldstream.events
    WINDOW stream AS (PARTITION BY aggregate_type, aggregate_id ORDER BY sequence)
),
newest AS (
    SELECT aggregate_type, aggregate_id, max(e.sequence) AS version, max(e.position) AS position
    FROM coldstream.events e GROUP BY aggregate_type, aggregate_id
)
SELECT
    (SELECT position FROM head) AS head,
    coalesce((SELECT max(position) FROM coldstream.events), (SELECT pruned FROM head)) AS newest,
    (SELECT count(*) FROM walked w, head WHERE w.position <> coalesce(w.position_before, head.pruned) + 1) AS positions_missing,
    (SELECT count(*) FROM walked WHERE version_before IS NOT NULL AND sequence <> version_before + 1
        OR version_before IS NULL AND sequence <> 1 AND coalesce(previous, 0) > (SELECT pruned FROM head))
        AS versions_missing,
    (SELECT count(*) FROM walked WHERE stream_position_before IS NOT NULL AND previous IS DISTINCT FROM stream_position_before
        OR sequence = 1 AND previous IS NOT NULL) AS back_links_wrong,
    (SELECT count(*) FROM walked WHERE recorded_at < recorded_before) AS went_back,
    (SELECT count(*) FROM (SELECT 1 FROM coldstream.events GROUP BY source, event_id HAVING count(*) > 1) twice)
        AS ids_twice,
    (SELECT count(*) FROM coldstream.events e WHERE NOT EXISTS (
        SELECT FROM coldstream.event_ids i WHERE i.position = e.position
            AND i.id_hash = encode(substring(sha256(
                convert_to(e.source, 'UTF8') || '\x00'::bytea || convert_to(e.event_id, 'UTF8')) FOR 16), 'hex')::uuid
    )) AS ids_missing,
    (SELECT count(*) FROM newest n LEFT JOIN coldstream.streams s ON s.category = n.aggregate_type
        AND s.id = n.aggregate_id WHERE (s.version, s.position) IS DISTINCT FROM (n.version, n.position)) AS heads_wrong,
    (SELECT count(*) FROM coldstream.partitions p WHERE NOT p.detached AND p.first_position IS DISTINCT FROM
        (SELECT min(position) FROM coldstream.events e
            WHERE e.recorded_at >= p.month AND e.recorded_at < p.month + interval '1 month')) AS partitions_wrong,
    (SELECT count(*) FROM (
            SELECT t.tag, e.event_type, e.position
            FROM coldstream.events e CROSS JOIN LATERAL regexp_split_to_table(e.metadata ->> 'tags', ' +') AS t (tag)
            WHERE t.tag <> '' GROUP BY 1, 2, 3
        ) said FULL JOIN (SELECT * FROM coldstream.event_tags WHERE position > (SELECT pruned FROM head)) noted
            USING (tag, event_type, position) WHERE said.tag IS NULL OR noted.tag IS NULL) AS tags_wrong,
    (SELECT count(*) FROM (SELECT event_type, max(position) AS position FROM coldstream.events WHERE data_kind <> 3
            GROUP BY event_type) last
        LEFT JOIN coldstream.type_heads h USING (event_type)
        WHERE h.position IS NULL OR last.position NOT BETWEEN h.position AND h.position + 4096) AS types_wrong
