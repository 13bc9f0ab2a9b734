aggregate_type::text AS aggregate_type,
aggregate_id::text AS aggregate_id,
sequence::bigint AS sequence,
-- A longer one is refused anyway, and so is what is larger than an event: neither is fetched.
left(event_type::text, {attribute_chars}) AS event_type,
left(event_version::text, {attribute_chars}) AS event_version,
CASE WHEN octet_length(payload::text) <= {json_bytes} THEN payload::text END AS payload,
CASE WHEN octet_length(metadata::text) <= {json_bytes} THEN metadata::text END AS metadata,
{time} AS time
