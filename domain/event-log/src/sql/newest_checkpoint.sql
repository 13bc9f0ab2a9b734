SELECT size, root, note, cosigned FROM coldstream.signed_checkpoints
WHERE cosigned OR NOT $1 ORDER BY size DESC LIMIT 1
