//! Rows in PostgreSQL's binary format of COPY (its documentation of COPY, "Binary Format"), both ways: the fastest way in and
//! out. It knows the order of the columns and how each type is spelled, and nothing of what they mean.

use super::{NewRow, Values};
use crate::instant::Instant;

const COLUMNS_COUNT: i16 = 19;
/// How a body begins; flags and the length of a header extension follow.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
const HEADER_BYTES: usize = SIGNATURE.len() + 8;

/// Rows on their way in.
pub(crate) struct CopyBody(Vec<u8>);

impl CopyBody {
    pub(crate) fn of(rows: &[NewRow<'_>]) -> Self {
        let mut body = Self(Vec::with_capacity(64 + rows.len() * 640));
        body.0.extend_from_slice(SIGNATURE);
        // No flags, no header extension.
        body.0.extend_from_slice(&[0; 8]);
        for row in rows {
            body.row(&Values::of(row));
        }
        body.0.extend_from_slice(&(-1_i16).to_be_bytes());
        body
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }

    fn row(&mut self, row: &Values<'_>) {
        self.0.extend_from_slice(&COLUMNS_COUNT.to_be_bytes());
        self.int8(Some(row.position));
        self.int8(Some(row.recorded_at.to_wire()));
        self.int8(Some(row.sequence));
        self.int8(row.previous);
        self.int8(row.epoch);
        self.int4(row.bytes);
        self.int2(row.data_kind);
        self.int2(row.record_format);
        let names = [row.aggregate_type, row.aggregate_id, row.event_type, row.event_version, row.event_id, row.source];
        for text in names.map(Some).into_iter().chain([row.time, row.data_schema, row.data_content_type]) {
            self.text(text);
        }
        self.text(Some(&row.metadata));
        self.text(Some(&row.payload));
    }

    fn int2(&mut self, value: i16) {
        self.0.extend_from_slice(&2_i32.to_be_bytes());
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn int4(&mut self, value: i32) {
        self.0.extend_from_slice(&4_i32.to_be_bytes());
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn int8(&mut self, value: Option<i64>) {
        let Some(value) = value else { return self.null() };
        self.0.extend_from_slice(&8_i32.to_be_bytes());
        self.0.extend_from_slice(&value.to_be_bytes());
    }

    fn text(&mut self, value: Option<&str>) {
        let Some(value) = value else { return self.null() };
        let length = i32::try_from(value.len()).expect("an event is at most 1 MiB");
        self.0.extend_from_slice(&length.to_be_bytes());
        self.0.extend_from_slice(value.as_bytes());
    }

    fn null(&mut self) {
        self.0.extend_from_slice(&(-1_i32).to_be_bytes());
    }
}

/// Rows on their way out: a whole body, read row by row.
pub(crate) struct CopiedRows<'a> {
    rest: &'a [u8],
}

impl<'a> CopiedRows<'a> {
    /// The rows of a whole body.
    ///
    /// # Errors
    /// `Decode` if it does not begin like one.
    pub(crate) fn of(body: &'a [u8]) -> Result<Self, sqlx::Error> {
        match body.strip_prefix(SIGNATURE) {
            Some([0, 0, 0, 0, 0, 0, 0, 0, ..]) => Ok(Self { rest: &body[HEADER_BYTES..] }),
            _ => Err(broken("header")),
        }
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// `Decode` where the body is not one of [`super::COLUMNS`].
    pub(crate) fn next(&mut self) -> Result<Option<Values<'a>>, sqlx::Error> {
        match self.int2_bare()? {
            -1 => return if self.rest.is_empty() { Ok(None) } else { Err(broken("end")) },
            COLUMNS_COUNT => {}
            _ => return Err(broken("number of columns")),
        }
        Ok(Some(Values {
            position: self.int8()?,
            recorded_at: Instant::from_wire(self.int8()?)?,
            sequence: self.int8()?,
            previous: self.int8_or_null()?,
            epoch: self.int8_or_null()?,
            bytes: i32::from_be_bytes(self.exactly()?),
            data_kind: i16::from_be_bytes(self.exactly()?),
            record_format: i16::from_be_bytes(self.exactly()?),
            aggregate_type: self.text()?,
            aggregate_id: self.text()?,
            event_type: self.text()?,
            event_version: self.text()?,
            event_id: self.text()?,
            source: self.text()?,
            time: self.text_or_null()?,
            data_schema: self.text_or_null()?,
            data_content_type: self.text_or_null()?,
            metadata: self.text()?.into(),
            payload: self.text()?.into(),
        }))
    }

    fn take(&mut self, count: usize) -> Result<&'a [u8], sqlx::Error> {
        let (taken, rest) = self.rest.split_at_checked(count).ok_or_else(|| broken("length"))?;
        self.rest = rest;
        Ok(taken)
    }

    fn int2_bare(&mut self) -> Result<i16, sqlx::Error> {
        let bytes = self.take(2)?.try_into().map_err(|_| broken("number"))?;
        Ok(i16::from_be_bytes(bytes))
    }

    fn field(&mut self) -> Result<Option<&'a [u8]>, sqlx::Error> {
        let length = i32::from_be_bytes(self.take(4)?.try_into().map_err(|_| broken("length"))?);
        match usize::try_from(length) {
            Ok(length) => self.take(length).map(Some),
            Err(_) if length == -1 => Ok(None),
            Err(_) => Err(broken("length")),
        }
    }

