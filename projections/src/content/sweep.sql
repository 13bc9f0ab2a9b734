-- Reads all items, once a month; readers do not wait. What was recalled goes with it: recall lasts until here.
WITH recalled AS (
    DELETE FROM view_content_1.recalled
), gone AS (
    DELETE FROM view_content_1.items WHERE changed_at < $1::text::timestamptz
    RETURNING id, state, created_time, created_at, revisions, version, position, changed_at
)
INSERT INTO view_content_1.stubs (id, state, created_time, created_at, revisions, version, position, changed_at)
SELECT id, state, created_time, created_at, revisions, version, position, changed_at FROM gone
