SELECT count(*) FROM {snapshots}
