//! PostgreSQL's binary format of COPY (documentation of COPY, "Binary Format"), both ways.

use std::ops::ControlFlow;
use std::slice::Iter;

use super::fields::FieldWriter;
use super::{Content, ContentValues, Metadata, NewRow, Numbers, Values};
use crate::instant::Instant;

/// Fields of a row: those of [`super::COLUMNS`].
const COLUMNS_COUNT: i16 = 19;
/// How such a COPY begins; then come four bytes of flags and the length of what follows them, four bytes too.
const SIGNATURE: &[u8] = b"PGCOPY\n\xff\r\n\0";
/// What stands in place of a number of fields at the end.
const END: i16 = -1;

/// What a COPY sends of contents, all but what the log assigns: it takes most of the time, and needs no log.
#[derive(Debug)]
pub(crate) struct SpelledRows {
    bytes: Vec<u8>,
    /// Where each ends.
    ends: Vec<usize>,
}

impl SpelledRows {
    pub(crate) fn of<'a>(contents: impl ExactSizeIterator<Item = Content<'a>>) -> Self {
        let count = contents.len();
        let mut spelled = Self { bytes: Vec::with_capacity(count * 640), ends: Vec::with_capacity(count) };
        for content in contents {
            FieldWriter::bare(&mut spelled.bytes).content(&ContentValues::of(content));
            spelled.ends.push(spelled.bytes.len());
        }
        spelled
    }

    /// The one of this index, counted from 0.
    fn get(&self, index: usize) -> &[u8] {
        let begin = index.checked_sub(1).map_or(0, |before| self.ends[before]);
        &self.bytes[begin..self.ends[index]]
    }
}

/// The body of a COPY of rows to be written, piece by piece.
pub(crate) struct CopyBody<'a> {
    rows: Iter<'a, NewRow<'a>>,
    spelled: &'a SpelledRows,
    piece: Vec<u8>,
    at: At,
}

impl<'a> CopyBody<'a> {
    /// `spelled` holds the content of each row at the row's index.
    pub(crate) fn of(rows: &'a [NewRow<'a>], spelled: &'a SpelledRows) -> Self {
        Self { rows: rows.iter(), spelled, piece: Vec::new(), at: At::Header }
    }

    /// The next piece, in memory that the one after it takes: of `length` bytes or as many more as its last row takes,
    /// if it is not the last one.
    pub(crate) fn next(&mut self, length: usize) -> Option<&[u8]> {
        self.piece.clear();
        while self.at != At::End && self.piece.len() < length {
            self.at = self.push();
        }
        Some(&self.piece[..]).filter(|piece| !piece.is_empty())
    }

    /// Writes what comes next, and says what comes after it.
    fn push(&mut self) -> At {
        if self.at == At::Header {
            self.piece.extend_from_slice(SIGNATURE);
            // No flags, no header extension.
            self.piece.extend_from_slice(&[0; 8]);
            return At::Row;
        }
        let Some(row) = self.rows.next() else {
            self.piece.extend_from_slice(&END.to_be_bytes());
            return At::End;
        };
        self.piece.extend_from_slice(&COLUMNS_COUNT.to_be_bytes());
        FieldWriter::bare(&mut self.piece).numbers(&Numbers::of(row));
        self.piece.extend_from_slice(self.spelled.get(row.index));
        At::Row
    }
}

/// Reads the rows of a COPY of [`super::COLUMNS`] piece by piece, as they arrive: the server makes the next ones meanwhile.
#[derive(Debug, Default)]
pub(crate) struct CopiedRows {
    /// The beginning of what has not arrived whole. A server sends a row a piece, and promises nothing of the kind.
    begun: Vec<u8>,
    at: At,
}

/// What comes next.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum At {
    #[default]
    Header,
    Row,
    End,
}

/// Why something cannot be read.
enum Short {
    /// It has not arrived whole.
    Unfinished,
    /// It is not in this format.
    Broken(sqlx::Error),
}

impl From<sqlx::Error> for Short {
    fn from(error: sqlx::Error) -> Self {
        Self::Broken(error)
    }
}

impl CopiedRows {
    /// Gives `take` every row that is whole with `piece`, until it breaks off.
    ///
    /// # Errors
    /// Those of `take`; of what is not in this format.
    pub(crate) fn feed<E: From<sqlx::Error>>(
        &mut self,
        piece: &[u8],
        mut take: impl FnMut(&Values<'_>) -> Result<ControlFlow<()>, E>,
    ) -> Result<ControlFlow<()>, E> {
        let mut begun = std::mem::take(&mut self.begun);
        let bytes = if begun.is_empty() {
            piece
        } else {
            begun.extend_from_slice(piece);
            &begun
        };
        let mut left = bytes;
        while self.at != At::End || !left.is_empty() {
            let mut fields = Fields(left);
            match self.next(&mut fields) {
                Ok(row) => {
                    if let Some(row) = row
                        && take(&row)?.is_break()
                    {
                        return Ok(ControlFlow::Break(()));
                    }
                }
                Err(Short::Broken(error)) => return Err(error.into()),
                Err(Short::Unfinished) => {
                    self.begun = left.to_vec();
                    break;
                }
            }
            left = fields.0;
        }
        Ok(ControlFlow::Continue(()))
    }

    /// # Errors
    /// If rows are missing after what was fed.
    pub(crate) fn end(&self) -> Result<(), sqlx::Error> {
        if self.at == At::End { Ok(()) } else { Err(broken()) }
    }

    /// What comes next, if it is a row.
    fn next<'a>(&mut self, fields: &mut Fields<'a>) -> Result<Option<Values<'a>>, Short> {
        match self.at {
            At::Header => {
                fields.header()?;
                self.at = At::Row;
            }
            At::Row => match i16::from_be_bytes(fields.number()?) {
                COLUMNS_COUNT => return fields.row().map(Some),
                END => self.at = At::End,
                _ => return Err(broken().into()),
            },
            At::End => return Err(broken().into()),
        }
        Ok(None)
    }
}

