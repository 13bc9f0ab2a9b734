//! The one JSON reader: strict, in one pass over the bytes, without a value tree.
//!
//! It checks a text (RFC 8259 and what we refuse besides) and gives out its tokens as they stand. It never
//! interprets a number and never normalises a spelling: `1.0` stays `1.0`, `\u00e9` stays `\u00e9`.
//!
//! Refused beyond RFC 8259, because readers of such texts disagree on what they mean: two members of one name
//! in an object at any depth (compared unescaped: `"a"` is `"\u0061"`), escapes of lone surrogates, a byte
//! order mark, and values nested deeper than [`LEVELS_MAX`].

use std::borrow::Cow;
use std::collections::HashSet;

use thiserror::Error;

/// A value nests at most this deep: `[]` is one level, `[[]]` two.
pub const LEVELS_MAX: usize = 64;

/// Up to this many names of an object are compared one by one; more of them go into a hash set.
const NAMES_COMPARED_MAX: usize = 16;

/// Why a text is not acceptable JSON.
#[derive(Debug, Clone, PartialEq, Eq, Error)]
#[error("{reason} at byte {byte}")]
pub struct JsonError {
    /// Where, counted from 0.
    pub byte: usize,
    /// What is wrong.
    pub reason: &'static str,
}

/// What a value is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// `null`.
    Null,
    /// `true` or `false`.
    Boolean,
    /// A number, of any size and precision.
    Number,
    /// A string.
    String,
    /// An array.
    Array,
    /// An object.
    Object,
}

/// A value that was checked, as it stands in the text.
#[derive(Debug, Clone, Copy)]
pub struct Value<'a> {
    /// What it is.
    pub kind: Kind,
    /// Its text from first to last byte, a string's quotation marks included.
    pub text: &'a str,
    /// Whether there is white space between its tokens.
    spaced: bool,
}

impl<'a> Value<'a> {
    /// The characters of a string, its escapes resolved; `None` for any other kind.
    #[must_use]
    pub fn string(&self) -> Option<Cow<'a, str>> {
        (self.kind == Kind::String).then(|| unescape(&self.text[1..self.text.len() - 1]))
    }

    /// The text without the white space between its tokens.
    #[must_use]
    pub fn compact(&self) -> Cow<'a, str> {
        if self.spaced { Cow::Owned(without_space(self.text)) } else { Cow::Borrowed(self.text) }
    }
}

/// Checks that `text` is one value and appends it to `out` without the white space between its tokens.
///
/// # Errors
/// [`JsonError`]: the first thing that is wrong. `out` is as it was.
pub fn compact(text: &[u8], out: &mut String) -> Result<(), JsonError> {
    let mut scanner = Scanner::new(text)?;
    let value = scanner.value()?;
    scanner.end()?;
    out.push_str(&value.compact());
    Ok(())
}

/// Appends `text` as a JSON string, in one spelling: `\"`, `\\`, control characters (DEL and C1 among them)
/// as `\u00xx` in lower case, and nothing else escaped.
pub fn write_string(text: &str, out: &mut Vec<u8>) {
    out.push(b'"');
    write_characters(text, out);
    out.push(b'"');
}

/// The same without quotation marks.
pub(crate) fn write_characters(text: &str, out: &mut Vec<u8>) {
    if plain_end(text.as_bytes(), 0) == text.len() && !may_hold_control(text) {
        out.extend_from_slice(text.as_bytes());
    } else {
        for char in text.chars() {
            match char {
                '"' => out.extend_from_slice(b"\\\""),
                '\\' => out.extend_from_slice(b"\\\\"),
                _ if char.is_control() => out.extend_from_slice(format!("\\u{:04x}", u32::from(char)).as_bytes()),
                _ => out.extend_from_slice(char.encode_utf8(&mut [0; 4]).as_bytes()),
            }
        }
    }
}

/// Whether there is a control character (Unicode's Cc: C0, DEL and C1).
#[must_use]
pub fn holds_control(text: &str) -> bool {
    may_hold_control(text) && text.chars().any(char::is_control)
}

