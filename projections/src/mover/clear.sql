SELECT projections.clear($1)
