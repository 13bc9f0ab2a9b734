INSERT INTO coldstream.last_manifest (epoch, number, sha256) VALUES ($1, $2, $3)
ON CONFLICT (one) DO UPDATE SET epoch = EXCLUDED.epoch, number = EXCLUDED.number, sha256 = EXCLUDED.sha256
