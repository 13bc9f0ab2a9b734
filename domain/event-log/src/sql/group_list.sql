-- Takes the group's row lock, waits for whoever has it, and then looks whether the log was listed meanwhile: the second of
-- two that found the same stores nothing. Both parts are one statement, so there is never one without the other.
WITH moved AS (
    UPDATE coldstream.consumer_groups SET listed_to = $3, updated_at = statement_timestamp()
    WHERE id = $1 AND listed_to = $2 AND $3 >= $2
    RETURNING id
), listed AS (
    INSERT INTO coldstream.group_events (group_id, position, category, stream_id, state, due_at, listed_at)
    SELECT moved.id, n.position, n.category, n.stream_id, 'ready', statement_timestamp(), statement_timestamp()
    FROM moved, unnest($4::bigint[], $5::text[], $6::text[]) AS n (position, category, stream_id)
)
SELECT EXISTS (SELECT FROM moved) AS stored, EXISTS (SELECT FROM coldstream.consumer_groups WHERE id = $1) AS known
