//! Little-endian base-128 integers (LEB128), the alphabet of the persisted window state.

/// Appends `value` in 7-bit groups, least significant first.
pub(crate) fn put(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// As [`put`], for 128 bits, signed: zigzag, so that small numbers of either sign are short.
pub(crate) fn put_i128(out: &mut Vec<u8>, value: i128) {
    let mut value = ((value << 1) ^ (value >> 127)) as u128;
    while value >= 0x80 {
        out.push(value as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

/// A double that is mostly a whole number of `1 / scale`: as that number where it is one, else its 8 bytes.
pub(crate) fn put_scaled(out: &mut Vec<u8>, value: f64, scale: f64) {
    let whole = (value * scale).round_ties_even() as u64;
    if whole < 1 << 53 && (whole as f64 / scale).to_bits() == value.to_bits() {
        put(out, whole << 1);
    } else {
        put(out, 1);
        out.extend_from_slice(&value.to_le_bytes());
    }
}

/// Reads back what was put; every method answers `None` where the bytes end early or hold no such number.
pub(crate) struct Reader<'a>(pub(crate) &'a [u8]);

impl<'a> Reader<'a> {
    pub(crate) fn byte(&mut self) -> Option<u8> {
        let (first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(*first)
    }

    pub(crate) fn bytes(&mut self, len: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(bytes)
    }

    pub(crate) fn u64(&mut self) -> Option<u64> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            let bits = u64::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some(value);
            }
        }
        None
    }

    /// A number that was kept as `u64` and is one of the non-negative `i64`.
    pub(crate) fn count(&mut self) -> Option<i64> {
        i64::try_from(self.u64()?).ok()
    }

    pub(crate) fn i128(&mut self) -> Option<i128> {
        let mut value = 0u128;
        for shift in (0..128).step_by(7) {
            let byte = self.byte()?;
            let bits = u128::from(byte & 0x7f);
            if (bits << shift) >> shift != bits {
                return None;
            }
            value |= bits << shift;
            if byte < 0x80 {
                return Some((value >> 1) as i128 ^ -((value & 1) as i128));
            }
        }
        None
    }

    pub(crate) fn f64(&mut self) -> Option<f64> {
        Some(f64::from_le_bytes(self.bytes(8)?.try_into().ok()?))
    }

    pub(crate) fn scaled(&mut self, scale: f64) -> Option<f64> {
        match self.u64()? {
            1 => self.f64(),
            odd if odd & 1 == 1 => None,
            even => Some((even >> 1) as f64 / scale),
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn numbers_come_back(a: u64, b: i128, c in prop::num::f64::ANY, d in 0u64..100_000_000) {
            let mut out = Vec::new();
            put(&mut out, a);
            put_i128(&mut out, b);
            put_scaled(&mut out, c, 1e3);
            put_scaled(&mut out, d as f64 / 1e3, 1e3);
            let mut reader = Reader(&out);
            prop_assert_eq!(reader.u64(), Some(a));
            prop_assert_eq!(reader.i128(), Some(b));
            prop_assert_eq!(reader.scaled(1e3).map(f64::to_bits), Some(c.to_bits()));
            prop_assert_eq!(reader.scaled(1e3), Some(d as f64 / 1e3));
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            let mut reader = Reader(&bytes);
            while reader.u64().is_some() && reader.i128().is_some() && reader.scaled(1e6).is_some() {}
        }
    }
}