/// False where there is certainly no control character; without a branch, so that it takes many bytes at once.
fn may_hold_control(text: &str) -> bool {
    // 0xc2 begins all of C1 (and U+00A0 to U+00BF).
    text.bytes().fold(false, |may, b| may | (b < 0x20) | (b == 0x7f) | (b == 0xc2))
}

/// Reads a text from front to back. After an error it is of no further use.
#[derive(Debug)]
pub struct Scanner<'a> {
    text: &'a str,
    at: usize,
    /// Whether white space was passed since this was last set to false.
    spaced: bool,
    /// The names met so far in each of the objects that are open, outermost first.
    names: Vec<Cow<'a, str>>,
}

impl<'a> Scanner<'a> {
    /// Starts at the first byte.
    ///
    /// # Errors
    /// [`JsonError`] if `text` is not UTF-8 or begins with a byte order mark.
    pub fn new(text: &'a [u8]) -> Result<Self, JsonError> {
        let text =
            std::str::from_utf8(text).map_err(|e| JsonError { byte: e.valid_up_to(), reason: "invalid UTF-8" })?;
        if text.starts_with('\u{feff}') {
            return Err(JsonError { byte: 0, reason: "a byte order mark" });
        }
        Ok(Self { text, at: 0, spaced: false, names: Vec::with_capacity(NAMES_COMPARED_MAX) })
    }

    /// Reads an object: calls `member` with each name (its escapes resolved), standing before the member's
    /// value, which `member` has to read.
    ///
    /// # Errors
    /// Whatever `member` returns, or a [`JsonError`]: no object here, a name for the second time.
    pub fn object<E: From<JsonError>>(
        &mut self,
        mut member: impl FnMut(&mut Self, Cow<'a, str>) -> Result<(), E>,
    ) -> Result<(), E> {
        self.expect(b'{', "an object is expected")?;
        let outer = self.names.len();
        let mut many = None;
        let mut open = self.peek() != Some(b'}');
        while open {
            let name = self.name(outer, &mut many)?;
            self.expect(b':', "':' is expected")?;
            member(self, name)?;
            open = self.peek() == Some(b',');
            self.at += usize::from(open);
        }
        self.expect(b'}', "',' or '}' is expected")?;
        self.names.truncate(outer);
        Ok(())
    }

    /// Reads an array: calls `element` before each value, which `element` has to read.
    ///
    /// # Errors
    /// Whatever `element` returns, or a [`JsonError`]: no array here.
    pub fn array<E: From<JsonError>>(&mut self, mut element: impl FnMut(&mut Self) -> Result<(), E>) -> Result<(), E> {
        self.expect(b'[', "an array is expected")?;
        let mut open = self.peek() != Some(b']');
        while open {
            element(self)?;
            open = self.peek() == Some(b',');
            self.at += usize::from(open);
        }
        self.expect(b']', "',' or ']' is expected")?;
        Ok(())
    }

    /// Checks the next value and gives it out as it stands. It may nest [`LEVELS_MAX`] deep from here on.
    ///
    /// # Errors
    /// [`JsonError`]: no value, or one that is not acceptable.
    pub fn value(&mut self) -> Result<Value<'a>, JsonError> {
        self.peek();
        let start = self.at;
        self.spaced = false;
        let kind = self.pass(LEVELS_MAX)?;
        Ok(Value { kind, text: &self.text[start..self.at], spaced: self.spaced })
    }

