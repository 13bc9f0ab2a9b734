-- Named consumer groups (GRP-1): which events of a group are handed out, wait or are parked. Whatever it wants up to
-- listed_to and has no row in group_events is settled.

CREATE TABLE coldstream.consumer_groups (
    -- Never used twice: what was kept for a group that was removed is never taken for one of the same name.
    id                  bigint  GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    name                text    COLLATE "C" NOT NULL UNIQUE CHECK (name ~ '^[a-z0-9_-]{1,64}$'),
    -- Which events it wants; an empty array asks about nothing.
    categories          text[]  NOT NULL,
    event_types         text[]  NOT NULL,
    stream_prefixes     text[]  NOT NULL,
    -- The first position that it wants; NULL: it began after the head that there was.
    from_position       bigint  CHECK (from_position > 0),
    lease_seconds       integer NOT NULL CHECK (lease_seconds > 0),
    attempts_max        integer NOT NULL CHECK (attempts_max > 0),
    retry_first_seconds integer NOT NULL CHECK (retry_first_seconds >= 0),
    retry_max_seconds   integer NOT NULL CHECK (retry_max_seconds >= retry_first_seconds),
    unsettled_max       integer NOT NULL CHECK (unsettled_max > 0),
    -- Up to here the log was looked through. It moves with the rows of what was found, in one statement.
    listed_to           bigint  NOT NULL CHECK (listed_to >= 0),
    -- Attempts that ended because their lease ran out.
    lapses              bigint  NOT NULL DEFAULT 0,
    created_at          timestamptz NOT NULL DEFAULT statement_timestamp(),
    updated_at          timestamptz NOT NULL DEFAULT statement_timestamp()
) WITH (fillfactor = 50);

-- Numbers of leases, for all groups: a sequence gives none twice, also after a crash.
CREATE SEQUENCE coldstream.group_leases AS bigint;

CREATE TABLE coldstream.group_events (
    group_id   bigint  NOT NULL REFERENCES coldstream.consumer_groups ON DELETE CASCADE,
    position   bigint  NOT NULL CHECK (position > 0),
    -- Its stream.
    category   text    COLLATE "C" NOT NULL,
    stream_id  text    COLLATE "C" NOT NULL,
    state      text    COLLATE "C" NOT NULL CHECK (state IN ('ready', 'leased', 'waiting', 'parked')),
    -- Failed attempts; replaying begins anew.
    attempts   integer NOT NULL DEFAULT 0,
    replayed   boolean NOT NULL DEFAULT false,
    lease      bigint,
    consumer   text    NOT NULL DEFAULT '',
    -- leased: when the lease runs out; waiting: when it is ready; parked and ready: since when.
    due_at     timestamptz NOT NULL,
    listed_at  timestamptz NOT NULL,
    reason     text    NOT NULL DEFAULT '',
    PRIMARY KEY (group_id, position),
    CHECK ((state = 'leased') = (lease IS NOT NULL))
    -- Rows live for seconds. What is dead is passed over by each take until it is vacuumed, so that is done early.
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 10000);

-- What can be taken, lowest positions first.
CREATE INDEX group_events_ready ON coldstream.group_events (group_id, position) WHERE state = 'ready';
-- What is due next.
CREATE INDEX group_events_due ON coldstream.group_events (group_id, due_at) WHERE state IN ('leased', 'waiting');
-- What holds its stream back. Its condition is spelled in another way than that of what is due, so that who looks for a
-- stream is never led through all that is due: without statistics both indexes look alike.
CREATE INDEX group_events_holding ON coldstream.group_events (group_id, category, stream_id, position)
    WHERE state <> 'ready' AND state <> 'parked';
CREATE INDEX group_events_parked ON coldstream.group_events (group_id, position) WHERE state = 'parked';

GRANT SELECT, INSERT, DELETE, UPDATE (listed_to, lapses, updated_at) ON coldstream.consumer_groups TO coldstream_service;
GRANT SELECT, INSERT, DELETE,
    UPDATE (state, attempts, replayed, lease, consumer, due_at, listed_at, reason)
    ON coldstream.group_events TO coldstream_service;
GRANT USAGE ON SEQUENCE coldstream.group_leases TO coldstream_service;
