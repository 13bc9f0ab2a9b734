-- Waits until nobody else prepares or migrates this database (claim_migrations.sql): the server refuses two grants on one
-- object at once. Held to the end of these statements.
SELECT pg_advisory_xact_lock(7106407);
-- Roles belong to the whole server: two databases may be prepared at once.
DO $$
DECLARE
    wanted text;
BEGIN
    FOREACH wanted IN ARRAY ARRAY['coldstream_owner', 'coldstream_service'] LOOP
        BEGIN
            EXECUTE format('CREATE ROLE %I NOLOGIN', wanted);
        EXCEPTION WHEN duplicate_object OR unique_violation THEN
            NULL;
        END;
    END LOOP;
    -- An administrator who is no superuser has to be a member to act as the owner; from PostgreSQL 16 on who made a role
    -- is its member and may yet not act as it.
    IF NOT pg_has_role(
        current_user,
        'coldstream_owner',
        CASE WHEN current_setting('server_version_num')::integer < 160000 THEN 'MEMBER' ELSE 'SET' END
    ) THEN
        EXECUTE format('GRANT coldstream_owner TO %I', current_user);
    END IF;
    -- The views' schema is made by the owner, too.
    EXECUTE format('GRANT CREATE ON DATABASE %I TO coldstream_owner', current_database());
END
$$;
CREATE SCHEMA IF NOT EXISTS coldstream AUTHORIZATION coldstream_owner;
