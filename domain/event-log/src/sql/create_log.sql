WITH created AS (
    INSERT INTO coldstream.log_head
        (log_id, incarnation, epoch, role, position, recorded_at, window_months, copies, simulated_now)
    VALUES ($1, $2, $3, $4, 0, $5, $6, $7, $8)
    ON CONFLICT (one) DO NOTHING
    RETURNING log_id
)
SELECT log_id, true AS is_new FROM created
UNION ALL
SELECT log_id, false FROM coldstream.log_head
LIMIT 1
