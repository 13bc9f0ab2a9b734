//! The line of a record as its source would have spelled it: content has its id as `subject` again.

use domain::content::CATEGORY;

/// `line` (a record's, without LF) with `content-` taken out of its subject; any other record's as it is.
///
/// Only for showing: what is stored, shipped and hashed is the record's own line.
#[must_use]
pub fn of_source(mut line: Vec<u8>) -> Vec<u8> {
    // No text of the line can hold this before that member (a quotation mark within a text stands behind a backslash), and
    // `data`, which may have a member of that name, comes after it.
    const MEMBER: &[u8] = b",\"subject\":\"";
    let prefix = format!("{CATEGORY}-");
    if let Some(at) = memchr::memmem::find(&line, MEMBER) {
        let begin = at + MEMBER.len();
        if line[begin..].starts_with(prefix.as_bytes()) {
            line.drain(begin..begin + prefix.len());
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn content_gets_its_id_back_and_nothing_else_changes() {
        let shown = |line: &str| String::from_utf8(of_source(line.as_bytes().to_vec())).expect("UTF-8");
        assert_eq!(
            shown(r#"{"id":"1","subject":"content-content-a","x":""}"#),
            r#"{"id":"1","subject":"content-a","x":""}"#
        );
        let other = r#"{"id":",\"subject\":\"content-","subject":"import-1"}"#;
        assert_eq!(shown(other), other);
        let data = r#"{"id":"1","subject":"import-1","data":{"a":1,"subject":"content-a"}}"#;
        assert_eq!(shown(data), data);
    }
}
