-- What is asked of the catalog at each round must not cost all of history: a quiet log seals a segment every ten minutes,
-- which makes 50,000 a year.

-- What was never read back, and what was read back longest ago.
CREATE INDEX segments_by_verified ON coldstream.segments (verified_at NULLS FIRST, first_position);
-- What the other store has not confirmed: few, or it is away.
CREATE INDEX segments_unconfirmed ON coldstream.segments (first_position) WHERE confirmed_at IS NULL;
-- The head as of an instant.
CREATE INDEX segments_by_time ON coldstream.segments (first_at, first_position);
