COPY public.plain_events (position, recorded_at, sequence, bytes, data_kind, record_format, aggregate_type,
    aggregate_id, event_type, event_version, event_id, source, metadata, payload) FROM STDIN