    /// Checks that nothing follows.
    ///
    /// # Errors
    /// [`JsonError`] if something does.
    pub fn end(&mut self) -> Result<(), JsonError> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.error("something follows the value")),
        }
    }

    /// Passes over a value that may have `levels` more levels.
    fn pass(&mut self, levels: usize) -> Result<Kind, JsonError> {
        match self.peek() {
            Some(b'"') => self.pass_string().map(|()| Kind::String),
            Some(b'{' | b'[') if levels == 0 => Err(self.error("more than 64 levels")),
            Some(b'{') => self.object(|inner, _| inner.pass(levels - 1).map(drop)).map(|()| Kind::Object),
            Some(b'[') => self.array(|inner| inner.pass(levels - 1).map(drop)).map(|()| Kind::Array),
            Some(b't') => self.pass_word("true").map(|()| Kind::Boolean),
            Some(b'f') => self.pass_word("false").map(|()| Kind::Boolean),
            Some(b'n') => self.pass_word("null").map(|()| Kind::Null),
            Some(b'-' | b'0'..=b'9') => self.pass_number().map(|()| Kind::Number),
            _ => Err(self.error("a value is expected")),
        }
    }

    /// Reads a member's name and refuses one that the object has already: `outer` names belong to the objects
    /// around it, and `many` holds this object's names once they are too many to be compared one by one.
    fn name(&mut self, outer: usize, many: &mut Option<HashSet<Cow<'a, str>>>) -> Result<Cow<'a, str>, JsonError> {
        if self.peek() != Some(b'"') {
            return Err(self.error("a member's name is expected"));
        }
        let start = self.at;
        self.pass_string()?;
        let name = unescape(&self.text[start + 1..self.at - 1]);
        let own = &self.names[outer..];
        if own.len() == NAMES_COMPARED_MAX && many.is_none() {
            *many = Some(own.iter().cloned().collect());
        }
        let new = match many {
            Some(many) => many.insert(name.clone()),
            None => !own.contains(&name),
        };
        if !new {
            return Err(JsonError { byte: start, reason: "a member of the same name stands before" });
        }
        if many.is_none() {
            self.names.push(name.clone());
        }
        Ok(name)
    }

    fn pass_string(&mut self) -> Result<(), JsonError> {
        let bytes = self.text.as_bytes();
        self.at += 1;
        loop {
            self.at = plain_end(bytes, self.at);
            match bytes.get(self.at) {
                Some(b'"') => break,
                Some(b'\\') => self.pass_escape()?,
                Some(_) => return Err(self.error("a control character")),
                None => return Err(self.error("the string does not end")),
            }
        }
        self.at += 1;
        Ok(())
    }

    fn pass_escape(&mut self) -> Result<(), JsonError> {
        match self.text.as_bytes().get(self.at + 1) {
            Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't') => {
                self.at += 2;
                return Ok(());
            }
            Some(b'u') => {}
            _ => return Err(self.error("no such escape")),
        }
        let rest = &self.text.as_bytes()[self.at..];
        match escaped_unit(rest) {
            None => Err(self.error("four hexadecimal digits are expected")),
            Some(0xd800..=0xdbff) => match rest.get(6..).and_then(escaped_unit) {
                Some(0xdc00..=0xdfff) => {
                    self.at += 12;
                    Ok(())
                }
                _ => Err(self.error("a lone surrogate")),
            },
            Some(0xdc00..=0xdfff) => Err(self.error("a lone surrogate")),
            Some(_) => {
                self.at += 6;
                Ok(())
            }
        }
    }

    fn pass_number(&mut self) -> Result<(), JsonError> {
        self.at += usize::from(self.byte() == Some(b'-'));
        if self.byte() == Some(b'0') {
            self.at += 1;
        } else {
            self.pass_digits()?;
        }
        if self.byte() == Some(b'.') {
            self.at += 1;
            self.pass_digits()?;
        }
        if let Some(b'e' | b'E') = self.byte() {
            self.at += 1;
            self.at += usize::from(matches!(self.byte(), Some(b'+' | b'-')));
            self.pass_digits()?;
        }
        Ok(())
    }

    fn pass_digits(&mut self) -> Result<(), JsonError> {
        let start = self.at;
        while self.byte().is_some_and(|b| b.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at == start { Err(self.error("a digit is expected")) } else { Ok(()) }
    }

    fn pass_word(&mut self, word: &str) -> Result<(), JsonError> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return Err(self.error("a value is expected"));
        }
        self.at += word.len();
        Ok(())
    }

    /// Passes `byte`, which has to be the next token.
    fn expect(&mut self, byte: u8, reason: &'static str) -> Result<(), JsonError> {
        if self.peek() != Some(byte) {
            return Err(self.error(reason));
        }
        self.at += 1;
        Ok(())
    }

    /// First byte of the next token; passes over white space.
    fn peek(&mut self) -> Option<u8> {
        while let Some(b' ' | b'\t' | b'\n' | b'\r') = self.byte() {
            self.at += 1;
            self.spaced = true;
        }
        self.byte()
    }

    fn byte(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn error(&self, reason: &'static str) -> JsonError {
        JsonError { byte: self.at, reason }
    }
}

