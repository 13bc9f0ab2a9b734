SELECT coldstream.wind_back_catalog($1, $2, $3, $4, $5, $6)
