UPDATE projections.rebuilds SET checkpoint = $2, cutoff = $3, leaf = $4 WHERE view = $1
