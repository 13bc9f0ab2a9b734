INSERT INTO coldstream.segments (
    first_position, last_position, epoch, sha256, crc32, bytes, record_bytes, index_sha256, index_crc32, index_bytes,
    root, first_at, last_at, manifest_epoch, manifest_number
) VALUES ($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13, $14, $15)
