-- Waits for the row lock of the append under way; the conditions are then checked against the row it leaves.
UPDATE coldstream.log_head SET epoch = $3, role = $4
WHERE epoch = $1 AND role = $2 AND $3 >= $1
