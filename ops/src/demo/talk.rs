//! What the demo says on stderr while it goes: chapters, what is being done, and what was checked and held.
//! A line with a tick is said after its check, never before.

use std::fmt::Display;
use std::sync::atomic::{AtomicUsize, Ordering};

static CHAPTERS: AtomicUsize = AtomicUsize::new(0);

/// Begins a chapter: what happens, and why it is worth looking at.
pub(super) fn chapter(title: &str, what: &str) {
    let number = CHAPTERS.fetch_add(1, Ordering::Relaxed) + 1;
    eprintln!("\n{number:>2}. {title}\n    {what}");
}

/// Says what is being done.
pub(super) fn note(text: &str) {
    eprintln!("    … {text}");
}

/// Says what was checked and holds.
pub(super) fn held(text: &str) {
    eprintln!("    ✓ {text}");
}

/// A number as people write it: 26,559.
pub(super) fn counted(number: impl Display) -> String {
    let digits = number.to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_written_in_groups_of_three() {
        for (number, text) in [(0, "0"), (999, "999"), (1000, "1,000"), (26559, "26,559"), (1_234_567, "1,234,567")] {
            assert_eq!(counted(number), text);
        }
    }
}
