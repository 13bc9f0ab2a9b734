-- Without effect on a step that was done before: the answer then says by which text.
INSERT INTO projections.migrations AS done (number, sha256) VALUES ($1, $2)
ON CONFLICT (number) DO UPDATE SET number = EXCLUDED.number
RETURNING done.xmax = 0 AS is_new, done.sha256
