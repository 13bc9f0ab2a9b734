-- Views are rebuilt beside themselves. A view's rows stand in the schema of its name, always; the next version is built
-- in NAME_next, and what it took the place of waits in NAME_old to be dropped. Renaming a schema locks none of its
-- tables: a query finds one version or the other, whole.

-- The view of content, which had its version in its name.
INSERT INTO coldstream.consumers (name, kind, checkpoint)
    SELECT 'view_content', kind, checkpoint FROM coldstream.consumers WHERE name = 'view_content_1';
UPDATE projections.progress SET view = 'view_content' WHERE view = 'view_content_1';
DELETE FROM coldstream.consumers WHERE name = 'view_content_1';
ALTER SCHEMA view_content_1 RENAME TO view_content;
DROP FUNCTION view_content.rebuild();

-- What each view is made of. Only the owner writes here: what stands in `tables` is run as the owner.
CREATE TABLE projections.views (
    name   text    COLLATE "C" PRIMARY KEY CHECK (name ~ '^view_[a-z0-9_]{1,40}$' AND name !~ '_(next|old)$'),
    -- Grows with each change of fold or tables.
    fold   integer NOT NULL CHECK (fold >= 1),
    -- Statements that create the tables, each with a primary key, in the schema that is set when they are run.
    tables text    NOT NULL
);

ALTER TABLE projections.progress
    -- Grows by one with each rebuild.
    ADD COLUMN version          bigint  NOT NULL DEFAULT 1 CHECK (version >= 1),
    -- The fold that the rows were made by.
    ADD COLUMN fold             integer NOT NULL DEFAULT 1 CHECK (fold >= 1),
    -- The event after the checkpoint, if the view cannot fold it, and why.
    ADD COLUMN stopped_position bigint  CHECK (stopped_position >= 1),
    ADD COLUMN stopped_id       text,
    ADD COLUMN stopped_type     text,
    ADD COLUMN stopped_reason   text;
GRANT UPDATE (stopped_position, stopped_id, stopped_type, stopped_reason) ON projections.progress TO coldstream_service;

-- Rebuilds under way, at most one a view. Checkpoint, cutoff and leaf are those of the version beside; they move in
-- the transaction that moves its rows. It is no consumer of the log and holds no pruning back: it reads the archive.
CREATE TABLE projections.rebuilds (
    view             text        COLLATE "C" PRIMARY KEY REFERENCES projections.progress (view),
    version          bigint      NOT NULL,
    fold             integer     NOT NULL,
    began_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    checkpoint       bigint      NOT NULL DEFAULT 0 CHECK (checkpoint >= 0),
    cutoff           timestamptz NOT NULL,
    leaf             bytea       CHECK (octet_length(leaf) = 32),
    -- The last comparison of both versions, at one checkpoint and cutoff; before it, NULL.
    compared_at      bigint      CHECK (compared_at >= 0),
    live_rows        bigint,
    live_sha256      bytea,
    beside_rows      bigint,
    beside_sha256    bytea,
    differing        bigint,
    first_difference text,
    -- Whether it has taken the live one's place: what is left to do is to drop that.
    swapped          boolean     NOT NULL DEFAULT false
);
GRANT SELECT ON projections.views, projections.rebuilds TO coldstream_service;
GRANT UPDATE (checkpoint, cutoff, leaf, compared_at, live_rows, live_sha256, beside_rows, beside_sha256, differing,
    first_difference) ON projections.rebuilds TO coldstream_service;

