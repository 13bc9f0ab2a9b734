//! Which lines are one append: consecutive lines of one `data.change`. Pure: lines in, groups out.

use std::borrow::Cow;

use domain::append::{REQUEST_BYTES_MAX, REQUEST_EVENTS_MAX};
use domain::event::{Data, NewEvent};
use domain::{StreamName, Timestamp, content};
use serde::Deserialize;

use super::BadLine;

/// Lines that are appended together or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Group {
    /// Number of its first line.
    pub(super) first_line: u64,
    /// Number of its last line.
    pub(super) last_line: u64,
    /// Its events.
    pub(super) events: Vec<NewEvent>,
    /// Their size, roughly.
    pub(super) bytes: usize,
    /// The latest `time` of the file up to here: what the source knew when this was recorded.
    pub(super) time: Option<Timestamp>,
    change: Option<String>,
}

/// Puts lines together. What was taken is a group once a line of another change follows.
#[derive(Debug, Default)]
pub(super) struct Grouping {
    open: Option<Group>,
    time: Option<Timestamp>,
    /// Whether a line without `time` is refused.
    times_needed: bool,
}

#[derive(Deserialize)]
struct ChangeOnly<'a> {
    #[serde(borrow)]
    change: Option<Cow<'a, str>>,
}

impl Grouping {
    pub(super) fn new(times_needed: bool) -> Self {
        Self { open: None, time: None, times_needed }
    }

    /// Takes a line; returns the group that it ends, if it ends one.
    pub(super) fn take(&mut self, number: u64, line: &[u8]) -> Result<Option<Group>, BadLine> {
        let bad = |reason: String| BadLine { line: number, reason };
        let event = NewEvent::from_cloudevent_with(line, |subject| StreamName::of(content::CATEGORY, subject))
            .map_err(|error| bad(crate::chain::chain(&error)))?;
        let time = event.time.as_deref().map(Timestamp::parse_rfc3339).transpose();
        let time = time.map_err(|error| bad(format!("\"time\": {error}")))?;
        if time.is_none() && self.times_needed {
            return Err(bad("\"time\" is missing, and recordedat is to be taken from it".to_owned()));
        }
        self.time = self.time.max(time);
        let change = change_of(&event);
        match &mut self.open {
            Some(open) if change.is_some() && open.change == change => {
                open.last_line = number;
                open.bytes += event.bytes();
                open.time = self.time;
                open.events.push(event);
                if open.events.len() > REQUEST_EVENTS_MAX || open.bytes > REQUEST_BYTES_MAX {
                    return Err(bad(format!(
                        "the change that starts in line {} is over {REQUEST_EVENTS_MAX} events or \
                         {REQUEST_BYTES_MAX} bytes: it is too large for one atomic append",
                        open.first_line
                    )));
                }
                Ok(None)
            }
            open => {
                let (bytes, time) = (event.bytes(), self.time);
                let group = Group { first_line: number, last_line: number, events: vec![event], bytes, time, change };
                Ok(open.replace(group))
            }
        }
    }

    /// The last group.
    pub(super) fn finish(self) -> Option<Group> {
        self.open
    }
}

fn change_of(event: &NewEvent) -> Option<String> {
    let Data::Json(text) = &event.data else { return None };
    // Data of another form belongs to no change; it is stored as it is, alone.
    let data: ChangeOnly<'_> = serde_json::from_str(text).ok()?;
    data.change.map(Cow::into_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn line(id: u32, change: &str, time: &str) -> String {
        format!(
            r#"{{"specversion":"1.0","id":"{id}","source":"/s","type":"content.created","subject":"a/{id}","time":"{time}","data":{{"change":{change}}}}}"#
        )
    }

    fn groups(lines: &[String]) -> Result<Vec<Group>, BadLine> {
        let mut grouping = Grouping::new(true);
        let mut all = Vec::new();
        for (number, line) in (1..).zip(lines) {
            all.extend(grouping.take(number, line.as_bytes())?);
        }
        all.extend(grouping.finish());
        Ok(all)
    }

    #[test]
    fn consecutive_lines_of_one_change_are_one_group() {
        let at = "2020-01-01T00:00:00Z";
        let lines: Vec<String> = [r#""a""#, r#""a""#, r#""b""#, r#""a""#, "null", "null", "7", "7"]
            .iter()
            .zip(1..)
            .map(|(change, id)| line(id, change, at))
            .collect();
        let spans: Vec<_> =
            groups(&lines).expect("valid").iter().map(|group| (group.first_line, group.last_line)).collect();
        assert_eq!(spans, [(1, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 7), (8, 8)]);
    }

    #[test]
    fn the_time_of_a_group_is_the_latest_so_far_and_the_lines_keep_their_own() {
        let lines = [line(1, r#""a""#, "2020-01-02T00:00:00+01:00"), line(2, r#""b""#, "2019-01-01T00:00:00Z")];
        let groups = groups(&lines).expect("valid");
        assert_eq!(groups[0].time, groups[1].time);
        assert_eq!(groups[0].time, Timestamp::parse_rfc3339("2020-01-01T23:00:00Z").ok());
        assert_eq!(groups[1].events[0].time.as_deref(), Some("2019-01-01T00:00:00Z"));
        assert_eq!(groups[0].events[0].stream.as_str(), "content-a/1");
    }

    #[test]
    fn a_bad_line_is_named_with_its_reason() {
        let lines = [line(1, r#""a""#, "2020-01-02T00:00:00Z"), "{\"specversion\":\"1.0\"}".to_owned()];
        let bad = groups(&lines).expect_err("refused");
        assert_eq!(bad.line, 2);
        assert!(bad.reason.contains("subject"), "{bad}");
        let mut grouping = Grouping::new(true);
        let timeless = br#"{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"x"}"#;
        assert!(grouping.take(1, timeless).is_err_and(|bad| bad.reason.contains("time")));
        assert!(Grouping::new(false).take(1, timeless).is_ok());
    }

    #[test]
    fn a_change_that_is_too_large_for_one_append_is_refused_with_its_first_line() {
        let lines: Vec<String> = (1..=16_385).map(|id| line(id, r#""a""#, "2020-01-02T00:00:00Z")).collect();
        let bad = groups(&lines).expect_err("refused");
        assert_eq!(bad.line, 16_385);
        assert!(bad.reason.contains("line 1 "), "{bad}");
    }
}
