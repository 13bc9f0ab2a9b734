-- LOG-4 for requests that name versions only of streams that they do not write: their ids are kept for ever.

-- NULL: forgotten when its position is pruned. Not false: a NULL takes no space in a row of three columns, so the ids of
-- the live window stay as small as they were. A kept one takes 8 bytes more and an entry in the second index.
ALTER TABLE coldstream.event_ids ADD COLUMN kept boolean CHECK (kept);

-- A batch for the other region says which of its ids are kept.
CREATE INDEX event_ids_kept ON coldstream.event_ids (position) WHERE kept;

CREATE TRIGGER a_kept_id_is_never_changed BEFORE UPDATE ON coldstream.event_ids
    FOR EACH ROW WHEN (OLD.kept) EXECUTE FUNCTION coldstream.refuse_going_back();

GRANT UPDATE (kept) ON coldstream.event_ids TO coldstream_service;

-- Removes the ids of what is pruned, but for those that are kept. They mean nothing any more, so this may stop anywhere
-- and run again.
CREATE OR REPLACE FUNCTION coldstream.forget_pruned_ids() RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    removed bigint;
BEGIN
    DELETE FROM coldstream.event_ids WHERE position <= (SELECT pruned FROM coldstream.log_head) AND kept IS NULL;
    GET DIAGNOSTICS removed = ROW_COUNT;
    RETURN removed;
END
$$;

-- As before, and for each kept id 8 bytes of its row and an entry of the second index. An entry of the first one has 28
-- bytes with its line pointer: counted as 20, a table that had just been written anew was too large once more.
CREATE OR REPLACE FUNCTION coldstream.space_of(which text, OUT held bigint, OUT needed bigint)
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF which = 'event_ids' THEN
        SELECT count(*) * (52 + 28 / 0.9) + count(kept) * (8 + 20 / 0.9) INTO needed FROM coldstream.event_ids;
    ELSIF which = 'streams' THEN
        SELECT sum((pg_column_size(s.*) + 8) / 0.8 + (pg_column_size(category) + pg_column_size(id) + 16) / 0.9)
            INTO needed FROM coldstream.streams s;
    ELSE
        RAISE EXCEPTION '% is not a table that is rebuilt', which USING ERRCODE = 'invalid_parameter_value';
    END IF;
    needed := coalesce(needed, 0) + 6 * 8192;
    held := pg_total_relation_size(format('coldstream.%I', which)::regclass);
END
$$;
