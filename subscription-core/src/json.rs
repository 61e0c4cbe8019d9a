//! A strict scanner of JSON objects that copies nothing.
//!
//! JSON here is RFC 8259, and further: at most [`MAX_DEPTH`] levels, no escape of a lone surrogate, no number that no
//! double can hold. Whatever lies in fields that nobody reads is held to the same rules, so that what is JSON does not
//! depend on who looks.
//!
//! `serde_json` would be the natural choice, but what it skips (`IgnoredAny`, `RawValue`) it checks neither for depth nor
//! surrogates nor range, and its numbers go through an inexact float or a feature that changes every other crate's. Tests
//! hold this scanner to `serde_json`'s verdict on generated and broken input.

use std::borrow::Cow;
use std::fmt;

/// How deep arrays and objects may be nested.
pub(crate) const MAX_DEPTH: u32 = 127;

/// A value, as its text where that matters.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Value<'a> {
    Null,
    Bool,
    Number(&'a str),
    String(RawStr<'a>),
    Array,
    /// The text of the object, braces included: valid, to be read with [`members`].
    Object(&'a str),
}

/// The inside of a string as it was written.
// Not a text and a `bool`: the padding behind that would be copied with it, a wide load right behind a narrow store, which
// no processor forwards. That took half the time of a scan.
#[derive(Debug, Clone, Copy)]
pub(crate) enum RawStr<'a> {
    Plain(&'a str),
    /// It has escapes, all of them valid.
    Escaped(&'a str),
}

impl<'a> RawStr<'a> {
    /// The string that is meant; borrowed where it has no escape.
    #[inline]
    pub(crate) fn decode(self) -> Cow<'a, str> {
        match self {
            Self::Plain(text) => Cow::Borrowed(text),
            Self::Escaped(text) => Cow::Owned(unescape(text)),
        }
    }
}

/// Why a text is no JSON object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NotAnObject {
    /// It is no JSON at all.
    NotJson(SyntaxError),
    /// It is JSON of this other type.
    Other(&'static str),
}

/// Where a text stops to be JSON, and what was wrong there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SyntaxError {
    what: &'static str,
    at: usize,
}

impl fmt::Display for SyntaxError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} at byte {}", self.what, self.at)
    }
}

/// Calls `each` for every member of the object that `text` is, repeated names too, in order.
///
/// # Errors
/// If `text` is no object. `each` may have been called before.
#[inline]
pub(crate) fn members<'a>(text: &'a str, each: impl FnMut(RawStr<'a>, Value<'a>)) -> Result<(), NotAnObject> {
    let scanner = Scanner { text };
    let start = scanner.skip_space(0);
    let scanned = if scanner.byte(start) == b'{' {
        scanner.object(start, 1, each).map(|end| (None, end))
    } else {
        scanner.value(start, 0).map(|(value, end)| (Some(value), end))
    };
    let (other, end) = scanned.map_err(NotAnObject::NotJson)?;
    let end = scanner.skip_space(end);
    if end < text.len() {
        return scanner.error("something behind the value", end).map_err(NotAnObject::NotJson);
    }
    match other {
        // An object was taken as one.
        None | Some(Value::Object(_)) => Ok(()),
        Some(Value::Null) => Err(NotAnObject::Other("null")),
        Some(Value::Bool) => Err(NotAnObject::Other("a boolean")),
        Some(Value::Number(_)) => Err(NotAnObject::Other("a number")),
        Some(Value::String(_)) => Err(NotAnObject::Other("a string")),
        Some(Value::Array) => Err(NotAnObject::Other("an array")),
    }
}

type Scanned<T> = Result<T, SyntaxError>;

/// Each method takes the place to begin at and returns the one where it ended.
#[derive(Clone, Copy)]
struct Scanner<'a> {
    text: &'a str,
}

