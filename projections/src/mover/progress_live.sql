SELECT consumer.checkpoint, (extract(epoch FROM progress.cutoff) * 1000000)::bigint AS cutoff, progress.leaf,
    progress.fold
FROM coldstream.consumers consumer JOIN projections.progress progress ON progress.view = consumer.name
WHERE consumer.name = $1
