-- A partition as migration 0004 makes one (same columns, same CHECKs, same two unique indexes), without what guards it.
CREATE SEQUENCE public.plain_position CACHE 1;
CREATE TABLE public.plain_events (LIKE coldstream.events INCLUDING CONSTRAINTS);
CREATE UNIQUE INDEX ON public.plain_events (position);
CREATE UNIQUE INDEX ON public.plain_events (aggregate_type, aggregate_id, sequence);
ALTER TABLE public.plain_events ALTER COLUMN position SET DEFAULT nextval('public.plain_position');
