-- Conditions over types and tags: where events of a tag and of a type stand. An event without tags adds nothing here but,
-- now and then, the head of its type.

-- One row for each tag of an event: the words of its extension `tags`. Of pruned events the newest one per tag and type
-- stays for ever, as streams do: a condition may name an older position.
CREATE TABLE coldstream.event_tags (
    tag        text   COLLATE "C" NOT NULL,
    event_type text   COLLATE "C" NOT NULL,
    position   bigint NOT NULL,
    PRIMARY KEY (tag, event_type, position)
);

-- Where each type was seen last, or up to a bounded number of positions before that: it is written rarely, because the
-- rest can be looked up by position. A type that is missing has never had an event.
CREATE TABLE coldstream.type_heads (
    event_type text   COLLATE "C" PRIMARY KEY,
    position   bigint NOT NULL
) WITH (fillfactor = 50);

CREATE TABLE coldstream.tags_state (
    one     boolean PRIMARY KEY DEFAULT true CHECK (one),
    -- Of events up to here types and tags are not known: they were pruned before these tables were made.
    since   bigint  NOT NULL,
    -- Of pruned events up to here only the newest per tag and type are left.
    thinned bigint  NOT NULL
);

-- Nobody appends while the events that there are get their rows.
LOCK TABLE coldstream.log_head IN EXCLUSIVE MODE;
INSERT INTO coldstream.tags_state (since, thinned)
    SELECT coalesce(max(pruned), 0), coalesce(max(pruned), 0) FROM coldstream.log_head;
INSERT INTO coldstream.event_tags (tag, event_type, position)
    SELECT DISTINCT t.tag, e.event_type, e.position
    FROM coldstream.events e CROSS JOIN LATERAL string_to_table(e.metadata ->> 'tags', ' ') AS t (tag)
    WHERE e.metadata::text LIKE '%"tags":%' AND e.data_kind <> 3 AND t.tag <> '';
INSERT INTO coldstream.type_heads (event_type, position)
    SELECT event_type, max(position) FROM coldstream.events WHERE data_kind <> 3 GROUP BY event_type;

CREATE TRIGGER a_type_never_goes_back BEFORE UPDATE ON coldstream.type_heads
    FOR EACH ROW WHEN (NEW.position < OLD.position OR NEW.event_type <> OLD.event_type)
    EXECUTE FUNCTION coldstream.refuse_going_back();
CREATE TRIGGER a_type_is_never_deleted BEFORE DELETE ON coldstream.type_heads
    FOR EACH ROW EXECUTE FUNCTION coldstream.refuse_going_back();

