SELECT checkpoint, (extract(epoch FROM cutoff) * 1000000)::bigint AS cutoff, leaf, fold
FROM projections.rebuilds WHERE view = $1 AND NOT swapped
