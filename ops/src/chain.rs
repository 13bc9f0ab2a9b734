//! An error with everything that caused it, on one line.

use std::error::Error;

/// `error` and its sources, joined by `: `. A source whose text the one above already ends with is left out.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(source) = next {
        let cause = source.to_string();
        if !text.ends_with(&cause) {
            text.push_str(": ");
            text.push_str(&cause);
        }
        next = source.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use domain::append::InvalidRequest;
    use domain::event::EventError;

    use super::*;

    #[test]
    fn the_whole_chain_is_one_line() {
        let error = InvalidRequest::Event { index: 3, source: EventError::Missing("id") };
        assert_eq!(chain(&error), "event 3 is not valid: \"id\" is missing");
    }
}
