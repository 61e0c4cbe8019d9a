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
#[derive(Debug, Clone, Copy)]
pub(crate) struct RawStr<'a> {
    text: &'a str,
    escaped: bool,
}

impl<'a> RawStr<'a> {
    /// The string that is meant; borrowed where it has no escape.
    #[inline]
    pub(crate) fn decode(self) -> Cow<'a, str> {
        if self.escaped { Cow::Owned(unescape(self.text)) } else { Cow::Borrowed(self.text) }
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
    let mut scanner = Scanner { text, at: 0, depth: 0 };
    let result = if scanner.next_token() == b'{' {
        scanner.object(each).map(|()| None)
    } else {
        scanner.value().map(|value| match value {
            Value::Null => Some("null"),
            Value::Bool => Some("a boolean"),
            Value::Number(_) => Some("a number"),
            Value::String(_) => Some("a string"),
            Value::Array => Some("an array"),
            Value::Object(_) => None,
        })
    };
    match result.and_then(|other| scanner.end().map(|()| other)) {
        Ok(None) => Ok(()),
        Ok(Some(other)) => Err(NotAnObject::Other(other)),
        Err(error) => Err(NotAnObject::NotJson(error)),
    }
}

type Scanned<T> = Result<T, SyntaxError>;

struct Scanner<'a> {
    text: &'a str,
    /// The next byte to look at; always between characters.
    at: usize,
    depth: u32,
}

impl<'a> Scanner<'a> {
    /// The byte at hand; 0, which no JSON has outside of strings nor inside, at the end.
    #[inline]
    fn byte(&self) -> u8 {
        self.text.as_bytes().get(self.at).copied().unwrap_or(0)
    }

    /// Passes white space and says what comes then.
    #[inline]
    fn next_token(&mut self) -> u8 {
        loop {
            match self.byte() {
                b' ' | b'\n' | b'\r' | b'\t' => self.at += 1,
                byte => return byte,
            }
        }
    }

    #[cold]
    fn error<T>(&self, what: &'static str) -> Scanned<T> {
        let what = if self.at < self.text.len() { what } else { "unexpected end" };
        Err(SyntaxError { what, at: self.at })
    }

    fn end(&mut self) -> Scanned<()> {
        self.next_token();
        if self.at == self.text.len() { Ok(()) } else { self.error("something behind the value") }
    }

    fn enter(&mut self) -> Scanned<()> {
        if self.depth == MAX_DEPTH {
            return self.error("nesting beyond 127 levels");
        }
        self.depth += 1;
        self.at += 1;
        Ok(())
    }

