-- What the service may do (SEC-1): add events, move heads and checkpoints; never change an event, a partition or
-- the log's identity. Partitions get their own grants from make_partitions.
GRANT USAGE ON SCHEMA coldstream TO coldstream_service;
GRANT SELECT ON ALL TABLES IN SCHEMA coldstream TO coldstream_service;
GRANT INSERT ON coldstream.events TO coldstream_service;
GRANT UPDATE (position, recorded_at, epoch, role, simulated_now) ON coldstream.log_head TO coldstream_service;
GRANT UPDATE (first_position) ON coldstream.partitions TO coldstream_service;
GRANT INSERT, UPDATE (version, position, closed) ON coldstream.streams TO coldstream_service;
GRANT INSERT, UPDATE (position) ON coldstream.event_ids TO coldstream_service;
GRANT INSERT, UPDATE (checkpoint, updated_at) ON coldstream.consumers TO coldstream_service;
GRANT INSERT, UPDATE, DELETE ON coldstream.snapshots, coldstream.segments, coldstream.last_manifest,
    coldstream.signed_checkpoints, coldstream.frontiers, coldstream.peer_state TO coldstream_service;
GRANT INSERT, UPDATE (revoked_at) ON coldstream.tokens TO coldstream_service;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA coldstream FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    coldstream.log_now(), coldstream.window_cutoff(), coldstream.make_partitions(timestamptz[]),
    coldstream.detach_partition(timestamptz, bigint, bigint), coldstream.drop_detached(), coldstream.drop_unused(),
    coldstream.forget_pruned_ids(), coldstream.space_of(text), coldstream.rebuild(text)
    TO coldstream_service;
