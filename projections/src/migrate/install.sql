SELECT projections.install($1, $2, $3)
