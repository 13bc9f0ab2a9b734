SELECT live.view, live.version, live.fold, consumer.checkpoint, live.cutoff, stopped_position, stopped_id, stopped_type,
    stopped_reason, rebuild.version AS next_version, rebuild.fold AS next_fold, rebuild.checkpoint AS next_checkpoint,
    rebuild.began_at, compared_at, live_rows, live_sha256, beside_rows, beside_sha256, differing, first_difference,
    swapped
FROM projections.progress live
JOIN coldstream.consumers consumer ON consumer.name = live.view
LEFT JOIN projections.rebuilds rebuild USING (view)
ORDER BY live.view
