DELETE FROM view_content_1.recalled WHERE id = ANY ($1)
