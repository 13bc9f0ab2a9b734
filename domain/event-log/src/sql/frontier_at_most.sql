SELECT size, peaks FROM coldstream.frontiers WHERE size <= $1 ORDER BY size DESC LIMIT 1
