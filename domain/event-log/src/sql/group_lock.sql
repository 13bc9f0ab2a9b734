-- Takes of a group follow each other: each holds the group's row lock until it commits. Settlements do not need it, for they
-- only change what is under their own lease.
SELECT 1 AS one FROM coldstream.consumer_groups WHERE id = $1 FOR NO KEY UPDATE
