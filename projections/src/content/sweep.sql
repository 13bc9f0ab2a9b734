-- Reads all items, once a month; readers do not wait. What was recalled goes with it: recall lasts until here.
WITH recalled AS (
    DELETE FROM recalled
), gone AS (
    DELETE FROM items WHERE changed_at < $1
    RETURNING id, state, created_time, created_at, revisions, version, position, changed_at
)
INSERT INTO stubs (id, state, created_time, created_at, revisions, version, position, changed_at)
SELECT id, state, created_time, created_at, revisions, version, position, changed_at FROM gone
