-- One round trip opens the transaction and takes the row lock that orders all writers; it lasts until COMMIT. Sent
-- without binary results: instants travel as microseconds.
BEGIN;
SELECT
    position AS head, epoch, role, pruned, log_id, incarnation,
    (extract(epoch FROM recorded_at) * 1000000)::bigint AS recorded_micros,
    (extract(epoch FROM simulated_now) * 1000000)::bigint AS simulated_micros,
    (extract(epoch FROM clock_timestamp()) * 1000000)::bigint AS database_micros
FROM coldstream.log_head FOR UPDATE
