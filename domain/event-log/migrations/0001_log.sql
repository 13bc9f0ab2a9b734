-- The log: its head, its events, and what must outlive them. Owned by coldstream_owner, which nobody logs in as.
-- Text is compared byte by byte (COLLATE "C"): no index depends on the operating system's locale, which changes.

-- The one row that decides. Whoever appends, applies, prunes or changes the role locks it first, so commit order is
-- position order. Not one column is indexed and the page is nearly empty: every move is a HOT update in place.
CREATE TABLE coldstream.log_head (
    one           boolean     PRIMARY KEY DEFAULT true CHECK (one),
    log_id        text        NOT NULL,
    -- Made with the database and again by whoever restores one: what was cached of another is not believed.
    incarnation   uuid        NOT NULL,
    epoch         bigint      NOT NULL CHECK (epoch >= 1),
    role          text        NOT NULL CHECK (role IN ('active', 'follower', 'draining', 'read_only')),
    position      bigint      NOT NULL CHECK (position >= 0),
    -- Of the newest event; in an empty log the earliest instant that its first event may have.
    recorded_at   timestamptz NOT NULL,
    -- Every position up to here is out of the live log.
    pruned        bigint      NOT NULL DEFAULT 0 CHECK (pruned BETWEEN 0 AND position),
    window_months integer     NOT NULL CHECK (window_months > 0),
    -- How many independent stores must hold what is pruned. 1 only where an operator asked for it by name.
    copies        smallint    NOT NULL CHECK (copies IN (1, 2)),
    -- NULL: real time. Otherwise the log was created with simulated time, and this is now.
    simulated_now timestamptz,
    created_at    timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 10);

-- One row an event, one partition a UTC month of recorded_at. The columns of postgres-es keep their names:
-- (aggregate_type, aggregate_id) is the stream, sequence its version; event_version '' stands for none; metadata
-- holds the extensions. payload is json, not jsonb: it keeps the tokens as they were appended.
CREATE TABLE coldstream.events (
    position          bigint      NOT NULL,
    recorded_at       timestamptz NOT NULL,
    sequence          bigint      NOT NULL,
    -- NULL for the stream's first event (and where the record was removed).
    previous          bigint,
    -- NULL where the record was removed.
    epoch             bigint,
    -- Length of what was appended: lets a read stop at a number of bytes without fetching them.
    bytes             integer     NOT NULL,
    -- 0 absent, 1 JSON, 2 base64 text, 3 removed (payload then says by what).
    data_kind         smallint    NOT NULL,
    -- Which frozen writer makes the row's line.
    record_format     smallint    NOT NULL,
    aggregate_type    text        COLLATE "C" NOT NULL,
    aggregate_id      text        COLLATE "C" NOT NULL,
    event_type        text        COLLATE "C" NOT NULL,
    event_version     text        COLLATE "C" NOT NULL,
    event_id          text        COLLATE "C" NOT NULL,
    source            text        COLLATE "C" NOT NULL,
    time              text        COLLATE "C",
    data_schema       text        COLLATE "C",
    data_content_type text        COLLATE "C",
    metadata          json        NOT NULL,
    payload           json        NOT NULL
) PARTITION BY RANGE (recorded_at);

-- Which partition holds which positions: from first_position to just before the next one's. So a read by position
-- or of a stream names the partitions it needs and never touches the others.
CREATE TABLE coldstream.partitions (
    month          timestamptz PRIMARY KEY,
    name           text        COLLATE "C" NOT NULL UNIQUE,
    -- NULL until its first event is there.
    first_position bigint      UNIQUE,
    -- Out of the live log, waits for its drop.
    detached       boolean     NOT NULL DEFAULT false
);

-- Where each stream ends, for ever: a stream whose rows are all pruned must never start again at 1 (LOG-3).
-- Only columns without an index change, and pages keep room: updates stay in place.
CREATE TABLE coldstream.streams (
    category       text    COLLATE "C" NOT NULL,
    id             text    COLLATE "C" NOT NULL,
    version        bigint  NOT NULL CHECK (version >= 1),
    position       bigint  NOT NULL,
    first_position bigint  NOT NULL,
    closed         boolean NOT NULL,
    PRIMARY KEY (category, id)
) WITH (fillfactor = 80);

-- The ids of the live window: first 16 bytes of SHA-256(source, 0x00, id). A row whose position is pruned means
-- nothing any more; pruning moves the head first and removes such rows later.
CREATE TABLE coldstream.event_ids (
    id_hash  uuid   PRIMARY KEY,
    position bigint NOT NULL
);

-- How far each named consumer is. A projection holds pruning back until it is done; an importer does not: its
-- checkpoint counts lines of its own source.
CREATE TABLE coldstream.consumers (
    name       text        COLLATE "C" PRIMARY KEY,
    kind       text        NOT NULL CHECK (kind IN ('projection', 'importer')),
    checkpoint bigint      NOT NULL CHECK (checkpoint >= 0),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 50);

-- As postgres-es wants it.
CREATE TABLE coldstream.snapshots (
    aggregate_type   text   COLLATE "C" NOT NULL,
    aggregate_id     text   COLLATE "C" NOT NULL,
    last_sequence    bigint NOT NULL CHECK (last_sequence >= 0),
    current_snapshot bigint NOT NULL CHECK (current_snapshot >= 0),
    payload          json   NOT NULL,
    PRIMARY KEY (aggregate_type, aggregate_id, last_sequence)
);
