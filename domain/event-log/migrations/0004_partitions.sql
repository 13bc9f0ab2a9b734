-- Partitions come and go only through these functions. They run as the owner, with a fixed search path.

-- Now, as the log sees it.
CREATE FUNCTION coldstream.log_now() RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
    SELECT CASE WHEN simulated_now IS NULL THEN clock_timestamp() ELSE greatest(simulated_now, recorded_at) END
    FROM coldstream.log_head
$$;

-- Start of the live window: of the UTC month that holds (now - window).
CREATE FUNCTION coldstream.window_cutoff() RETURNS timestamptz
LANGUAGE sql VOLATILE SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' AS $$
    SELECT date_trunc('month', coldstream.log_now() - make_interval(months => window_months)) FROM coldstream.log_head
$$;

-- Makes the partitions of these months, where they are missing. Each costs three syncs of empty index files, so this is
-- done outside of the groups, by several sessions at once where there are many.
CREATE FUNCTION coldstream.make_partitions(months timestamptz[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp SET timezone = 'UTC' SET datestyle = 'ISO' AS $$
DECLARE
    wanted timestamptz;
    part   text;
    made   timestamptz[] := '{}';
BEGIN
    FOR wanted IN SELECT DISTINCT date_trunc('month', m) FROM unnest(months) AS m ORDER BY 1 LOOP
        -- One maker a month at a time, in the order of the months: no deadlock. Nobody who holds the parent's lock, taken
        -- below, waits for a month's.
        PERFORM pg_advisory_xact_lock(hashtextextended('coldstream.partition', extract(epoch FROM wanted)::bigint));
        CONTINUE WHEN EXISTS (SELECT FROM coldstream.partitions WHERE month = wanted);
        part := 'events_' || to_char(wanted, 'YYYY_MM');
        EXECUTE format('CREATE TABLE coldstream.%I (LIKE coldstream.events INCLUDING CONSTRAINTS)', part);
        EXECUTE format('CREATE UNIQUE INDEX ON coldstream.%I (position)', part);
        EXECUTE format('CREATE UNIQUE INDEX ON coldstream.%I (aggregate_type, aggregate_id, sequence)', part);
        -- TRUNCATE triggers are not cloned.
        EXECUTE format('CREATE TRIGGER events_are_never_truncated BEFORE TRUNCATE ON coldstream.%I
            FOR EACH STATEMENT EXECUTE FUNCTION coldstream.refuse_change()', part);
        EXECUTE format('ALTER TABLE coldstream.%I ENABLE ALWAYS TRIGGER events_are_never_truncated', part);
        EXECUTE format('GRANT SELECT, INSERT ON coldstream.%I TO coldstream_service', part);
        made := made || wanted;
    END LOOP;
    -- CREATE, then ATTACH: PARTITION OF would lock the parent exclusively; ATTACH locks it against other ATTACHes only,
    -- so appends and reads go on. The tables are empty: there is nothing to scan, so they need no CHECK.
    FOREACH wanted IN ARRAY made LOOP
        part := 'events_' || to_char(wanted, 'YYYY_MM');
        EXECUTE format('ALTER TABLE coldstream.events ATTACH PARTITION coldstream.%I FOR VALUES FROM (%L) TO (%L)',
            part, wanted, wanted + interval '1 month');
        INSERT INTO coldstream.partitions (month, name) VALUES (wanted, part);
    END LOOP;
END
$$;

-- Why positions from first_one to last_one may not leave the live log (ARC-2), or NULL. The caller holds the head.
CREATE FUNCTION coldstream.prune_doubt(first_one bigint, last_one bigint) RETURNS text
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    head     coldstream.log_head;
    expected bigint := first_one;
    segment  record;
    behind   record;
BEGIN
    SELECT * INTO STRICT head FROM coldstream.log_head;
    IF head.role = 'read_only' THEN
        RETURN 'this region does not know whether it holds the epoch in force';
    END IF;
    IF first_one <> head.pruned + 1 THEN
        RETURN format('an older partition is still there: position %s is the oldest', head.pruned + 1);
    END IF;
    FOR segment IN
        SELECT * FROM coldstream.segments WHERE last_position >= first_one AND first_position <= last_one
        ORDER BY first_position
    LOOP
        EXIT WHEN segment.first_position > expected;
        IF segment.verified_at IS NULL THEN
            RETURN format('the segment from %s on was not read back here', segment.first_position);
        END IF;
        IF segment.confirmed_at IS NULL AND head.copies > 1 THEN
            RETURN format('the segment from %s on is not confirmed by the other store', segment.first_position);
        END IF;
        expected := segment.last_position + 1;
    END LOOP;
    IF expected <= last_one THEN
        RETURN format('position %s is in no segment in force', expected);
    END IF;
    IF head.copies > 1
        AND NOT EXISTS (SELECT FROM coldstream.signed_checkpoints WHERE cosigned AND size >= last_one) THEN
        RETURN format('no checkpoint that both regions signed covers position %s', last_one);
    END IF;
    SELECT * INTO behind FROM coldstream.consumers WHERE kind = 'projection' AND checkpoint < last_one LIMIT 1;
    IF FOUND THEN
        RETURN format('the projection %s is at %s', behind.name, behind.checkpoint);
    END IF;
    RETURN NULL;
END
$$;

-- Takes a partition out of the live log, or refuses with the doubt. All checks that can be made here are made here
-- again, whatever the caller has proven. Repeating it after success changes nothing.
CREATE FUNCTION coldstream.detach_partition(month_start timestamptz, first_one bigint, last_one bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part   coldstream.partitions;
    counts record;
    doubt  text;
BEGIN
    SELECT * INTO part FROM coldstream.partitions WHERE month = month_start;
    IF NOT FOUND OR part.detached THEN
        RETURN;
    END IF;
    -- The count comes before the lock: it may take seconds, and a month that is over does not change.
    IF month_start + interval '1 month' > coldstream.window_cutoff() THEN
        RAISE EXCEPTION '%: it is inside the live window', part.name USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    EXECUTE format('SELECT count(*) AS rows, min(position) AS first, max(position) AS last FROM coldstream.%I', part.name)
        INTO counts;
    IF (counts.first, counts.last, counts.rows) IS DISTINCT FROM (first_one, last_one, last_one - first_one + 1) THEN
        RAISE EXCEPTION '%: it holds % rows from % to %, not all from % to %', part.name, counts.rows, counts.first,
            counts.last, first_one, last_one USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- The head before the parent, as every appender locks them: no deadlock. The head stays locked for as long as
    -- the catalog changes below take.
    PERFORM FROM coldstream.log_head FOR UPDATE;
    doubt := coldstream.prune_doubt(first_one, last_one);
    IF doubt IS NOT NULL THEN
        RAISE EXCEPTION '%: %', part.name, doubt USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- In one transaction: from its commit on, these positions are read from the archive.
    UPDATE coldstream.log_head SET pruned = last_one;
    UPDATE coldstream.partitions SET detached = true WHERE month = month_start;
    -- A plain DETACH locks the parent exclusively, for a moment. CONCURRENTLY cannot run in a function, and only
    -- the owner may do it; reads by position never touch the parent. lock_timeout bounds the wait for those who do.
    EXECUTE format('ALTER TABLE coldstream.events DETACH PARTITION coldstream.%I', part.name);
END
$$;

-- Drops what was detached. A reader that is still in a table is waited for, up to the time-out; then it is for the
-- next run.
CREATE FUNCTION coldstream.drop_detached() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part    coldstream.partitions;
    dropped integer := 0;
BEGIN
    FOR part IN SELECT * FROM coldstream.partitions WHERE detached ORDER BY month LOOP
        EXECUTE format('DROP TABLE IF EXISTS coldstream.%I', part.name);
        DELETE FROM coldstream.partitions WHERE month = part.month;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

-- Drops partitions of past months that never had an event: made ahead of time, and then nothing happened.
CREATE FUNCTION coldstream.drop_unused() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part    coldstream.partitions;
    dropped integer := 0;
BEGIN
    FOR part IN SELECT * FROM coldstream.partitions WHERE first_position IS NULL AND NOT detached
        AND month < (SELECT date_trunc('month', recorded_at, 'UTC') FROM coldstream.log_head) LOOP
        -- The head keeps appenders away from the parent, which DROP locks exclusively.
        PERFORM FROM coldstream.log_head FOR UPDATE;
        PERFORM FROM coldstream.partitions WHERE month = part.month AND first_position IS NULL FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        EXECUTE format('DROP TABLE coldstream.%I', part.name);
        DELETE FROM coldstream.partitions WHERE month = part.month;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

-- Removes the ids of what is pruned. They mean nothing any more, so this may stop anywhere and run again.
CREATE FUNCTION coldstream.forget_pruned_ids() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    DELETE FROM coldstream.event_ids WHERE position <= (SELECT pruned FROM coldstream.log_head);
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

-- Bytes that a table of this kind takes with its indexes, and about how many it needs: rows with their line pointers,
-- and index entries of key_bytes with their headers in pages that are nine tenths full.
CREATE FUNCTION coldstream.space_of(which text, OUT held bigint, OUT needed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF which = 'event_ids' THEN
        SELECT count(*) * (52 + 20 / 0.9) INTO needed FROM coldstream.event_ids;
    ELSIF which = 'streams' THEN
        SELECT sum((pg_column_size(s.*) + 8) / 0.8 + (pg_column_size(category) + pg_column_size(id) + 16) / 0.9)
            INTO needed FROM coldstream.streams s;
    ELSE
        RAISE EXCEPTION '% is not a table that is rebuilt', which USING ERRCODE = 'invalid_parameter_value';
    END IF;
    needed := coalesce(needed, 0) + 5 * 8192;
    held := pg_total_relation_size(format('coldstream.%I', which)::regclass);
END
$$;

-- Writes a table anew, without the space that pruned or moved rows have left. Holds the head, so that appends wait
-- outside and not in the middle of a group; about a second for 100 MB.
CREATE FUNCTION coldstream.rebuild(which text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
BEGIN
    IF which NOT IN ('event_ids', 'streams') THEN
        RAISE EXCEPTION '% is not a table that is rebuilt', which USING ERRCODE = 'invalid_parameter_value';
    END IF;
    PERFORM FROM coldstream.log_head FOR UPDATE;
    EXECUTE format('CLUSTER coldstream.%I USING %I', which, which || '_pkey');
END
$$;