/// What is left of some bytes.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn header(&mut self) -> Result<(), Short> {
        if self.take(SIGNATURE.len())? != SIGNATURE {
            return Err(broken().into());
        }
        let (_flags, more) = (self.number::<4>()?, i32::from_be_bytes(self.number()?));
        self.take(usize::try_from(more).map_err(|_| broken())?).map(drop)
    }

    fn row(&mut self) -> Result<Values<'a>, Short> {
        let numbers = Numbers {
            position: self.int8()?,
            recorded_at: Instant::from_wire(self.int8()?)?,
            sequence: self.int8()?,
            previous: self.field()?.map(int8).transpose()?,
            epoch: self.field()?.map(int8).transpose()?,
        };
        let content = ContentValues {
            bytes: i32::from_be_bytes(self.fixed()?),
            data_kind: i16::from_be_bytes(self.fixed()?),
            record_format: i16::from_be_bytes(self.fixed()?),
            aggregate_type: self.text()?,
            aggregate_id: self.text()?,
            event_type: self.text()?,
            event_version: self.text()?,
            event_id: self.text()?,
            source: self.text()?,
            time: self.field()?.map(text).transpose()?,
            data_schema: self.field()?.map(text).transpose()?,
            data_content_type: self.field()?.map(text).transpose()?,
            metadata: Metadata::Stored(self.text()?),
            payload: self.text()?.into(),
        };
        Ok(Values { numbers, content })
    }

    fn text(&mut self) -> Result<&'a str, Short> {
        let field = self.field()?.ok_or_else(damaged)?;
        Ok(text(field)?)
    }

    fn int8(&mut self) -> Result<i64, Short> {
        self.fixed().map(i64::from_be_bytes)
    }

    /// A field that is not NULL, of a known length.
    fn fixed<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let field = self.field()?.and_then(|field| field.try_into().ok());
        Ok(field.ok_or_else(damaged)?)
    }

    fn field(&mut self) -> Result<Option<&'a [u8]>, Short> {
        match i32::from_be_bytes(self.number()?) {
            -1 => Ok(None),
            length => self.take(usize::try_from(length).map_err(|_| broken())?).map(Some),
        }
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], Short> {
        let (number, left) = self.0.split_first_chunk().ok_or(Short::Unfinished)?;
        self.0 = left;
        Ok(*number)
    }

    fn take(&mut self, length: usize) -> Result<&'a [u8], Short> {
        let (taken, left) = self.0.split_at_checked(length).ok_or(Short::Unfinished)?;
        self.0 = left;
        Ok(taken)
    }
}

fn int8(field: &[u8]) -> Result<i64, sqlx::Error> {
    field.try_into().map(i64::from_be_bytes).map_err(|_| damaged())
}

fn text(field: &[u8]) -> Result<&str, sqlx::Error> {
    std::str::from_utf8(field).map_err(|_| damaged())
}

/// A field is not what its column holds: the server does not look at what it copies.
fn damaged() -> sqlx::Error {
    sqlx::Error::Decode("a row of events whose columns do not hold what they must".into())
}

/// The answer is not what the server was asked for: on the way to it something else speaks.
fn broken() -> sqlx::Error {
    sqlx::Error::Protocol("rows that are not in the binary format of COPY".into())
}

#[cfg(test)]
mod tests {
    use domain::merkle::Hash;
    use domain::record::{self, Lines, Record, RemovedBy, RemovedRecord};
    use domain::{Position, StreamName, StreamVersion, Timestamp};

    use super::*;

