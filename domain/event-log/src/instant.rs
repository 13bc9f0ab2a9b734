//! `timestamptz` on the wire: microseconds since 2000-01-01T00:00:00Z, which [`Timestamp`] holds without loss.

use domain::Timestamp;
use sqlx::encode::IsNull;
use sqlx::error::BoxDynError;
use sqlx::postgres::types::Oid;
use sqlx::postgres::{PgArgumentBuffer, PgHasArrayType, PgTypeInfo, PgValueFormat, PgValueRef};
use sqlx::{Decode, Encode, Postgres, Type};

/// 2000-01-01T00:00:00Z in microseconds since 1970.
const POSTGRES_EPOCH_MICROS: i64 = 946_684_800_000_000;
/// `timestamptz` and `timestamptz[]` in `pg_type`, the same in every PostgreSQL.
pub(crate) const TIMESTAMPTZ: Oid = Oid(1184);
const TIMESTAMPTZ_ARRAY: Oid = Oid(1185);

/// A [`Timestamp`] as a column or parameter.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Instant(pub(crate) Timestamp);

impl Instant {
    /// As in the binary formats of PostgreSQL's protocol and of COPY.
    pub(crate) fn to_wire(self) -> i64 {
        self.0.unix_micros() - POSTGRES_EPOCH_MICROS
    }

    /// The way back.
    pub(crate) fn from_wire(wire: i64) -> Result<Self, sqlx::Error> {
        let micros = wire.checked_add(POSTGRES_EPOCH_MICROS);
        let micros = micros.ok_or_else(|| sqlx::Error::Decode("an instant beyond the year 9999".into()))?;
        from_micros(micros).map(Self)
    }
}

/// From text that SQL made of microseconds since 1970, for statements sent without binary results.
pub(crate) fn from_micros(micros: i64) -> Result<Timestamp, sqlx::Error> {
    Timestamp::from_unix_micros(micros).map_err(|e| sqlx::Error::Decode(Box::new(e)))
}

impl Type<Postgres> for Instant {
    fn type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ)
    }
}

impl PgHasArrayType for Instant {
    fn array_type_info() -> PgTypeInfo {
        PgTypeInfo::with_oid(TIMESTAMPTZ_ARRAY)
    }
}

impl Encode<'_, Postgres> for Instant {
    fn encode_by_ref(&self, buffer: &mut PgArgumentBuffer) -> Result<IsNull, BoxDynError> {
        buffer.extend_from_slice(&self.to_wire().to_be_bytes());
        Ok(IsNull::No)
    }
}

impl Decode<'_, Postgres> for Instant {
    fn decode(value: PgValueRef<'_>) -> Result<Self, BoxDynError> {
        if value.format() == PgValueFormat::Text {
            return Err("a timestamptz in text form depends on the session: ask for microseconds".into());
        }
        let wire = i64::from_be_bytes(value.as_bytes()?.try_into()?);
        Ok(Self::from_wire(wire)?)
    }
}
