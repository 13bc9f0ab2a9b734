SELECT swapped FROM projections.rebuilds WHERE view = $1
