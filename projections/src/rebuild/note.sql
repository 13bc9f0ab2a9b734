UPDATE projections.rebuilds SET compared_at = $2, live_rows = $3, live_sha256 = $4, beside_rows = $5,
    beside_sha256 = $6, differing = $7, first_difference = $8
WHERE view = $1
