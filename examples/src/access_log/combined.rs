//! The Common and Combined log formats.
//!
//! `%h %l %u %t "%r" %>s %b "%{Referer}i" "%{User-agent}i"`, see
//! <https://httpd.apache.org/docs/2.4/mod/mod_log_config.html>; nginx's `combined` is the same.

use std::borrow::Cow;
use std::net::IpAddr;

use chrono::NaiveDate;
use memchr::memmem;
use subscription_core::Timestamp;

use super::Request;

pub(super) fn parse(line: &[u8]) -> Option<Request<'_>> {
    let (front, time, rest) = split_at_time(line)?;
    let rest = rest.strip_prefix(b" ")?;
    let (request_line, status, bytes, rest) = request_status_bytes(rest)?;
    let (referer, user_agent) = match rest.strip_prefix(b" ") {
        // The Combined format, with whatever follows it.
        Some(rest @ [b'"', ..]) => {
            let (referer, rest) = quoted(rest, |after| after.first() == Some(&b' '))?;
            let (user_agent, _) = quoted(rest.strip_prefix(b" ")?, |after| matches!(after.first(), None | Some(b' ')))?;
            (given(unescape(referer)), given(unescape(user_agent)))
        }
        _ => (None, None),
    };
    let mut request = Request {
        time,
        status,
        response_bytes: Some(bytes),
        referer,
        user_agent,
        ..front_fields(std::str::from_utf8(front).ok()?)?
    };
    (request.method, request.target, request.protocol) = request_parts(unescape(request_line));
    Some(request)
}

/// What is before the time, the time, and what is after it.
fn split_at_time(line: &[u8]) -> Option<(&[u8], Timestamp, &[u8])> {
    memmem::find_iter(line, b" [").find_map(|at| {
        let inside = &line[at + 2..];
        let end = memchr::memchr(b']', &inside[..inside.len().min(40)])?;
        Some((&line[..at], time(&inside[..end])?, &inside[end + 1..]))
    })
}

/// `17/May/2015:10:05:03 +0000`, with digits of a second where the log has them.
pub(super) fn time(text: &[u8]) -> Option<Timestamp> {
    let text = std::str::from_utf8(text).ok()?;
    let (local, offset) = text.split_once(' ')?;
    let (date, clock) = local.split_once(':')?;
    let mut date = date.split('/');
    let (day, month, year) = (date.next()?, date.next()?, date.next()?);
    let mut clock = clock.split(':');
    let (hour, minute, second) = (clock.next()?, clock.next()?, clock.next()?);
    if date.next().is_some() || clock.next().is_some() || year.len() != 4 {
        return None;
    }
    let (second, fraction) = second.split_once('.').unwrap_or((second, ""));
    let month = 1 + MONTHS.iter().position(|name| name.eq_ignore_ascii_case(month))? as u32;
    let date = NaiveDate::from_ymd_opt(digits(year)? as i32, month, digits(day)?)?;
    let (hour, minute, second) = (digits(hour)?, digits(minute)?, digits(second)?);
    // A leap second is the second after.
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    let millis = fraction_millis(fraction)?;
    let seconds = date.and_hms_opt(0, 0, 0)?.and_utc().timestamp() + i64::from(hour * 3_600 + minute * 60 + second)
        - offset_seconds(offset)?;
    in_four_digit_years(Timestamp::from_millis(seconds * 1_000 + millis))
}

const MONTHS: [&str; 12] = ["Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec"];

/// `Some` where RFC 3339 can write it.
pub(super) fn in_four_digit_years(time: Timestamp) -> Option<Timestamp> {
    const YEAR_0: i64 = -62_167_219_200_000;
    const YEAR_10000: i64 = 253_402_300_800_000;
    (YEAR_0..YEAR_10000).contains(&time.millis()).then_some(time)
}

/// The milliseconds of a fraction of a second, finer digits cut.
pub(super) fn fraction_millis(fraction: &str) -> Option<i64> {
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    Some(fraction.bytes().chain(*b"000").take(3).fold(0, |n, b| n * 10 + i64::from(b - b'0')))
}

