-- Whether the checkpoint of this size, now or before, has this root. A cosigned note is never replaced by one that
-- is not. Of the older ones, the newest sixteen stay, and the newest cosigned one.
WITH saved AS (
    INSERT INTO coldstream.signed_checkpoints AS stored (size, root, note, cosigned) VALUES ($1, $2, $3, $4)
    ON CONFLICT (size) DO UPDATE
        SET note = CASE WHEN stored.root = EXCLUDED.root AND (EXCLUDED.cosigned OR NOT stored.cosigned)
                THEN EXCLUDED.note ELSE stored.note END,
            cosigned = stored.cosigned OR (stored.root = EXCLUDED.root AND EXCLUDED.cosigned)
    RETURNING root
), ranked AS (
    SELECT size, row_number() OVER (ORDER BY size DESC) AS age,
        row_number() OVER (PARTITION BY cosigned ORDER BY size DESC) AS age_of_kind, cosigned
    FROM coldstream.signed_checkpoints
), thinned AS (
    DELETE FROM coldstream.signed_checkpoints
    WHERE size <> $1 AND size IN (SELECT size FROM ranked WHERE age > 16 AND NOT (cosigned AND age_of_kind = 1))
)
SELECT root = $2 FROM saved
