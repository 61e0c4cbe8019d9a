//! Exact decimals: billable units, prices and money. Never a float.

use std::fmt;

/// Billable units with 6 decimal places, as the tables' `decimal(38, 6)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Units(i128);

/// Money with 15 decimal places, as the tables' `decimal(38, 15)`: units × price ÷ 1000 is exact in it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Money(i128);

/// The price of a thousand billable units, with 6 decimal places.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Price(i128);

macro_rules! decimal {
    ($name:ident, $scale:literal) => {
        impl $name {
            /// Decimal places.
            pub const SCALE: u32 = $scale;
            /// Nothing.
            pub const ZERO: Self = Self(0);

            /// From the integer `value × 10^SCALE`.
            pub const fn from_raw(raw: i128) -> Self {
                Self(raw)
            }

            /// The integer `value × 10^SCALE`.
            pub const fn raw(self) -> i128 {
                self.0
            }

            /// The sum; saturates.
            pub const fn plus(self, other: Self) -> Self {
                Self(self.0.saturating_add(other.0))
            }

            /// Reads `[-]digits[.digits][e[+-]digits]` (the grammar of a JSON number, and no more is checked than is needed to
            /// read one) and rounds half to even to [`Self::SCALE`] places. `None` if it is no such number or too large.
            pub fn parse(text: &str) -> Option<Self> {
                parse_fixed(text, $scale).map(|(raw, _)| Self(raw))
            }

            /// As [`Self::parse`], but `None` too where digits would be lost.
            pub fn parse_exact(text: &str) -> Option<Self> {
                parse_fixed(text, $scale).and_then(|(raw, exact)| exact.then_some(Self(raw)))
            }
        }

        impl fmt::Display for $name {
            /// Without trailing zeros.
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(&display_fixed(self.0, $scale))
            }
        }
    };
}

decimal!(Units, 6);
decimal!(Money, 15);
decimal!(Price, 6);

impl Units {
    /// What an event counts that gives none.
    pub const ONE: Self = Self(1_000_000);

    /// The cost at a price: units × price ÷ 1000, exact; saturates.
    ///
    /// ```
    /// use subscription_core::{Price, Units};
    /// let units = Units::parse("12345.5").unwrap();
    /// assert_eq!(units.cost(Price::parse("0.40").unwrap()).to_string(), "4.9382");
    /// ```
    pub const fn cost(self, price: Price) -> Money {
        // 10^-6 × 10^-6 ÷ 10^3 = 10^-15: no division is left to do.
        Money(self.0.saturating_mul(price.0))
    }
}

impl Money {
    /// Rounded half to even to `digits` places, as an amount of a currency is.
    ///
    /// ```
    /// use subscription_core::Money;
    /// assert_eq!(Money::parse("0.125").unwrap().round(2).to_string(), "0.12");
    /// assert_eq!(Money::parse("0.135").unwrap().round(2).to_string(), "0.14");
    /// ```
    pub fn round(self, digits: u32) -> Self {
        let unit = 10i128.pow(Self::SCALE - digits.min(Self::SCALE));
        Self(divide_half_even(self.0, unit).saturating_mul(unit))
    }
}

/// `a ÷ b` for positive `b`, rounded half to even.
fn divide_half_even(a: i128, b: i128) -> i128 {
    let (quotient, rest) = (a.div_euclid(b), a.rem_euclid(b));
    match (rest * 2).cmp(&b) {
        std::cmp::Ordering::Less => quotient,
        std::cmp::Ordering::Greater => quotient + 1,
        std::cmp::Ordering::Equal => quotient + (quotient & 1),
    }
}

/// The number times 10^scale, rounded half to even, and whether it was exact.
fn parse_fixed(text: &str, scale: u32) -> Option<(i128, bool)> {
    let (negative, rest) = match text.strip_prefix('-') {
        Some(rest) => (true, rest),
        None => (false, text),
    };
    let (mantissa, exponent) = match rest.find(['e', 'E']) {
        Some(at) => (&rest[..at], parse_exponent(&rest[at + 1..])?),
        None => (rest, 0),
    };
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if whole.is_empty() || !whole.bytes().chain(fraction.bytes()).all(|b| b.is_ascii_digit()) {
        return None;
    }
    // The digits before `point` belong to the result, those behind it decide the rounding.
    let point = whole.len() as i64 + exponent + i64::from(scale);
    let mut raw: i128 = 0;
    let mut digits = whole.bytes().chain(fraction.bytes()).map(|b| i128::from(b - b'0'));
    let total = (whole.len() + fraction.len()) as i64;
    if point > 0 {
        for _ in 0..point.min(total) {
            raw = raw.checked_mul(10)?.checked_add(digits.next()?)?;
        }
        if point > total && raw != 0 {
            raw = raw.checked_mul(10i128.checked_pow(u32::try_from(point - total).ok()?)?)?;
        }
    }
    // With `point` below 0 the first digit lost is an implied zero.
    let first = if point < 0 { 0 } else { digits.next().unwrap_or(0) };
    let sticky = digits.any(|d| d != 0);
    let exact = first == 0 && !sticky;
    if first > 5 || (first == 5 && (sticky || raw & 1 == 1)) {
        raw = raw.checked_add(1)?;
    }
    Some((if negative { -raw } else { raw }, exact))
}

/// An exponent; one too large for any use is cut to a million.
fn parse_exponent(text: &str) -> Option<i64> {
    let (negative, digits) = match text.as_bytes().first()? {
        b'-' => (true, &text[1..]),
        b'+' => (false, &text[1..]),
        _ => (false, text),
    };
    if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let value = digits.bytes().fold(0i64, |n, b| (n * 10 + i64::from(b - b'0')).min(1_000_000));
    Some(if negative { -value } else { value })
}

fn display_fixed(raw: i128, scale: u32) -> String {
    let unit = 10u128.pow(scale);
    let (whole, fraction) = (raw.unsigned_abs() / unit, raw.unsigned_abs() % unit);
    let sign = if raw < 0 { "-" } else { "" };
    if fraction == 0 {
        return format!("{sign}{whole}");
    }
    let fraction = format!("{fraction:0width$}", width = scale as usize);
    format!("{sign}{whole}.{}", fraction.trim_end_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_json_numbers() {
        for (text, raw) in [
            ("0", 0),
            ("1", 1_000_000),
            ("1e2", 100_000_000),
            ("1.5E-3", 1_500),
            ("0.0000005", 0),
            ("0.0000015", 2),
            ("0.00000250001", 3),
            ("25e-7", 2),
            ("35e-7", 4),
            ("5e-8", 0),
            ("6e-7", 1),
            ("0e999999999999", 0),
            ("0.1e1", 1_000_000),
            ("-0", 0),
            ("-2.5", -2_500_000),
            ("1000000000000", 1_000_000_000_000_000_000),
        ] {
            assert_eq!(Units::parse(text), Some(Units(raw)), "{text}");
        }
        for text in ["", "-", ".5", "1e", "1e+", "abc", "1.2.3", "1e400"] {
            assert_eq!(Units::parse(text), None, "{text}");
        }
        assert_eq!(Price::parse_exact("0.1234567"), None);
        assert_eq!(Price::parse_exact("0.1234560"), Some(Price(123_456)));
    }

    #[test]
    fn shows_without_trailing_zeros() {
        assert_eq!(Units(1_500_000).to_string(), "1.5");
        assert_eq!(Units(-1).to_string(), "-0.000001");
        assert_eq!(Money(0).to_string(), "0");
    }
}
