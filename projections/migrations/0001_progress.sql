-- What each view is as of. Its checkpoint stands in coldstream.consumers, where pruning looks; the rest stands here.
-- All three move in the transaction that moves the view's rows (PRJ-1).
CREATE TABLE projections.progress (
    view   text        COLLATE "C" PRIMARY KEY REFERENCES coldstream.consumers (name),
    -- Start of the live window that the rows were divided by.
    cutoff timestamptz NOT NULL,
    -- Leaf of the record at the checkpoint: whether the log still has the history that the view was folded from.
    leaf   bytea       CHECK (octet_length(leaf) = 32)
);
GRANT SELECT, UPDATE (cutoff, leaf) ON projections.progress TO coldstream_service;
