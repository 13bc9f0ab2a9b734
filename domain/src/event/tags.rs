//! The tags of an event: what it is about beside its stream. They stand in the extension `tags`, as words separated by
//! spaces, such as `student:7 course:c1`; the log finds events by them ([`crate::append::ConditionItem`]).
//!
//! Whatever stands in the extension has a meaning, so no event that was ever stored breaks a rule of tags.

use super::{ExtensionValue, NewEvent};

/// The extension that holds the tags.
pub const TAGS_EXTENSION: &str = "tags";
/// A request's event has at most this many tags. Each one is an entry of its own in the live log's index.
pub const TAGS_MAX: usize = 32;

impl NewEvent {
    /// The event's tags, in the order in which they stand there. One may stand twice.
    pub fn tags(&self) -> impl Iterator<Item = &str> {
        let extension = self.extensions.iter().find(|extension| extension.name == TAGS_EXTENSION);
        let text = extension.and_then(|extension| match &extension.value {
            ExtensionValue::String(text) => Some(text.as_str()),
            // Reserved: its value is a string.
            ExtensionValue::Boolean(_) | ExtensionValue::Integer(_) => None,
        });
        text.unwrap_or_default().split(' ').filter(|tag| !tag.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tags(member: &str) -> Vec<String> {
        let json = format!(r#"{{"specversion":"1.0","id":"1","source":"/s","type":"t","subject":"a-1"{member}}}"#);
        let event = NewEvent::from_cloudevent(json.as_bytes()).expect("an event");
        event.tags().map(str::to_owned).collect()
    }

    #[test]
    fn tags_are_words_however_many_spaces_stand_between_them() {
        assert_eq!(tags(r#","tags":"student:7 course:c1""#), ["student:7", "course:c1"]);
        assert_eq!(tags(r#","tags":"  b  a b ""#), ["b", "a", "b"]);
        assert_eq!(tags(r#","tags":"é\u00a0ü""#), ["é\u{a0}ü"], "only the space separates");
        assert!(tags(r#","tags":" ""#).is_empty());
        assert!(tags("").is_empty());
    }
}
