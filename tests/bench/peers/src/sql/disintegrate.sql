-- What disintegrate-postgres 4.0.1 makes for our one event, statement by statement, but for one literal: its own
-- function says 0xFFFFFFFF, which PostgreSQL reads from release 16 on only; the same number in decimal runs everywhere.
CREATE SEQUENCE seq_event_event_id;
CREATE TABLE event (
    event_id    bigint PRIMARY KEY DEFAULT nextval('seq_event_event_id'),
    event_type  varchar(255),
    payload     bytea,
    inserted_at timestamp DEFAULT now()
);
CREATE INDEX idx_event_type_btree ON event (event_type);

CREATE FUNCTION event_store_current_epoch() RETURNS bigint AS $$
DECLARE
    persisted_event_id bigint;
    pending_event_id bigint;
    db_id int;
BEGIN
    SELECT COALESCE(MAX(event_id), 0) INTO persisted_event_id FROM event;
    SELECT oid INTO db_id FROM pg_database WHERE datname = current_database();
    SELECT MIN((l3.objid::bigint << 32) + l2.objid::bigint) INTO pending_event_id
    FROM pg_locks l1
    INNER JOIN pg_locks l2 ON l1.pid = l2.pid
    INNER JOIN pg_locks l3 ON l1.pid = l3.pid
    WHERE l1.classid = db_id AND l2.classid = 1 AND l3.classid = 2 AND l1.locktype = 'advisory';
    RETURN LEAST(COALESCE(pending_event_id, persisted_event_id), persisted_event_id);
END;
$$ LANGUAGE plpgsql;

CREATE FUNCTION event_store_begin_epoch() RETURNS void AS $$
DECLARE
    id bigint;
    db_id int;
BEGIN
    SELECT last_value INTO id FROM seq_event_event_id;
    SELECT oid INTO db_id FROM pg_database WHERE datname = current_database();
    PERFORM pg_try_advisory_xact_lock_shared(db_id, 0);
    PERFORM pg_try_advisory_xact_lock_shared(1, (id & 4294967295)::bit(32)::integer);
    PERFORM pg_try_advisory_xact_lock_shared(2, (id >> 32)::bit(32)::integer);
END;
$$ LANGUAGE plpgsql;

ALTER TABLE event ADD COLUMN stream text;
CREATE INDEX idx_event_stream ON event (stream) WHERE stream IS NOT NULL;
