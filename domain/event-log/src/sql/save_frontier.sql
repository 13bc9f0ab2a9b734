-- Keeps the newest ones and a thinning trail behind them: for each power of two of distance the oldest one, which moves
-- on into the next when it is old enough. A root is then about four times as far to compute as it is far back, at most.
WITH saved AS (
    INSERT INTO coldstream.frontiers (size, peaks) VALUES ($1, $2) ON CONFLICT (size) DO NOTHING
), ranked AS (
    SELECT size, row_number() OVER (ORDER BY size DESC) AS age,
        row_number() OVER (PARTITION BY floor(log(2, greatest($1 - size, 1))) ORDER BY size) AS youth_in_class
    FROM coldstream.frontiers
)
DELETE FROM coldstream.frontiers WHERE size IN (SELECT size FROM ranked WHERE age > 16 AND youth_in_class > 1)
