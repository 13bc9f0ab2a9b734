-- What narrows a token, beside its role (SEC-1): until when it opens, in which categories, and how much.

-- Columns that are NULL rewrite nothing; the table's lock is held for a moment.
-- categories: NULL means all. Only roles that append or read can be limited: what operators, auditors and the other
-- region ask for has no category. The rates: NULL means what the configuration says of the role, 0 no limit.
ALTER TABLE coldstream.tokens
    ADD COLUMN expires_at timestamptz,
    ADD COLUMN categories text[] CHECK (
        categories IS NULL
        OR (role IN ('appender', 'reader') AND cardinality(categories) > 0 AND array_position(categories, NULL) IS NULL)
    ),
    ADD COLUMN requests_per_second bigint CHECK (requests_per_second >= 0),
    ADD COLUMN append_bytes_per_second bigint CHECK (append_bytes_per_second >= 0),
    ADD COLUMN last_used_at timestamptz;

-- The service's role revokes tokens, and takes no revocation back.
CREATE TRIGGER a_revoked_token_stays_revoked BEFORE UPDATE ON coldstream.tokens
    FOR EACH ROW WHEN (OLD.revoked_at IS NOT NULL AND NEW.revoked_at IS DISTINCT FROM OLD.revoked_at)
    EXECUTE FUNCTION coldstream.refuse_going_back();

GRANT UPDATE (last_used_at) ON coldstream.tokens TO coldstream_service;
