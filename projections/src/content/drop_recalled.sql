DELETE FROM recalled WHERE id = ANY ($1)