    #[inline]
    fn value(&mut self) -> Scanned<Value<'a>> {
        match self.next_token() {
            b'"' => self.string().map(Value::String),
            b'-' | b'0'..=b'9' => self.number().map(Value::Number),
            b'{' => {
                let start = self.at;
                self.object(|_, _| ())?;
                Ok(Value::Object(&self.text[start..self.at]))
            }
            b'[' => self.array().map(|()| Value::Array),
            b't' => self.literal("true", Value::Bool),
            b'f' => self.literal("false", Value::Bool),
            b'n' => self.literal("null", Value::Null),
            _ => self.error("expected a value"),
        }
    }

    /// At the opening brace.
    #[inline]
    fn object(&mut self, mut each: impl FnMut(RawStr<'a>, Value<'a>)) -> Scanned<()> {
        self.enter()?;
        if self.next_token() != b'}' {
            loop {
                if self.next_token() != b'"' {
                    return self.error("expected a name in quotes");
                }
                let name = self.string()?;
                if self.next_token() != b':' {
                    return self.error("expected `:`");
                }
                self.at += 1;
                each(name, self.value()?);
                match self.next_token() {
                    b',' => self.at += 1,
                    b'}' => break,
                    _ => return self.error("expected `,` or `}`"),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    /// At the opening bracket.
    fn array(&mut self) -> Scanned<()> {
        self.enter()?;
        if self.next_token() != b']' {
            loop {
                self.value()?;
                match self.next_token() {
                    b',' => self.at += 1,
                    b']' => break,
                    _ => return self.error("expected `,` or `]`"),
                }
            }
        }
        self.at += 1;
        self.depth -= 1;
        Ok(())
    }

    fn literal(&mut self, word: &str, value: Value<'a>) -> Scanned<Value<'a>> {
        if !self.text.as_bytes()[self.at..].starts_with(word.as_bytes()) {
            return self.error("expected a value");
        }
        self.at += word.len();
        Ok(value)
    }

    /// At the opening quote.
    #[inline]
    fn string(&mut self) -> Scanned<RawStr<'a>> {
        self.at += 1;
        let start = self.at;
        let mut escaped = false;
        loop {
            self.at += plain_len(&self.text.as_bytes()[self.at..]);
            match self.byte() {
                b'"' => break,
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return self.error("control character in a string"),
            }
        }
        let text = &self.text[start..self.at];
        self.at += 1;
        Ok(RawStr { text, escaped })
    }

    /// At the backslash.
    #[cold]
    fn escape(&mut self) -> Scanned<()> {
        self.at += 1;
        match self.byte() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => match self.unit()? {
                0xDC00..=0xDFFF => return self.error("escape of a lone surrogate"),
                0xD800..=0xDBFF => {
                    if !self.text.as_bytes()[self.at..].starts_with(b"\\u") {
                        return self.error("escape of a lone surrogate");
                    }
                    self.at += 1;
                    if !(0xDC00..=0xDFFF).contains(&self.unit()?) {
                        return self.error("escape of a lone surrogate");
                    }
                }
                _ => {}
            },
            _ => return self.error("unknown escape"),
        }
        Ok(())
    }

    /// The UTF-16 unit of the four digits behind the `u` at hand.
    fn unit(&mut self) -> Scanned<u16> {
        match self.text.as_bytes().get(self.at + 1..self.at + 5).and_then(hex4) {
            Some(unit) => {
                self.at += 5;
                Ok(unit)
            }
            None => self.error("expected four hexadecimal digits"),
        }
    }

    #[inline]
    fn number(&mut self) -> Scanned<&'a str> {
        let start = self.at;
        let mut plain = true;
        if self.byte() == b'-' {
            self.at += 1;
        }
        if self.byte() == b'0' {
            self.at += 1;
        } else {
            self.digits()?;
        }
        if self.byte() == b'.' {
            self.at += 1;
            self.digits()?;
        }
        if matches!(self.byte(), b'e' | b'E') {
            plain = false;
            self.at += 1;
            if matches!(self.byte(), b'+' | b'-') {
                self.at += 1;
            }
            self.digits()?;
        }
        let text = &self.text[start..self.at];
        // The greatest double has 309 digits.
        if (!plain || text.len() > 300) && !text.parse().is_ok_and(f64::is_finite) {
            self.at = start;
            return self.error("number beyond the range of a double");
        }
        Ok(text)
    }

    #[inline]
    fn digits(&mut self) -> Scanned<()> {
        if !self.byte().is_ascii_digit() {
            return self.error("expected a digit");
        }
        while self.byte().is_ascii_digit() {
            self.at += 1;
        }
        Ok(())
    }
}

/// How many bytes come before the first quote, backslash or control character.
#[inline]
fn plain_len(bytes: &[u8]) -> usize {
    // Eight bytes at a time: the lowest bit set by `zero_bytes` is right, those above may not be
    // (https://graphics.stanford.edu/~seander/bithacks.html#ZeroInWord, "haszero" and "hasless").
    const ONES: u64 = u64::from_le_bytes([0x01; 8]);
    const HIGH: u64 = u64::from_le_bytes([0x80; 8]);
    let zero_bytes = |word: u64| word.wrapping_sub(ONES) & !word & HIGH;
    let (words, rest) = bytes.as_chunks::<8>();
    for (i, word) in words.iter().enumerate() {
        let word = u64::from_le_bytes(*word);
        let stop = zero_bytes(word ^ (ONES * u64::from(b'"')))
            | zero_bytes(word ^ (ONES * u64::from(b'\\')))
            | (word.wrapping_sub(ONES * 0x20) & !word & HIGH);
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
