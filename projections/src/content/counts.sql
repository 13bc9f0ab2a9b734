-- Reads the whole view: for people and reports, not for every request.
SELECT (SELECT count(*) FROM view_content_1.items WHERE state = 'living') AS living,
    (SELECT count(*) FROM view_content_1.items WHERE state <> 'living') AS not_living,
    (SELECT count(*) FROM view_content_1.stubs) AS archived,
    (SELECT count(*) FROM view_content_1.recalled) AS recalled
