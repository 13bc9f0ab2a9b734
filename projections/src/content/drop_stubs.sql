-- Waits for a recall that holds the stub.
DELETE FROM stubs WHERE id = ANY ($1)
