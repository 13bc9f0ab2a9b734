SELECT position, recorded_at, epoch, role, pruned, log_id, simulated_now IS NOT NULL AS simulated
FROM coldstream.log_head
