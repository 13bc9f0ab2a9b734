//! Instants between domain and PostgreSQL: sent as text, which is exact, and read as microseconds since 1970.

use domain::Timestamp;

use crate::ProjectionError;

/// As a parameter that SQL casts to timestamptz.
pub(crate) fn to_sql(instant: Timestamp) -> String {
    instant.to_string()
}

/// From `(extract(epoch FROM …) * 1000000)::bigint`, which is exact: extract gives a numeric.
pub(crate) fn from_sql(micros: i64) -> Result<Timestamp, ProjectionError> {
    Timestamp::from_unix_micros(micros)
        .map_err(|_| ProjectionError::Corrupt { what: format!("the instant {micros} µs after 1970") })
}
