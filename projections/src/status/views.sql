SELECT live.view, live.version, live.fold, consumer.checkpoint,
    (extract(epoch FROM live.cutoff) * 1000000)::bigint AS cutoff, stopped_position, stopped_id, stopped_type,
    stopped_reason, rebuild.version AS next_version, rebuild.fold AS next_fold, rebuild.checkpoint AS next_checkpoint,
    (extract(epoch FROM rebuild.began_at) * 1000000)::bigint AS began_at, compared_at, live_rows, live_sha256,
    beside_rows, beside_sha256, differing, first_difference, swapped
FROM projections.progress live
JOIN coldstream.consumers consumer ON consumer.name = live.view
LEFT JOIN projections.rebuilds rebuild USING (view)
ORDER BY live.view
