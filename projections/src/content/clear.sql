-- Not TRUNCATE, which would wait for every reader and make the next ones wait.
WITH items AS (
    DELETE FROM view_content_1.items
), recalled AS (
    DELETE FROM view_content_1.recalled
)
DELETE FROM view_content_1.stubs
