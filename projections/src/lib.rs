//! The live window: folds the log into read tables.
