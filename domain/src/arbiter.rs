//! Decides a group of append requests: pure, the same for PostgreSQL and the twin.