impl<'a> Scanner<'a> {
    /// The byte there; 0 at the end, which no JSON has anywhere.
    #[inline(always)]
    fn byte(self, at: usize) -> u8 {
        self.text.as_bytes().get(at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn skip_space(self, mut at: usize) -> usize {
        while matches!(self.byte(at), b' ' | b'\n' | b'\r' | b'\t') {
            at += 1;
        }
        at
    }

    #[cold]
    fn error<T>(self, what: &'static str, at: usize) -> Scanned<T> {
        let what = if at < self.text.len() { what } else { "unexpected end" };
        Err(SyntaxError { what, at })
    }

    /// A value that is nested in `depth` others and begins at `at`.
    #[inline(always)]
    fn value(self, at: usize, depth: u32) -> Scanned<(Value<'a>, usize)> {
        match self.byte(at) {
            b'"' => self.string(at).map(|(string, end)| (Value::String(string), end)),
            b'-' | b'0'..=b'9' => self.number(at).map(|(number, end)| (Value::Number(number), end)),
            _ => self.other_value(at, depth),
        }
    }

    #[inline(never)]
    fn other_value(self, at: usize, depth: u32) -> Scanned<(Value<'a>, usize)> {
        match self.byte(at) {
            b'{' | b'[' if depth == MAX_DEPTH => self.error("nesting beyond 127 levels", at),
            b'{' => self.object(at, depth + 1, |_, _| ()).map(|end| (Value::Object(&self.text[at..end]), end)),
            b'[' => self.array(at, depth + 1).map(|end| (Value::Array, end)),
            b't' => self.literal("true", at).map(|end| (Value::Bool, end)),
            b'f' => self.literal("false", at).map(|end| (Value::Bool, end)),
            b'n' => self.literal("null", at).map(|end| (Value::Null, end)),
            _ => self.error("expected a value", at),
        }
    }

    /// `at` is the opening brace.
    #[inline(always)]
    fn object(self, at: usize, depth: u32, mut each: impl FnMut(RawStr<'a>, Value<'a>)) -> Scanned<usize> {
        let mut at = self.skip_space(at + 1);
        if self.byte(at) == b'}' {
            return Ok(at + 1);
        }
        loop {
            if self.byte(at) != b'"' {
                return self.error("expected a name in quotes", at);
            }
            let (name, end) = self.string(at)?;
            at = self.skip_space(end);
            if self.byte(at) != b':' {
                return self.error("expected `:`", at);
            }
            let (value, end) = self.value(self.skip_space(at + 1), depth)?;
            each(name, value);
            at = self.skip_space(end);
            match self.byte(at) {
                b',' => at = self.skip_space(at + 1),
                b'}' => return Ok(at + 1),
                _ => return self.error("expected `,` or `}`", at),
            }
        }
    }

    /// `at` is the opening bracket.
    fn array(self, at: usize, depth: u32) -> Scanned<usize> {
        let mut at = self.skip_space(at + 1);
        if self.byte(at) == b']' {
            return Ok(at + 1);
        }
        loop {
            let (_, end) = self.value(at, depth)?;
            at = self.skip_space(end);
            match self.byte(at) {
                b',' => at = self.skip_space(at + 1),
                b']' => return Ok(at + 1),
                _ => return self.error("expected `,` or `]`", at),
            }
        }
    }

    fn literal(self, word: &str, at: usize) -> Scanned<usize> {
        if !self.text.as_bytes()[at..].starts_with(word.as_bytes()) {
            return self.error("expected a value", at);
        }
        Ok(at + word.len())
    }

    /// `at` is the opening quote.
    #[inline(always)]
    fn string(self, at: usize) -> Scanned<(RawStr<'a>, usize)> {
        let end = self.plain_end(at + 1);
        if self.byte(end) == b'"' {
            return Ok((RawStr::Plain(&self.text[at + 1..end]), end + 1));
        }
        self.string_with_escapes(at, end)
    }

    /// As [`Scanner::string`]; nothing before `end` was special.
    #[cold]
    #[inline(never)]
    fn string_with_escapes(self, at: usize, mut end: usize) -> Scanned<(RawStr<'a>, usize)> {
        loop {
            match self.byte(end) {
                b'"' => return Ok((RawStr::Escaped(&self.text[at + 1..end]), end + 1)),
                b'\\' => end = self.plain_end(self.escape(end)?),
                _ => return self.error("control character in a string", end),
            }
        }
    }

    /// `at` is the backslash.
    fn escape(self, at: usize) -> Scanned<usize> {
        match self.byte(at + 1) {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(at + 2),
            b'u' => match self.unit(at)? {
                0xDC00..=0xDFFF => self.error("escape of a lone surrogate", at),
                0xD800..=0xDBFF => {
                    let paired = self.text.as_bytes()[at + 6..].starts_with(b"\\u")
                        && (0xDC00..=0xDFFF).contains(&self.unit(at + 6)?);
                    if paired { Ok(at + 12) } else { self.error("escape of a lone surrogate", at) }
                }
                _ => Ok(at + 6),
            },
            _ => self.error("unknown escape", at),
        }
    }

    /// The UTF-16 unit of the escape `\uXXXX` at `at`.
    fn unit(self, at: usize) -> Scanned<u16> {
        match self.text.as_bytes().get(at + 2..at + 6).and_then(hex4) {
            Some(unit) => Ok(unit),
            None => self.error("expected `\\u` and four hexadecimal digits", at),
        }
    }

    #[inline(always)]
    fn number(self, start: usize) -> Scanned<(&'a str, usize)> {
        let mut at = start + usize::from(self.byte(start) == b'-');
        at = if self.byte(at) == b'0' { at + 1 } else { self.digits(at)? };
        if self.byte(at) == b'.' {
            at = self.digits(at + 1)?;
        }
        let exponent = matches!(self.byte(at), b'e' | b'E');
        if exponent {
            at = self.digits(at + 1 + usize::from(matches!(self.byte(at + 1), b'+' | b'-')))?;
        }
        let text = &self.text[start..at];
        // The greatest double has 309 digits.
        if (exponent || text.len() > 300) && !text.parse().is_ok_and(f64::is_finite) {
            return self.error("number beyond the range of a double", start);
        }
        Ok((text, at))
    }

    /// At least one digit.
    #[inline(always)]
    fn digits(self, mut at: usize) -> Scanned<usize> {
        if !self.byte(at).is_ascii_digit() {
            return self.error("expected a digit", at);
        }
        while self.byte(at).is_ascii_digit() {
            at += 1;
        }
        Ok(at)
    }

    /// Where the first quote, backslash or control character is, or the end.
    #[inline(always)]
    fn plain_end(self, at: usize) -> usize {
        at + plain_len(&self.text.as_bytes()[at..])
    }
}

/// How many bytes come before the first quote, backslash or control character.
#[inline(always)]
fn plain_len(bytes: &[u8]) -> usize {
    // Eight bytes at a time: the lowest bit set by `zero_bytes` is right, those above may not be
    // (https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord, "haszero" and "hasless").
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        // With its second bit changed, a quote is 0x20, and control characters, and nothing else, are below that.
        let quotes = word ^ (ONES * 0x02);
        let stop = (quotes.wrapping_sub(ONES * 0x21) & !quotes & HIGH) | zero_bytes(word ^ (ONES * u64::from(b'\\')));
        if stop != 0 {
            return i * 8 + stop.trailing_zeros() as usize / 8;
        }
    }
    let plain = rest.iter().position(|&byte| byte < 0x20 || byte == b'"' || byte == b'\\');
    words.len() * 8 + plain.unwrap_or(rest.len())
}

fn hex4(digits: &[u8]) -> Option<u16> {
    digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)? as u16))
}

/// The string that a scanned text with escapes means.
#[cold]
fn unescape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find('\\') {
        out.push_str(&rest[..at]);
        let escape = rest.as_bytes()[at + 1];
        let mut len = 2;
        match escape {
            b'b' => out.push('\u{8}'),
            b'f' => out.push('\u{c}'),
            b'n' => out.push('\n'),
            b'r' => out.push('\r'),
            b't' => out.push('\t'),
            b'u' => {
                let unit = |at: usize| rest.as_bytes().get(at..at + 4).and_then(hex4);
                let high = unit(at + 2);
                len = if matches!(high, Some(0xD800..=0xDBFF)) { 12 } else { 6 };
                let low = unit(at + 8).filter(|_| len == 12);
                out.extend(char::decode_utf16(high.into_iter().chain(low)).flatten());
            }
            itself => out.push(char::from(itself)),
        }
        rest = &rest[at + len..];
    }
    out.push_str(rest);
    out
}