    fn value(&mut self) -> Result<&'a [u8], sqlx::Error> {
        self.field()?.ok_or_else(|| broken("null"))
    }

    fn exactly<const N: usize>(&mut self) -> Result<[u8; N], sqlx::Error> {
        self.value()?.try_into().map_err(|_| broken("number"))
    }

    fn int8(&mut self) -> Result<i64, sqlx::Error> {
        self.exactly().map(i64::from_be_bytes)
    }

    fn int8_or_null(&mut self) -> Result<Option<i64>, sqlx::Error> {
        let Some(bytes) = self.field()? else { return Ok(None) };
        Ok(Some(i64::from_be_bytes(bytes.try_into().map_err(|_| broken("number"))?)))
    }

    fn text(&mut self) -> Result<&'a str, sqlx::Error> {
        self.text_or_null()?.ok_or_else(|| broken("null"))
    }

    fn text_or_null(&mut self) -> Result<Option<&'a str>, sqlx::Error> {
        self.field()?.map(|bytes| std::str::from_utf8(bytes).map_err(|_| broken("text"))).transpose()
    }
}

fn broken(what: &str) -> sqlx::Error {
    sqlx::Error::Decode(format!("a COPY of the log's rows has a {what} that is none").into())
}

#[cfg(test)]
mod tests {
    use domain::event::{Data, NewEvent};
    use domain::merkle::Hash;
    use domain::record::{Record, RecordedEvent, RemovedBy, RemovedRecord};
    use domain::{Epoch, Position, StreamName, StreamVersion, Timestamp};

    use super::*;

    fn records() -> [Record; 3] {
        let recorded_at = Timestamp::parse_rfc3339("1999-12-31T23:59:59.999999Z").expect("an instant");
        let position = |number| Position::new(number).expect("from 1");
        let event = |number: u64, data| {
            Record::Event(Box::new(RecordedEvent {
                position: position(number),
                recorded_at,
                version: StreamVersion::new(number).expect("from 1"),
                previous: Position::new(number - 1),
                epoch: Epoch::FIRST,
                event: NewEvent {
                    id: format!("é{number}"),
                    source: "/s".into(),
                    event_type: "t".into(),
                    stream: StreamName::parse("a-1").expect("a name"),
                    time: Some("2020-01-01T00:00:00+02:00".into()).filter(|_| number == 2),
                    event_version: Some("1.0".into()).filter(|_| number == 2),
                    data_schema: None,
                    data_content_type: Some("application/json".into()),
                    extensions: Vec::new(),
                    data,
                },
            }))
        };
        let removed = Record::Removed(RemovedRecord {
            position: position(3),
            version: StreamVersion::FIRST,
            stream: StreamName::parse("a-2").expect("a name"),
            recorded_at,
            removed: RemovedBy::Retention,
            certificate: "c".into(),
            leaf: Hash::of(b"leaf"),
        });
        [event(1, Data::Json("{\"a\":1.0}".into())), event(2, Data::Base64("AAE=".into())), removed]
    }

    fn read(body: &[u8]) -> Result<Vec<Record>, sqlx::Error> {
        let mut rows = CopiedRows::of(body)?;
        std::iter::from_fn(|| rows.next().transpose()).map(|row| row?.to_record()).collect()
    }

    #[test]
    fn what_goes_in_comes_out() {
        let records = records();
        let rows: Vec<NewRow<'_>> = records.iter().map(NewRow::of).collect();
        assert_eq!(read(CopyBody::of(&rows).bytes()).expect("rows"), records);
    }

    #[test]
    fn a_body_that_is_cut_or_goes_on_is_none() {
        let records = records();
        let rows: Vec<NewRow<'_>> = records.iter().map(NewRow::of).collect();
        let body = CopyBody::of(&rows);
        for end in 0..body.bytes().len() {
            assert!(read(&body.bytes()[..end]).is_err(), "cut after {end} bytes");
        }
        assert!(read(&[body.bytes(), &[0]].concat()).is_err());
    }
}