/// A number of one to four digits.
fn digits(text: &str) -> Option<u32> {
    ((1..=4).contains(&text.len()) && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

/// `+hhmm` or `-hhmm`.
fn offset_seconds(text: &str) -> Option<i64> {
    let (sign, text) = match (text.strip_prefix('+'), text.strip_prefix('-')) {
        (Some(rest), _) => (1, rest),
        (_, Some(rest)) => (-1, rest),
        _ => return None,
    };
    let number = i64::from(digits(text).filter(|_| text.len() == 4)?);
    let (hours, minutes) = (number / 100, number % 100);
    (hours < 24 && minutes < 60).then_some(sign * (hours * 3_600 + minutes * 60))
}

/// Client and user, and the virtual host where the log begins with it.
fn front_fields(front: &str) -> Option<Request<'_>> {
    let mut fields: Vec<&str> = front.split(' ').collect();
    let is_address = |field: &str| field.parse::<IpAddr>().is_ok();
    let host = match fields[..] {
        [first, second, _, _, ..]
            if !first.ends_with(',') && (is_address(second) || has_port(first) && !is_address(first)) =>
        {
            fields.remove(0);
            Some(first)
        }
        _ => None,
    };
    // A list of proxies (`X-Forwarded-For`) begins with the client.
    let client = fields.first()?.trim_end_matches(',');
    while fields.first()?.ends_with(',') {
        fields.remove(0);
    }
    let user = match fields[..] {
        [_, _, user] => user,
        // A user's name may have blanks in it.
        [first, ident, _, ..] => &front[front.len() - fields.join(" ").len() + first.len() + ident.len() + 2..],
        _ => return None,
    };
    Some(Request {
        client: given(Cow::Borrowed(client)),
        user: given(unescape(user.as_bytes())).filter(|user| user != "\"\""),
        host: host.and_then(|host| given(Cow::Borrowed(host))),
        ..Request::default()
    })
}

fn has_port(field: &str) -> bool {
    field.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
}

/// The request line as it is quoted, status and bytes, and what follows.
///
/// Clients send quotes that not every server escapes, so the request ends at the first quote with a status behind it.
#[allow(clippy::type_complexity)]
fn request_status_bytes(text: &[u8]) -> Option<(&[u8], Option<i64>, i64, &[u8])> {
    let mut numbers = None;
    let (request, _) = quoted(text, |after| {
        numbers = status_and_bytes(after);
        numbers.is_some()
    })?;
    let (status, bytes, rest) = numbers?;
    Some((request, status, bytes, rest))
}

/// ` 200 2326`; either may be `-`: a request without a status, a response of no bytes.
fn status_and_bytes(text: &[u8]) -> Option<(Option<i64>, i64, &[u8])> {
    let (status, rest) = word(text.strip_prefix(b" ")?);
    let (bytes, rest) = word(rest.strip_prefix(b" ")?);
    let status = if status == b"-" { None } else { Some(number(status)?) };
    let bytes = if bytes == b"-" { 0 } else { number(bytes)? };
    Some((status, bytes, rest))
}

fn word(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(memchr::memchr(b' ', text).unwrap_or(text.len()))
}

fn number(text: &[u8]) -> Option<i64> {
    text.first().filter(|b| b.is_ascii_digit())?;
    std::str::from_utf8(text).ok()?.parse().ok()
}

/// What is between the quote that `text` begins with and the first unescaped quote that `ends` agrees to from what is
/// behind it; and what is behind it.
fn quoted<'a>(text: &'a [u8], mut ends: impl FnMut(&'a [u8]) -> bool) -> Option<(&'a [u8], &'a [u8])> {
    let inside = text.strip_prefix(b"\"")?;
    let mut at = 0;
    loop {
        at += memchr::memchr2(b'"', b'\\', &inside[at..])?;
        if inside[at] == b'\\' {
            at = (at + 2).min(inside.len());
        } else if ends(&inside[at + 1..]) {
            return Some((&inside[..at], &inside[at + 1..]));
        } else {
            at += 1;
        }
    }
}

/// Undoes Apache's and nginx's escapes; bytes that are no UTF-8 become U+FFFD.
fn unescape(text: &[u8]) -> Cow<'_, str> {
    if memchr::memchr(b'\\', text).is_none() {
        return String::from_utf8_lossy(text);
    }
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = memchr::memchr(b'\\', rest) {
        bytes.extend_from_slice(&rest[..at]);
        rest = &rest[at + 1..];
        let (byte, used) = match rest {
            [b'x', high, low, ..] if high.is_ascii_hexdigit() && low.is_ascii_hexdigit() => {
                ((hex(*high) << 4) | hex(*low), 3)
            }
            [b'n', ..] => (b'\n', 1),
            [b'r', ..] => (b'\r', 1),
            [b't', ..] => (b'\t', 1),
            [b'b', ..] => (0x08, 1),
            [b'v', ..] => (0x0b, 1),
            [b'f', ..] => (0x0c, 1),
            [b @ (b'"' | b'\\'), ..] => (*b, 1),
            _ => (b'\\', 0),
        };
        bytes.push(byte);
        rest = &rest[used..];
    }
    bytes.extend_from_slice(rest);
    Cow::Owned(String::from_utf8_lossy(&bytes).into_owned())
}

fn hex(digit: u8) -> u8 {
    (digit as char).to_digit(16).unwrap_or(0) as u8
}

/// `None` for what a log writes where it has no value.
pub(super) fn given(text: Cow<'_, str>) -> Option<Cow<'_, str>> {
    (!text.is_empty() && text != "-").then_some(text)
}

type Part<'a> = Option<Cow<'a, str>>;

/// Method, target and protocol of a request line. A target may have blanks in it; a simple request has no protocol.
pub(super) fn request_parts(line: Cow<'_, str>) -> (Part<'_>, Part<'_>, Part<'_>) {
    let Some(line) = given(line) else { return (None, None, None) };
    let (method_end, target, protocol) = {
        let method_end = line.find(' ').unwrap_or(line.len());
        let rest = line[method_end..].trim_start_matches(' ');
        let (target, protocol) = match rest.rsplit_once(' ') {
            Some((target, protocol)) if protocol.starts_with("HTTP/") => (target, protocol),
            _ => (rest, ""),
        };
        (method_end, range_in(&line, target.trim_end_matches(' ')), range_in(&line, protocol))
    };
    let part = |range: std::ops::Range<usize>| {
        given(match &line {
            Cow::Borrowed(line) => Cow::Borrowed(&line[range]),
            Cow::Owned(line) => Cow::Owned(line[range].to_owned()),
        })
    };
    (part(0..method_end), part(target), part(protocol))
}

/// Where `part`, a slice of `whole`, lies in it; nowhere for an empty one.
fn range_in(whole: &str, part: &str) -> std::ops::Range<usize> {
    if part.is_empty() {
        return 0..0;
    }
    let start = part.as_ptr() as usize - whole.as_ptr() as usize;
    start..start + part.len()
}
