//! The formats that a field's text may have to have.

use std::net::{Ipv4Addr, Ipv6Addr};

use uuid::Uuid;

use crate::time::{DAY, HOUR, MINUTE, SECOND, Timestamp};

impl Timestamp {
    /// Reads an RFC 3339 date-time: a `T` and `Z` in either case, any offset, any number of digits of a second, of
    /// which those beyond milliseconds are cut. A second of 60 is allowed where UTC has 23:59, and is the second after.
    /// `None` for anything else.
    ///
    /// ```
    /// use subscription_core::Timestamp;
    /// let time = Timestamp::parse_rfc3339("2024-02-29T13:00:00.0019+01:00").unwrap();
    /// assert_eq!(time.to_string(), "2024-02-29T12:00:00.001Z");
    /// assert_eq!(Timestamp::parse_rfc3339("2023-02-29T13:00:00Z"), None);
    /// ```
    pub fn parse_rfc3339(text: &str) -> Option<Self> {
        let (head, tail) = text.as_bytes().split_first_chunk::<19>()?;
        let two = |at: usize| digits(&head[at..at + 2]);
        let (year, month, day) = (digits(&head[..4])?, two(5)?, two(8)?);
        let (hour, minute, second) = (two(11)?, two(14)?, two(17)?);
        let separated = head[4] == b'-'
            && head[7] == b'-'
            && matches!(head[10], b'T' | b't')
            && head[13] == b':'
            && head[16] == b':';
        let in_range =
            (1..=12).contains(&month) && (1..=days_in(year, month)).contains(&day) && hour < 24 && minute < 60;
        if !separated || !in_range || second > 60 {
            return None;
        }
        let (millis, tail) = fraction(tail)?;
        let offset = offset(tail)?;
        let minutes = days_from_civil(year, month, day) * DAY + hour * HOUR + minute * MINUTE - offset;
        if second == 60 && minutes.rem_euclid(DAY) != DAY - MINUTE {
            return None;
        }
        Some(Self::from_millis(minutes + second * SECOND + millis))
    }
}

/// The number that ASCII digits, and nothing else, make.
#[inline]
pub(super) fn digits(text: &[u8]) -> Option<i64> {
    text.iter().try_fold(0, |n, &byte| byte.is_ascii_digit().then(|| n * 10 + i64::from(byte - b'0')))
}

/// The whole milliseconds of `.digits`, where it begins with that, and what follows.
fn fraction(text: &[u8]) -> Option<(i64, &[u8])> {
    let Some((b'.', rest)) = text.split_first() else { return Some((0, text)) };
    let len = rest.iter().position(|byte| !byte.is_ascii_digit()).unwrap_or(rest.len());
    let (fraction, rest) = rest.split_at(len);
    let millis = match fraction {
        [] => return None,
        [a] => digits(&[*a, b'0', b'0']),
        [a, b] => digits(&[*a, *b, b'0']),
        [a, b, c, ..] => digits(&[*a, *b, *c]),
    };
    Some((millis?, rest))
}

/// The milliseconds that a local time with this offset is ahead of UTC.
fn offset(text: &[u8]) -> Option<i64> {
    match *text {
        [b'Z' | b'z'] => Some(0),
        [sign @ (b'+' | b'-'), a, b, b':', c, d] => {
            let (hours, minutes) = (digits(&[a, b])?, digits(&[c, d])?);
            let offset = hours * HOUR + minutes * MINUTE;
            (hours < 24 && minutes < 60).then_some(if sign == b'-' { -offset } else { offset })
        }
        _ => None,
    }
}

fn days_in(year: i64, month: i64) -> i64 {
    match month {
        2 if year % 4 == 0 && (year % 100 != 0 || year % 400 == 0) => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days from 1970-01-01 to a date of the proleptic Gregorian calendar (Howard Hinnant, "chrono-Compatible Low-Level Date
/// Algorithms", `days_from_civil`).
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

/// 8-4-4-4-12 hex digits in either case (RFC 9562), and none of the other spellings of a UUID.
#[inline]
pub(super) fn uuid(text: &str) -> Option<Uuid> {
    (text.len() == 36).then(|| Uuid::try_parse(text).ok()).flatten()
}

/// An IPv4 address without leading zeros, or an IPv6 address (RFC 4291) without a zone.
pub(super) fn is_ip_address(text: &str) -> bool {
    text.parse::<Ipv4Addr>().is_ok() || text.parse::<Ipv6Addr>().is_ok()
}

/// `[A-Za-z0-9][A-Za-z0-9._:-]*`.
#[inline]
pub(super) fn is_tenant_id(text: &str) -> bool {
    let bytes = text.as_bytes();
    bytes.first().is_some_and(u8::is_ascii_alphanumeric)
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'_' | b':' | b'-'))
}

/// Two ASCII letters.
pub(super) fn is_country_code(text: &str) -> bool {
    text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic())
}

/// 32 hex digits in either case.
pub(super) fn is_trace_id(text: &str) -> bool {
    // All are looked at, whatever the first ones are: so they are looked at side by side.
    text.len() == 32 && text.bytes().fold(true, |hex, byte| hex & byte.is_ascii_hexdigit())
}

