-- Reads the whole view: for people and reports, not for every request.
SELECT (SELECT count(*) FROM view_content.items WHERE state = 'living') AS living,
    (SELECT count(*) FROM view_content.items WHERE state <> 'living') AS not_living,
    (SELECT count(*) FROM view_content.stubs) AS archived,
    (SELECT count(*) FROM view_content.recalled) AS recalled
