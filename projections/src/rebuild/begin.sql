SELECT projections.begin_rebuild($1, $2)
