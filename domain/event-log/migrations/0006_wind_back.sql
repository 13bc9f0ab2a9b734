-- Takes the catalog back to the step where its branch and the one in force part: forgets the steps after it, with their
-- segments. NULL: none of its steps counts. Repeating it changes nothing.
CREATE FUNCTION coldstream.wind_back_catalog(
    last_epoch bigint, last_number bigint, last_sha256 bytea, to_epoch bigint, to_number bigint, to_sha256 bytea
) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = '1s' AS $$
DECLARE
    last  coldstream.last_manifest;
    first bigint;
    gone  bigint;
BEGIN
    -- As acceptors lock it: nothing is added meanwhile, and readers go on.
    LOCK TABLE coldstream.last_manifest IN SHARE ROW EXCLUSIVE MODE;
    SELECT * INTO last FROM coldstream.last_manifest;
    IF (last.epoch, last.number, last.sha256) IS NOT DISTINCT FROM (to_epoch, to_number, to_sha256) THEN
        RETURN;
    END IF;
    IF (last.epoch, last.number, last.sha256) IS DISTINCT FROM (last_epoch, last_number, last_sha256) THEN
        RAISE EXCEPTION 'another manifest is the last' USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    IF to_number IS NOT NULL AND NOT EXISTS (
        SELECT FROM coldstream.segments WHERE (manifest_epoch, manifest_number) = (to_epoch, to_number)
    ) THEN
        RAISE EXCEPTION 'manifest % of epoch % added no segment here', to_number, to_epoch
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    -- The head after the catalog: it is held for the shortest time, and a prune, which begins with the head, has either
    -- ended or comes after this commit and finds the segments gone.
    SELECT pruned INTO STRICT gone FROM coldstream.log_head FOR SHARE;
    SELECT min(first_position) INTO first FROM coldstream.segments WHERE manifest_number > coalesce(to_number, 0);
    IF first <= gone THEN
        RAISE EXCEPTION 'the segment from % on is void, and position % is pruned: it is all that is left of it', first, gone
            USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
    DELETE FROM coldstream.segments WHERE manifest_number > coalesce(to_number, 0);
    DELETE FROM coldstream.last_manifest WHERE to_number IS NULL;
    UPDATE coldstream.last_manifest SET epoch = to_epoch, number = to_number, sha256 = to_sha256
        WHERE to_number IS NOT NULL;
END
$$;

-- From here on the catalog loses an entry through this function only (ARC-1).
REVOKE DELETE ON coldstream.segments, coldstream.last_manifest FROM coldstream_service;
REVOKE EXECUTE ON FUNCTION coldstream.wind_back_catalog(bigint, bigint, bytea, bigint, bigint, bytea) FROM PUBLIC;
GRANT EXECUTE ON FUNCTION coldstream.wind_back_catalog(bigint, bigint, bytea, bigint, bigint, bytea)
    TO coldstream_service;
