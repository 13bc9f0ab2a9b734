-- Waits for a recall that holds the stub.
DELETE FROM view_content_1.stubs WHERE id = ANY ($1)
