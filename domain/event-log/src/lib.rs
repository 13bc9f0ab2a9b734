//! The log on PostgreSQL: the only code that writes events.