-- The newest event after `after` that has all of `tags` and whose type is one of `types` (none: any).
--
-- From the end of the log downwards: no event above the lowest of the tags' newest positions has all of them, so the next
-- step begins there. Of events up to `pruned` only the newest per tag and type are left; those bound what there was.
CREATE FUNCTION coldstream.newest_tagged(
    tags text[], types text[], after bigint, head bigint, pruned bigint, OUT matched bigint, OUT unsettled bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    steps_left integer := 1000;
    nth        integer := 0;
    one_type   text := '';
    upto       bigint;
    low        bigint;
    high       bigint;
    tags_found integer;
BEGIN
    LOOP
        nth := nth + 1;
        IF cardinality(types) > 0 THEN
            one_type := types[nth];
        ELSE
            -- From type to type along the index: a tag has few.
            one_type := (SELECT e.event_type FROM coldstream.event_tags e
                WHERE e.tag = tags[1] AND e.event_type > one_type ORDER BY e.event_type LIMIT 1);
        END IF;
        EXIT WHEN one_type IS NULL;
        upto := head;
        LOOP
            -- The head is held meanwhile. Whoever reads on to it is told at once.
            steps_left := steps_left - 1;
            IF steps_left < 0 THEN
                unsettled := head;
                RETURN;
            END IF;
            SELECT min(n.position), max(n.position), count(*) INTO low, high, tags_found
            FROM unnest(tags) AS t (tag) CROSS JOIN LATERAL (
                SELECT e.position FROM coldstream.event_tags e
                WHERE e.tag = t.tag AND e.event_type = one_type AND e.position <= upto
                ORDER BY e.position DESC LIMIT 1
            ) n;
            EXIT WHEN tags_found < cardinality(tags) OR low <= greatest(after, matched);
            IF low = high THEN
                matched := low;
                EXIT;
            END IF;
            IF upto <= pruned THEN
                unsettled := greatest(unsettled, low);
                EXIT;
            END IF;
            upto := greatest(low, pruned);
        END LOOP;
    END LOOP;
END
$$;

-- An event after `after` whose type is one of `types`; not always the newest. A type's newest event is at most `lag`
-- positions after its head: a few rows by position, mostly none, because `after` is near the log's head.
CREATE FUNCTION coldstream.newest_typed(
    types text[], after bigint, head bigint, pruned bigint, lag bigint, OUT matched bigint, OUT unsettled bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    seen coldstream.type_heads;
    last bigint;
BEGIN
    FOR seen IN SELECT * FROM coldstream.type_heads WHERE event_type = ANY (types) LOOP
        IF seen.position > after THEN
            matched := greatest(matched, seen.position);
            CONTINUE;
        END IF;
        last := least(head, seen.position + lag);
        IF after < least(pruned, last) THEN
            unsettled := greatest(unsettled, least(pruned, last));
        END IF;
        matched := greatest(matched, (
            SELECT max(e.position) FROM coldstream.events e
            WHERE e.position > greatest(after, pruned) AND e.position <= last
                AND e.event_type = seen.event_type AND e.data_kind <> 3
        ));
    END LOOP;
END
$$;

-- What is known of events after `after` with one of `types` (none: any) and all of `tags` (none: any; not both). The
-- caller holds the log's head, which is `head`. `matched`: the position of one. Without it, `unsettled`: whether one is
-- there cannot be told up to this position, and none is after it.
CREATE FUNCTION coldstream.newest_match(
    tags text[], types text[], after bigint, head bigint, pruned bigint, lag bigint, OUT matched bigint,
    OUT unsettled bigint
) LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF cardinality(tags) > 0 THEN
        SELECT * INTO matched, unsettled FROM coldstream.newest_tagged(tags, types, after, head, pruned);
    ELSE
        SELECT * INTO matched, unsettled FROM coldstream.newest_typed(types, after, head, pruned, lag);
    END IF;
    unsettled := greatest(unsettled, (SELECT s.since FROM coldstream.tags_state s WHERE s.since > after));
END
$$;

-- Removes the tags of what is pruned, but for the newest per tag and type. It reads the whole table, so only after a
-- prune.
CREATE FUNCTION coldstream.forget_pruned_tags() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    gone    bigint;
    removed bigint;
BEGIN
    -- One at a time: whoever has waited finds it done.
    PERFORM FROM coldstream.tags_state FOR UPDATE;
    SELECT h.pruned INTO gone FROM coldstream.log_head h, coldstream.tags_state s WHERE s.thinned < h.pruned;
    IF gone IS NULL THEN
        RETURN 0;
    END IF;
    DELETE FROM coldstream.event_tags old WHERE old.position <= gone AND EXISTS (
        SELECT FROM coldstream.event_tags newer
        WHERE newer.tag = old.tag AND newer.event_type = old.event_type AND newer.position > old.position
            AND newer.position <= gone
    );
    GET DIAGNOSTICS removed = ROW_COUNT;
    UPDATE coldstream.tags_state SET thinned = gone;
    RETURN removed;
END
$$;

GRANT SELECT, INSERT ON coldstream.event_tags TO coldstream_service;
GRANT SELECT, INSERT, UPDATE (position) ON coldstream.type_heads TO coldstream_service;
GRANT SELECT ON coldstream.tags_state TO coldstream_service;
REVOKE EXECUTE ON FUNCTION
    coldstream.newest_tagged(text[], text[], bigint, bigint, bigint),
    coldstream.newest_typed(text[], bigint, bigint, bigint, bigint),
    coldstream.newest_match(text[], text[], bigint, bigint, bigint, bigint),
    coldstream.forget_pruned_tags() FROM PUBLIC;
GRANT EXECUTE ON FUNCTION
    coldstream.newest_tagged(text[], text[], bigint, bigint, bigint),
    coldstream.newest_typed(text[], bigint, bigint, bigint, bigint),
    coldstream.newest_match(text[], text[], bigint, bigint, bigint, bigint),
    coldstream.forget_pruned_tags() TO coldstream_service;