    fn records() -> Vec<Record> {
        let lines = [
            r#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"a-1","recordedat":"2026-01-01T00:00:00.000000Z","position":"1","version":"1","previous":"0","epoch":"1"}"#,
            r#"{"specversion":"1.0","id":"2","source":"/s","type":"t","subject":"a-1","time":"2026-01-01T00:00:00+01:00","recordedat":"2026-01-01T00:00:00.000001Z","position":"2","version":"2","previous":"1","epoch":"3","eventversion":"2","dataschema":"urn:x","datacontenttype":"application/json","note":"é \"quoted\"","data":{"a":[1,null]}}"#,
            r#"{"specversion":"1.0","id":"3","source":"/s","type":"t","subject":"b-\"","recordedat":"2026-01-01T00:00:01.000000Z","position":"3","version":"1","previous":"0","epoch":"3","data_base64":"AAE="}"#,
        ];
        let removed = RemovedRecord {
            position: Position::new(4).expect("from 1"),
            version: StreamVersion::new(7).expect("from 1"),
            stream: StreamName::parse("c-1").expect("a name"),
            recorded_at: Timestamp::parse_rfc3339("2026-01-01T00:00:02Z").expect("an instant"),
            removed: RemovedBy::Redaction,
            certificate: "why".into(),
            leaf: Hash::of(b"was"),
        };
        let events = lines.iter().map(|line| record::read(line.as_bytes()).expect("a record"));
        events.chain([Record::Removed(removed)]).collect()
    }

    /// What a COPY of `records` sends, put together of pieces of about `length` bytes.
    fn body(records: &[Record], length: usize) -> Vec<u8> {
        let rows: Vec<NewRow<'_>> =
            records.iter().enumerate().map(|(index, record)| NewRow::of(index, record)).collect();
        let spelled = SpelledRows::of(records.iter().map(Content::of));
        let (mut body, mut bytes) = (CopyBody::of(&rows, &spelled), Vec::new());
        while let Some(piece) = body.next(length) {
            bytes.extend_from_slice(piece);
        }
        bytes
    }

    /// What comes of pieces of at most `length` bytes.
    fn read(bytes: &[u8], length: usize) -> Result<Vec<Record>, sqlx::Error> {
        let (mut rows, mut records, mut lines) = (CopiedRows::default(), Vec::new(), Lines::default());
        for piece in bytes.chunks(length) {
            let fed = rows.feed(piece, |row| {
                let (record, line) = (row.record(), row.line(&mut lines));
                assert_eq!(record.is_ok(), line.is_ok(), "what is no record has no line");
                line?;
                records.push(record?);
                Ok::<_, sqlx::Error>(ControlFlow::Continue(()))
            });
            assert!(fed?.is_continue());
        }
        rows.end()?;
        assert_eq!(lines, Lines::of(&records), "a row's line is its record's");
        Ok(records)
    }

    #[test]
    fn rows_are_sent_in_the_order_of_their_numbers_wherever_their_content_was_spelled() {
        let records = records();
        let spelled = SpelledRows::of(records.iter().rev().map(Content::of));
        // The third one was not placed.
        let placed = [0, 1, 3];
        let rows = placed.map(|at| NewRow::of(records.len() - 1 - at, &records[at]));
        let mut copied = CopyBody::of(&rows, &spelled);
        let read = read(copied.next(usize::MAX).expect("a piece"), 100).expect("whole");
        assert_eq!(read, placed.map(|at| records[at].clone()));
        assert!(copied.next(usize::MAX).is_none());
    }

    #[test]
    fn rows_are_given_until_whoever_takes_them_breaks_off() {
        let records = records();
        let (body, mut copied, mut taken) = (body(&records, 1), CopiedRows::default(), 0);
        let fed = copied.feed(&body, |_| {
            taken += 1;
            Ok::<_, sqlx::Error>(if taken == 2 { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
        });
        assert!(fed.expect("rows").is_break());
        assert_eq!(taken, 2);
    }

    #[test]
    fn what_is_written_is_read_back_in_whatever_pieces_and_what_ends_early_or_late_is_refused() {
        let records = records();
        let whole = body(&records, usize::MAX);
        for length in [1, 2, 3, 7, 64, 500, whole.len()] {
            assert_eq!(body(&records, length), whole, "written in pieces of {length}");
            assert_eq!(read(&whole, length).expect("whole"), records, "pieces of {length}");
        }
        for end in 0..whole.len() {
            assert!(read(&whole[..end], 100).is_err(), "cut at {end}");
        }
        let mut other = whole.clone();
        other.push(0);
        assert!(read(&other, 100).is_err(), "more after the end");
        other.truncate(whole.len());
        other[0] ^= 1;
        assert!(read(&other, 100).is_err(), "another signature");
    }

    #[test]
    fn columns_that_cannot_be_are_damage_and_not_a_lost_connection() {
        let records = records();
        let whole = body(&records, usize::MAX);
        let at = whole.windows(2).position(|two| two == "é".as_bytes()).expect("a letter of two bytes");
        let mut rotten = whole.clone();
        rotten[at] = 0xff;
        // The first field of the first row, its length before it: a position that is shorter.
        let mut short = whole.clone();
        let first = SIGNATURE.len() + 8 + 2;
        short.drain(first + 4..first + 5);
        short[first + 3] = 7;
        let at = whole.windows(7).position(|name| name == b"\"note\":").expect("an extension");
        let mut nameless = whole.clone();
        nameless[at + 1] = b'N';
        for (what, bytes) in [("text", rotten), ("number", short), ("extension", nameless)] {
            let error = read(&bytes, 100).expect_err(what);
            assert_eq!(crate::error::trouble(&error), crate::error::Trouble::Damage, "{what}: {error}");
        }
    }
}
