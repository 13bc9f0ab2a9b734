SELECT checkpoint, cutoff, leaf, fold FROM projections.rebuilds WHERE view = $1 AND NOT swapped
