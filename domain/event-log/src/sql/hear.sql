-- What the other region once acknowledged does not become less because it now says so.
INSERT INTO coldstream.peer_state AS kept (epoch, head, role, heard_at) VALUES ($1, $2, $3, $4)
ON CONFLICT (one) DO UPDATE
    SET epoch = EXCLUDED.epoch, head = EXCLUDED.head, role = EXCLUDED.role, heard_at = EXCLUDED.heard_at
    WHERE (EXCLUDED.epoch, EXCLUDED.head) >= (kept.epoch, kept.head)
