SELECT rebuild.version, live.fold AS live_fold, rebuild.fold, compared_at, live_rows, live_sha256, beside_rows,
    beside_sha256, differing, first_difference, swapped
FROM projections.rebuilds rebuild JOIN projections.progress live USING (view)
WHERE rebuild.view = $1
