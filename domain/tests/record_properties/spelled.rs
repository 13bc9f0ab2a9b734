//! JSON as text: any value, its tokens spelled in any way, in a compact form and in one with white space.

use proptest::prelude::*;
use proptest::sample::select;

/// A JSON value whose tokens are spelled already.
#[derive(Debug, Clone)]
pub(crate) enum Spelled {
    Token(String),
    Array(Vec<Spelled>),
    Object(Vec<(String, Spelled)>),
}

/// White space to put between tokens, taken one after another.
pub(crate) type Spaces<'a> = std::iter::Cycle<std::slice::Iter<'a, &'static str>>;

impl Spelled {
    fn write(&self, spaces: &mut Spaces<'_>, out: &mut String) {
        let mut space = |out: &mut String| out.push_str(spaces.next().expect("endless"));
        space(out);
        match self {
            Self::Token(token) => out.push_str(token),
            Self::Array(values) => {
                out.push('[');
                for (i, value) in values.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    value.write(spaces, out);
                }
                out.push_str(spaces.next().expect("endless"));
                out.push(']');
            }
            Self::Object(members) => {
                out.push('{');
                for (i, (name, value)) in members.iter().enumerate() {
                    out.push_str(if i > 0 { "," } else { "" });
                    Self::Token(name.clone()).write(spaces, out);
                    out.push_str(spaces.next().expect("endless"));
                    out.push(':');
                    value.write(spaces, out);
                }
                out.push_str(spaces.next().expect("endless"));
                out.push('}');
            }
        }
        out.push_str(spaces.next().expect("endless"));
    }

    pub(crate) fn spaced(&self, spaces: &[&'static str]) -> String {
        let mut out = String::new();
        self.write(&mut spaces.iter().cycle(), &mut out);
        out
    }

    pub(crate) fn compact(&self) -> String {
        self.spaced(&[""])
    }
}

pub(crate) fn spaces() -> impl Strategy<Value = Vec<&'static str>> {
    prop::collection::vec(select(vec!["", "", " ", "\n", "\t\r\n  "]), 1..12)
}

/// `text` as a JSON string, each character in one of its spellings as `choices` say.
pub(crate) fn spelled_string(text: &str, choices: &[u8]) -> String {
    let mut choices = choices.iter().cycle();
    let mut out = String::from("\"");
    for c in text.chars() {
        let escape = choices.next().is_some_and(|choice| choice % 3 == 0);
        match c {
            '"' | '\\' if !escape => out.extend(['\\', c]),
            '/' if escape => out.push_str("\\/"),
            '\n' if !escape => out.push_str("\\n"),
            c if escape || c < ' ' => c.encode_utf16(&mut [0; 2]).iter().for_each(|unit| {
                out.push_str(&if unit % 2 == 0 { format!("\\u{unit:04x}") } else { format!("\\u{unit:04X}") });
            }),
            c => out.push(c),
        }
    }
    out + "\""
}

pub(crate) fn any_string() -> impl Strategy<Value = String> {
    let text = prop_oneof!["[ -~]{0,24}", "\\PC{0,12}", any::<String>().prop_map(|s| s.chars().take(16).collect())];
    (text, prop::collection::vec(any::<u8>(), 1..8)).prop_map(|(text, choices)| spelled_string(&text, &choices))
}

pub(crate) fn any_json() -> impl Strategy<Value = Spelled> {
    let token = prop_oneof![
        select(vec!["null", "true", "false", "0", "-0", "1.0", "1e400", "18446744073709551617", "-0.0E-0"])
            .prop_map(str::to_owned),
        "-?(0|[1-9][0-9]{0,20})(\\.[0-9]{1,8})?([eE][+-]?[0-9]{1,2})?",
        any_string(),
    ];
    token.prop_map(Spelled::Token).prop_recursive(6, 64, 24, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Spelled::Array),
            // The number keeps the names of one object apart.
            prop::collection::vec((any_string(), inner), 0..24).prop_map(|members| {
                let apart = |(i, (name, value)): (usize, (String, Spelled))| (format!("\"{i} {}", &name[1..]), value);
                Spelled::Object(members.into_iter().enumerate().map(apart).collect())
            }),
        ]
    })
}
