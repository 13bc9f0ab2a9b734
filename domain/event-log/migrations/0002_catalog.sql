-- What the archive and the other region have said: a cache of the bucket, and evidence.

-- The segments in force; they follow each other without a hole from position 1.
CREATE TABLE coldstream.segments (
    first_position  bigint      PRIMARY KEY,
    last_position   bigint      NOT NULL UNIQUE,
    epoch           bigint      NOT NULL,
    sha256          bytea       NOT NULL CHECK (octet_length(sha256) = 32),
    crc32           bigint      NOT NULL,
    bytes           bigint      NOT NULL,
    record_bytes    bigint      NOT NULL,
    index_sha256    bytea       NOT NULL CHECK (octet_length(index_sha256) = 32),
    index_crc32     bigint      NOT NULL,
    index_bytes     bigint      NOT NULL,
    root            bytea       NOT NULL CHECK (octet_length(root) = 32),
    first_at        timestamptz NOT NULL,
    last_at         timestamptz NOT NULL,
    manifest_epoch  bigint      NOT NULL,
    manifest_number bigint      NOT NULL,
    verified_at     timestamptz,
    confirmed_at    timestamptz,
    CHECK (first_position <= last_position)
);

-- The end of the chain of manifests. Whoever accepts one locks this row.
CREATE TABLE coldstream.last_manifest (
    one    boolean PRIMARY KEY DEFAULT true CHECK (one),
    epoch  bigint  NOT NULL,
    number bigint  NOT NULL,
    sha256 bytea   NOT NULL CHECK (octet_length(sha256) = 32)
);

CREATE TABLE coldstream.signed_checkpoints (
    size     bigint  PRIMARY KEY,
    root     bytea   NOT NULL CHECK (octet_length(root) = 32),
    note     text    NOT NULL,
    cosigned boolean NOT NULL
);

-- The tree in its smallest form, at some sizes.
CREATE TABLE coldstream.frontiers (
    size  bigint PRIMARY KEY,
    peaks bytea  NOT NULL
);

-- The newest that was heard of the other region (REP-3): what a forced failover states must survive a restart.
CREATE TABLE coldstream.peer_state (
    one      boolean     PRIMARY KEY DEFAULT true CHECK (one),
    epoch    bigint      NOT NULL,
    head     bigint      NOT NULL,
    role     text        NOT NULL,
    heard_at timestamptz NOT NULL
) WITH (fillfactor = 10);

-- Bearer tokens, as hashes: the database never sees one.
CREATE TABLE coldstream.tokens (
    id         text        COLLATE "C" PRIMARY KEY,
    sha256     bytea       NOT NULL UNIQUE CHECK (octet_length(sha256) = 32),
    role       text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    revoked_at timestamptz
);
