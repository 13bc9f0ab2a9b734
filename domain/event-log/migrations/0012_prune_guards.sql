-- Pruning while the head is in the month that is pruned, as after an import of old events: nothing may be appended to a
-- partition between the moment at which it is counted and its end.

CREATE OR REPLACE FUNCTION coldstream.detach_partition(month_start timestamptz, first_one bigint, last_one bigint) RETURNS void
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
    -- The count comes before the lock: it may take seconds. What is appended meanwhile is seen below.
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
    EXECUTE format('SELECT max(position) AS last FROM coldstream.%I', part.name) INTO counts;
    IF counts.last IS DISTINCT FROM last_one THEN
        RAISE EXCEPTION '%: events up to % were appended to it meanwhile', part.name, counts.last
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
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
    -- Whoever still knows the table by its name is refused.
    EXECUTE format('REVOKE INSERT ON coldstream.%I FROM coldstream_service', part.name);
END
$$;

CREATE OR REPLACE FUNCTION coldstream.drop_detached() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part    coldstream.partitions;
    dropped integer := 0;
    newest  bigint;
BEGIN
    FOR part IN SELECT * FROM coldstream.partitions WHERE detached ORDER BY month LOOP
        IF to_regclass(format('coldstream.%I', part.name)) IS NOT NULL THEN
            EXECUTE format('SELECT max(position) FROM coldstream.%I', part.name) INTO newest;
            IF newest > (SELECT pruned FROM coldstream.log_head) THEN
                RAISE EXCEPTION '%: it is detached and holds position %, which is not pruned', part.name, newest
                    USING ERRCODE = 'object_not_in_prerequisite_state';
            END IF;
        END IF;
        EXECUTE format('DROP TABLE IF EXISTS coldstream.%I', part.name);
        DELETE FROM coldstream.partitions WHERE month = part.month;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;

-- Drops partitions of past months that never had an event: made ahead of time, and then nothing happened.
CREATE OR REPLACE FUNCTION coldstream.drop_unused() RETURNS integer
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    part    coldstream.partitions;
    dropped integer := 0;
    newest  bigint;
BEGIN
    FOR part IN SELECT * FROM coldstream.partitions WHERE first_position IS NULL AND NOT detached
        AND month < (SELECT date_trunc('month', recorded_at, 'UTC') FROM coldstream.log_head) LOOP
        -- The head keeps appenders away from the parent, which DROP locks exclusively.
        PERFORM FROM coldstream.log_head FOR UPDATE;
        PERFORM FROM coldstream.partitions WHERE month = part.month AND first_position IS NULL FOR UPDATE;
        CONTINUE WHEN NOT FOUND;
        EXECUTE format('SELECT max(position) FROM coldstream.%I', part.name) INTO newest;
        IF newest IS NOT NULL THEN
            RAISE EXCEPTION '%: it is said to have no events and holds position %', part.name, newest
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
        EXECUTE format('DROP TABLE coldstream.%I', part.name);
        DELETE FROM coldstream.partitions WHERE month = part.month;
        dropped := dropped + 1;
    END LOOP;
    RETURN dropped;
END
$$;
