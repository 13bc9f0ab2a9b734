-- One snapshot: the head, what is pruned, and which partition begins where.
SELECT h.position, h.pruned, p.month, p.name, p.first_position
FROM coldstream.log_head h LEFT JOIN coldstream.partitions p ON NOT p.detached
ORDER BY p.month
