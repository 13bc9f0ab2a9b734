//! Seal, verify, prune, cold reads and heal.