/// Where the plain characters of a string end that begin at `at`: at a `"`, a `\`, a control character or
/// the end. Eight bytes at a time, as most strings are a few words long.
fn plain_end(bytes: &[u8], mut at: usize) -> usize {
    const ONES: u64 = u64::from_ne_bytes([1; 8]);
    const HIGH: u64 = u64::from_ne_bytes([0x80; 8]);
    // The high bit of each byte that is below `limit` (or, where a lower byte is, maybe of others).
    let below = |word: u64, limit: u8| word.wrapping_sub(ONES * u64::from(limit)) & !word & HIGH;
    let is = |word: u64, byte: u8| below(word ^ (ONES * u64::from(byte)), 1);
    while let Some(chunk) = bytes.get(at..).and_then(<[u8]>::first_chunk::<8>) {
        let word = u64::from_ne_bytes(*chunk);
        if below(word, 0x20) | is(word, b'"') | is(word, b'\\') != 0 {
            break;
        }
        at += chunk.len();
    }
    let plain = |b: &u8| *b >= 0x20 && *b != b'"' && *b != b'\\';
    at + bytes[at..].iter().take_while(|b| plain(b)).count()
}

/// The UTF-16 unit of `\uXXXX`, where `bytes` begin with one.
fn escaped_unit(bytes: &[u8]) -> Option<u16> {
    let digits = bytes.strip_prefix(b"\\u")?.get(..4)?;
    digits.iter().try_fold(0, |unit: u16, digit| {
        let digit = u16::try_from(char::from(*digit).to_digit(16)?).ok()?;
        Some(unit << 4 | digit)
    })
}

/// Resolves the escapes of a string's inner text, which was checked.
fn unescape(inner: &str) -> Cow<'_, str> {
    let Some(first) = memchr::memchr(b'\\', inner.as_bytes()) else {
        return Cow::Borrowed(inner);
    };
    let mut text = String::with_capacity(inner.len());
    text.push_str(&inner[..first]);
    let mut rest = &inner[first..];
    while !rest.is_empty() {
        let (char, bytes) = unescape_first(rest);
        text.push(char);
        let plain = rest.len() - bytes;
        let next = memchr::memchr(b'\\', &rest.as_bytes()[bytes..]).unwrap_or(plain);
        text.push_str(&rest[bytes..bytes + next]);
        rest = &rest[bytes + next..];
    }
    Cow::Owned(text)
}

/// The character of the escape that `rest` begins with, and the escape's length.
fn unescape_first(rest: &str) -> (char, usize) {
    let bytes = rest.as_bytes();
    match bytes.get(1) {
        Some(b'b') => ('\u{8}', 2),
        Some(b'f') => ('\u{c}', 2),
        Some(b'n') => ('\n', 2),
        Some(b'r') => ('\r', 2),
        Some(b't') => ('\t', 2),
        Some(b'u') => {
            let units = [escaped_unit(bytes), bytes.get(6..).and_then(escaped_unit)];
            let char = char::decode_utf16(units.into_iter().flatten()).next();
            let char = char.and_then(Result::ok).expect("escapes were checked when they were passed");
            (char, 6 * char.len_utf16())
        }
        mark => (char::from(*mark.expect("escapes were checked when they were passed")), 2),
    }
}

/// Copies a text that was checked, less the white space outside of its strings.
fn without_space(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = String::with_capacity(text.len());
    let (mut run, mut at) = (0, 0);
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = string_end(bytes, at),
            b' ' | b'\t' | b'\n' | b'\r' => {
                out.push_str(&text[run..at]);
                at += 1;
                run = at;
            }
            _ => at += 1,
        }
    }
    out.push_str(&text[run..]);
    out
}

/// The byte after a checked string that begins at `start`.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while let Some(mark) = memchr::memchr2(b'"', b'\\', &bytes[at..]) {
        at += mark + 1;
        if bytes[at - 1] == b'"' {
            break;
        }
        at += 1;
    }
    at
}
