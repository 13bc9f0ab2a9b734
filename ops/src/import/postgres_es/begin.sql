-- Everything that is read until the COMMIT is of one instant. READ ONLY: the server itself refuses a write. The
-- snapshot lasts as long as the import does, and so do its statements: limits of the role are not meant for them.
BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
SET LOCAL statement_timeout = 0;
SET LOCAL idle_in_transaction_session_timeout = 0;
