-- Two acceptors exclude each other; readers go on.
LOCK TABLE coldstream.last_manifest IN SHARE ROW EXCLUSIVE MODE
