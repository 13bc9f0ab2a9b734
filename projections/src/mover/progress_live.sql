SELECT consumer.checkpoint, progress.cutoff, progress.leaf, progress.fold
FROM coldstream.consumers consumer JOIN projections.progress progress ON progress.view = consumer.name
WHERE consumer.name = $1
