-- One mover of the version beside at a time gets past here. What the view says from here on is said of its tables.
SELECT set_config('search_path', view || '_next, pg_temp', true) FROM projections.rebuilds
WHERE view = $1 AND NOT swapped FOR NO KEY UPDATE
