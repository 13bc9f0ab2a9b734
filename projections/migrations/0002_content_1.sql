-- The view "content now", version 1. A later version gets a schema of its own, beside this one.
-- No index but the primary keys: updates stay in place, and the sweep, once a month, reads the whole table anyway.
CREATE SCHEMA view_content_1;

-- Content items whose last change is inside the live window.
CREATE TABLE view_content_1.items (
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
CREATE TABLE view_content_1.stubs (
    id           text        COLLATE "C" PRIMARY KEY,
    state        text        NOT NULL CHECK (state IN ('living', 'deleted', 'closed', 'unknown')),
    created_time text,
    created_at   timestamptz,
    revisions    bigint      NOT NULL CHECK (revisions >= 0),
    version      bigint      NOT NULL CHECK (version >= 1),
    position     bigint      NOT NULL CHECK (position >= 1),
    changed_at   timestamptz NOT NULL
);

-- Archived items that were asked for, until the next sweep. The stub stays: items and stubs alone are the fold.
CREATE TABLE view_content_1.recalled (LIKE view_content_1.items INCLUDING ALL);

GRANT USAGE ON SCHEMA view_content_1 TO coldstream_service;
GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA view_content_1 TO coldstream_service;

-- Writes the tables anew, without the space that moved rows have left. Queries wait for it, about a second for
-- 100 MB, once a month; lock_timeout bounds how long it makes them wait behind a query that does not end.
CREATE FUNCTION view_content_1.rebuild() RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    CLUSTER view_content_1.items USING items_pkey;
    CLUSTER view_content_1.stubs USING stubs_pkey;
    CLUSTER view_content_1.recalled USING recalled_pkey;
END
$$;
REVOKE EXECUTE ON FUNCTION view_content_1.rebuild() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION view_content_1.rebuild() TO coldstream_service;

-- As a consumer the view holds pruning back until it is done with what is pruned.
INSERT INTO coldstream.consumers (name, kind, checkpoint) VALUES ('view_content_1', 'projection', 0);
INSERT INTO projections.progress (view, cutoff) VALUES ('view_content_1', '0001-01-01T00:00:00Z');
