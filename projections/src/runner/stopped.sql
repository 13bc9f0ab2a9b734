-- Only while the view still stands before the event: another process may have got past it.
UPDATE projections.progress SET stopped_position = $2, stopped_id = $3, stopped_type = $4, stopped_reason = $5
WHERE view = $1 AND (stopped_position, stopped_reason) IS DISTINCT FROM ($2, $5)
    AND EXISTS (SELECT FROM coldstream.consumers WHERE name = $1 AND checkpoint = $2 - 1)
