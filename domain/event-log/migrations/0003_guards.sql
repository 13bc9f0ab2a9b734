-- Nobody's database role changes an event (SEC-1): not the service, not the owner, not a superuser, and not a
-- session that plays replica (ENABLE ALWAYS). Row triggers are cloned to each partition when it is attached.

CREATE FUNCTION coldstream.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION 'SEC-1: % on %.% is refused: an event is never changed', TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'insufficient_privilege';
END
$$;

CREATE TRIGGER an_event_is_never_changed BEFORE UPDATE OR DELETE ON coldstream.events
    FOR EACH ROW EXECUTE FUNCTION coldstream.refuse_change();
CREATE TRIGGER events_are_never_truncated BEFORE TRUNCATE ON coldstream.events
    FOR EACH STATEMENT EXECUTE FUNCTION coldstream.refuse_change();
ALTER TABLE coldstream.events ENABLE ALWAYS TRIGGER an_event_is_never_changed;
ALTER TABLE coldstream.events ENABLE ALWAYS TRIGGER events_are_never_truncated;

-- What never goes back: head, recordedat, epoch, pruned, simulated time; and what never changes: the log's name and
-- whether its time is simulated. The conditions are in the triggers, so a good move calls no function.
CREATE FUNCTION coldstream.refuse_going_back() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION '%.% never goes back (LOG-2, LOG-3, LOG-5)', TG_TABLE_SCHEMA, TG_TABLE_NAME
        USING ERRCODE = 'integrity_constraint_violation';
END
$$;

CREATE TRIGGER the_head_never_goes_back BEFORE UPDATE ON coldstream.log_head
    FOR EACH ROW WHEN (
        NEW.position < OLD.position OR NEW.recorded_at < OLD.recorded_at OR NEW.epoch < OLD.epoch
        OR NEW.pruned < OLD.pruned OR NEW.log_id <> OLD.log_id OR NEW.simulated_now < OLD.simulated_now
        OR (NEW.simulated_now IS NULL) <> (OLD.simulated_now IS NULL)
    ) EXECUTE FUNCTION coldstream.refuse_going_back();
CREATE TRIGGER the_head_is_never_deleted BEFORE DELETE ON coldstream.log_head
    FOR EACH ROW EXECUTE FUNCTION coldstream.refuse_going_back();

CREATE TRIGGER a_stream_never_goes_back BEFORE UPDATE ON coldstream.streams
    FOR EACH ROW WHEN (
        NEW.version <= OLD.version OR NEW.position <= OLD.position OR NEW.first_position <> OLD.first_position
        OR NEW.category <> OLD.category OR NEW.id <> OLD.id
    ) EXECUTE FUNCTION coldstream.refuse_going_back();
CREATE TRIGGER a_stream_is_never_deleted BEFORE DELETE ON coldstream.streams
    FOR EACH ROW EXECUTE FUNCTION coldstream.refuse_going_back();