/// Whether it has at most `max` code points.
#[inline]
pub(super) fn is_at_most(text: &str, max: usize) -> bool {
    text.len() <= max || text.chars().nth(max).is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_times() {
        for (text, millis) in [
            ("1970-01-01T00:00:00Z", 0),
            ("1970-01-01t00:00:00z", 0),
            ("1970-01-01T00:00:00.1Z", 100),
            ("1970-01-01T00:00:00.12Z", 120),
            ("1970-01-01T00:00:00.123Z", 123),
            ("1970-01-01T00:00:00.1239999999999999999999Z", 123),
            ("1969-12-31T23:59:59.9999Z", -1),
            ("1970-01-01T01:30:00+01:30", 0),
            ("1969-12-31T12:00:00-12:00", 0),
            ("1970-01-01T00:00:00-00:00", 0),
            ("1970-01-01T23:59:00+23:59", 0),
            ("2000-02-29T00:00:00Z", 951_782_400_000),
            ("2024-12-31T23:59:59Z", 1_735_689_599_000),
            ("0000-02-29T00:00:00Z", -62_162_121_600_000),
            ("0000-01-01T00:00:00Z", -62_167_219_200_000),
            ("0000-01-01T00:00:00+00:01", -62_167_219_260_000),
            ("9999-12-31T23:59:59.999Z", 253_402_300_799_999),
            // The second of 60 is the one after.
            ("2016-12-31T23:59:60Z", 1_483_228_800_000),
            ("2016-12-31T23:59:60.5Z", 1_483_228_800_500),
            ("2017-01-01T00:59:60+01:00", 1_483_228_800_000),
            ("2016-12-31T15:59:60-08:00", 1_483_228_800_000),
            ("2023-06-15T23:59:60Z", 1_686_873_600_000),
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), Some(Timestamp::from_millis(millis)), "{text}");
        }
    }

    #[test]
    fn refuses_what_is_no_time() {
        for text in [
            "",
            "2024-01-01",
            "2024-01-01T00:00:00",
            "2024-01-01 00:00:00Z",
            "2024-01-01T00:00Z",
            "2024-01-01T00:00:00.Z",
            "2024-01-01T00:00:00,5Z",
            "2024-01-01T00:00:00+0100",
            "2024-01-01T00:00:00+01",
            "2024-01-01T00:00:00+24:00",
            "2024-01-01T00:00:00+01:60",
            "2024-01-01T00:00:00Z ",
            " 2024-01-01T00:00:00Z",
            "2024-01-01T00:00:00Zz",
            "2024-00-01T00:00:00Z",
            "2024-13-01T00:00:00Z",
            "2024-01-00T00:00:00Z",
            "2024-01-32T00:00:00Z",
            "2024-04-31T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "1900-02-29T00:00:00Z",
            "2024-01-01T24:00:00Z",
            "2024-01-01T00:60:00Z",
            "2024-01-01T00:00:61Z",
            "2024-01-01T00:00:60Z",
            "2016-12-31T23:59:60+01:00",
            "2016-12-31T22:59:60Z",
            "02024-01-01T00:00:00Z",
            "-024-01-01T00:00:00Z",
            "+024-01-01T00:00:00Z",
            "2024-01-01T00:00:0٠Z",
            "２024-01-01T00:00:00Z",
        ] {
            assert_eq!(Timestamp::parse_rfc3339(text), None, "{text}");
        }
    }

    #[test]
    fn knows_ids_and_addresses() {
        for (text, is) in [
            ("0f8fad5b-d9cb-469f-a165-70867728950e", true),
            ("0F8FAD5B-D9CB-469F-A165-70867728950E", true),
            ("00000000-0000-0000-0000-000000000000", true),
            ("0f8fad5bd9cb469fa16570867728950e", false),
            ("{0f8fad5b-d9cb-469f-a165-70867728950e}", false),
            ("urn:uuid:0f8fad5b-d9cb-469f-a165-70867728950e", false),
            ("0f8fad5bd-9cb-469f-a165-70867728950e", false),
            ("0f8fad5b-d9cb-469f-a165-70867728950g", false),
            ("0f8fad5b-d9cb-469f-a165-70867728950e ", false),
            ("", false),
        ] {
            assert_eq!(uuid(text).is_some(), is, "{text}");
        }
        for (text, is) in [
            ("127.0.0.1", true),
            ("0.0.0.0", true),
            ("255.255.255.255", true),
            ("256.0.0.1", false),
            ("01.2.3.4", false),
            ("1.2.3.00", false),
            ("1.2.3", false),
            ("1.2.3.4.5", false),
            ("1.2.3.4:80", false),
            ("1.2.3.4/8", false),
            ("::", true),
            ("::1", true),
            ("2001:DB8::8a2e:370:7334", true),
            ("::ffff:1.2.3.4", true),
            ("::ffff:01.2.3.4", false),
            ("1:2:3:4:5:6:7::", true),
            ("1:2:3:4:5:6:7::8", false),
            ("1:2:3:4:5:6:7:8:9", false),
            ("12345::", false),
            ("fe80::1%eth0", false),
            ("[::1]", false),
            ("", false),
            ("localhost", false),
        ] {
            assert_eq!(is_ip_address(text), is, "{text}");
        }
    }

    #[test]
    fn counts_code_points() {
        assert!(is_at_most(&"é".repeat(128), 128));
        assert!(!is_at_most(&"é".repeat(129), 128));
        assert!(is_at_most(&"🙂".repeat(128), 128));
        assert!(!is_at_most(&"x".repeat(129), 128));
    }
}
