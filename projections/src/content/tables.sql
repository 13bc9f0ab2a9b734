-- No index but the primary keys: updates stay in place, and the sweep, once a month, reads the whole table anyway.

-- Content items whose last change is inside the live window.
CREATE TABLE items (
    id           text        COLLATE "C" PRIMARY KEY,
    state        text        NOT NULL CHECK (state IN ('living', 'deleted', 'closed', 'unknown')),
    -- The newest content.created: time as its source gave it, and when the log recorded it.
    created_time text,
    created_at   timestamptz,
    -- How often the item was revised since then.
    revisions    bigint      NOT NULL CHECK (revisions >= 0),
    -- The last change: its place in the stream and in the log.
    version      bigint      NOT NULL CHECK (version >= 1),
    position     bigint      NOT NULL CHECK (position >= 1),
    changed_time text,
    changed_at   timestamptz NOT NULL,
    author       text,
    change       text,
    oid          text,
    mode         text,
    size         bigint      CHECK (size >= 0)
) WITH (fillfactor = 85);

-- What is left of an item whose last change is older: enough to fold its next change without the archive, and
-- nothing of its content.
CREATE TABLE stubs (
    id           text        COLLATE "C" PRIMARY KEY,
    state        text        NOT NULL CHECK (state IN ('living', 'deleted', 'closed', 'unknown')),
    created_time text,
    created_at   timestamptz,
    revisions    bigint      NOT NULL CHECK (revisions >= 0),
    version      bigint      NOT NULL CHECK (version >= 1),
    position     bigint      NOT NULL CHECK (position >= 1),
    changed_at   timestamptz NOT NULL
);

-- Archived items that were asked for, until the next sweep or rebuild. The stub stays: items and stubs alone are the
-- fold.
CREATE TABLE recalled (LIKE items INCLUDING ALL);