-- Creates a schema with the tables of a view. For the functions below and the migrations.
CREATE FUNCTION projections.make(new_schema text, statements text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    bare text;
BEGIN
    EXECUTE format('CREATE SCHEMA %I', new_schema);
    PERFORM set_config('search_path', format('%I, pg_temp', new_schema), true);
    EXECUTE statements;
    SELECT relname INTO bare FROM pg_class WHERE relkind = 'r' AND relnamespace = new_schema::regnamespace
        AND NOT EXISTS (SELECT FROM pg_index WHERE indrelid = pg_class.oid AND indisprimary);
    IF FOUND THEN
        RAISE EXCEPTION 'the table % has no primary key: the rows of two versions could not be compared', bare
            USING ERRCODE = 'invalid_table_definition';
    END IF;
    EXECUTE format('GRANT USAGE ON SCHEMA %I TO coldstream_service', new_schema);
    EXECUTE format('GRANT SELECT, INSERT, UPDATE, DELETE ON ALL TABLES IN SCHEMA %I TO coldstream_service', new_schema);
END
$$;

-- Registers a view as a program has it, and creates it if there is none. As a consumer it holds pruning back until it
-- is done with what is pruned.
CREATE FUNCTION projections.install(new_name text, new_fold integer, new_tables text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known projections.views;
BEGIN
    SELECT * INTO known FROM projections.views WHERE name = new_name FOR UPDATE;
    IF known.fold > new_fold THEN
        RETURN; -- A newer program was here.
    END IF;
    IF known.fold = new_fold AND known.tables <> new_tables THEN
        RAISE EXCEPTION 'the tables of % have changed, and fold % has not: it grows with them', new_name, new_fold
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO projections.views (name, fold, tables) VALUES (new_name, new_fold, new_tables)
        ON CONFLICT (name) DO UPDATE SET fold = EXCLUDED.fold, tables = EXCLUDED.tables;
    IF EXISTS (SELECT FROM projections.progress WHERE view = new_name) THEN
        RETURN; -- Its rows are of the fold that they were made by, until it is rebuilt.
    END IF;
    PERFORM projections.make(new_name, new_tables);
    INSERT INTO coldstream.consumers (name, kind, checkpoint) VALUES (new_name, 'projection', 0);
    INSERT INTO projections.progress (view, cutoff, fold) VALUES (new_name, '0001-01-01T00:00:00Z', new_fold);
END
$$;

-- Begins a rebuild: the next version, empty, beside the live one.
CREATE FUNCTION projections.begin_rebuild(of_view text, by_fold integer) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known projections.views;
BEGIN
    SELECT * INTO STRICT known FROM projections.views WHERE name = of_view FOR UPDATE;
    IF known.fold <> by_fold THEN
        RAISE EXCEPTION 'fold % of % is registered, this program has %: run the migrations', known.fold, of_view, by_fold
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    INSERT INTO projections.rebuilds (view, version, fold, cutoff)
        SELECT view, version + 1, by_fold, cutoff FROM projections.progress WHERE view = of_view;
    PERFORM projections.make(of_view || '_next', known.tables);
END
$$;

-- Puts the version beside in the place of the live one, if both stand at the same checkpoint and cutoff and were
-- compared. Readers do not wait: the names change with the commit.
CREATE FUNCTION projections.swap(of_view text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    beside projections.rebuilds;
BEGIN
    -- The live one's checkpoint first, as whoever moves it does: it stands still until the commit.
    PERFORM FROM coldstream.consumers WHERE name = of_view FOR NO KEY UPDATE;
    SELECT * INTO STRICT beside FROM projections.rebuilds WHERE view = of_view FOR UPDATE;
    IF beside.swapped OR beside.compared_at IS NULL OR NOT EXISTS (
        SELECT FROM projections.progress live JOIN coldstream.consumers ON name = live.view
        WHERE live.view = of_view
            AND (checkpoint, cutoff, leaf) IS NOT DISTINCT FROM (beside.checkpoint, beside.cutoff, beside.leaf)
    ) THEN
        RAISE EXCEPTION 'the version beside % was not compared, or stands elsewhere than the live one', of_view
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('ALTER SCHEMA %I RENAME TO %I', of_view, of_view || '_old');
    EXECUTE format('ALTER SCHEMA %I RENAME TO %I', of_view || '_next', of_view);
    UPDATE projections.progress SET version = beside.version, fold = beside.fold, stopped_position = NULL,
        stopped_id = NULL, stopped_type = NULL, stopped_reason = NULL
        WHERE view = of_view;
    UPDATE projections.rebuilds SET swapped = true WHERE view = of_view;
END
$$;

-- Ends a rebuild: drops what the new version has taken the place of, or, if it has not, the new version itself.
-- `expected` says which of both is meant. Queries under way in what is dropped are waited for.
CREATE FUNCTION projections.end_rebuild(of_view text, expected boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    DELETE FROM projections.rebuilds WHERE view = of_view AND swapped = expected;
    IF FOUND THEN
        EXECUTE format('DROP SCHEMA %I CASCADE', of_view || CASE WHEN expected THEN '_old' ELSE '_next' END);
    END IF;
END
$$;

-- Writes the tables of a version anew, without the space that moved rows have left. Queries wait for it, about a second
-- for 100 MB; lock_timeout bounds how long it makes them wait behind a query that does not end.
CREATE FUNCTION projections.compact(of_view text, is_live boolean) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('CLUSTER %s USING %I', indrelid::regclass, indexed.relname)
        FROM projections.views
        JOIN pg_namespace space ON nspname = name || CASE WHEN is_live THEN '' ELSE '_next' END
        JOIN pg_class tables ON tables.relnamespace = space.oid AND tables.relkind = 'r'
        JOIN pg_index ON indrelid = tables.oid AND indisprimary
        JOIN pg_class indexed ON indexed.oid = indexrelid
        WHERE name = of_view
        ORDER BY tables.relname
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- Takes all rows of a view out. Not TRUNCATE, which would wait for every reader and make the next ones wait.
CREATE FUNCTION projections.clear(of_view text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    statement text;
BEGIN
    FOR statement IN
        SELECT format('DELETE FROM %s', oid::regclass) FROM pg_class
        WHERE relkind = 'r' AND relnamespace = of_view::regnamespace
    LOOP
        EXECUTE statement;
    END LOOP;
END
$$;

-- The rows of a table as text, with their keys; of a table that is not there, none.
CREATE FUNCTION projections.rows(of_schema text, of_table text) RETURNS TABLE (key text, content text)
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO'
SET extra_float_digits = 1 AS $$
DECLARE
    columns text;
    source  regclass := to_regclass(format('%I.%I', of_schema, of_table));
BEGIN
    IF source IS NULL THEN
        RETURN;
    END IF;
    SELECT string_agg(format('%I', attname), ', ' ORDER BY place) INTO STRICT columns
    FROM pg_index, unnest(indkey::int2[]) WITH ORDINALITY AS part (number, place)
    JOIN pg_attribute ON attnum = number
    WHERE indrelid = source AND attrelid = source AND indisprimary;
    RETURN QUERY EXECUTE format('SELECT ROW(%s)::text, row_of::text FROM %s AS row_of', columns, source);
END
$$;

REVOKE EXECUTE ON ALL FUNCTIONS IN SCHEMA projections FROM PUBLIC;
GRANT EXECUTE ON FUNCTION projections.begin_rebuild(text, integer), projections.swap(text),
    projections.end_rebuild(text, boolean), projections.compact(text, boolean), projections.clear(text),
    projections.rows(text, text)
    TO coldstream_service;
