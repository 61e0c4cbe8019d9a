//! Percentiles of response times from a few hundred integers.

use crate::varint::{self, Reader};

/// Bits of the count in a packed bucket; the bucket's number is above them.
const COUNT_BITS: u32 = 48;
const COUNT_MASK: u64 = (1 << COUNT_BITS) - 1;

/// Mantissa bits of a bucket: 2^5 buckets an octave.
const MANTISSA_BITS: u32 = 5;

/// A mergeable sketch of durations in whole microseconds, for percentiles with a relative error of at most 1/64.
///
/// A histogram with log-linear buckets: a value's bucket is its exponent and the 5 bits behind its leading one, so
/// values below 64 are exact and a bucket is never wider than 1/32 of its values; its middle stands for them. Only
/// integers are involved, so every machine fills the same buckets, and addition and merging commute. (The layout is
/// that of Gil Tene's HdrHistogram; the use as a sketch with relative error that of DDSketch: Masson, Rim, Lee, VLDB 2019.)
///
/// ```
/// use subscription_core::LatencySketch;
/// let mut sketch = LatencySketch::default();
/// (1..=1_000).for_each(|ms| sketch.add(ms * 1_000));
/// let [median, p99] = sketch.percentiles([50, 99]);
/// assert!((median - 500_000.0).abs() <= 500_000.0 / 64.0);
/// assert!((p99 - 990_000.0).abs() <= 990_000.0 / 64.0);
/// ```
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LatencySketch {
    /// Number of bucket and count, by rising bucket.
    buckets: Vec<u64>,
}

impl LatencySketch {
    /// Adds a duration in microseconds.
    pub fn add(&mut self, micros: u64) {
        self.add_bucket(bucket(micros), 1);
    }

    /// Adds all that `other` holds.
    pub fn merge(&mut self, other: &Self) {
        for packed in &other.buckets {
            self.add_bucket((packed >> COUNT_BITS) as u16, packed & COUNT_MASK);
        }
    }

    /// How many durations were added.
    pub fn count(&self) -> u64 {
        self.buckets.iter().fold(0, |sum, packed| sum.saturating_add(packed & COUNT_MASK))
    }

    /// The nearest-rank percentiles, in microseconds, of percents that rise: the `⌈percent × count ÷ 100⌉`th smallest
    /// duration, within 1/64. All 0 where nothing was added.
    pub fn percentiles<const N: usize>(&self, percents: [u8; N]) -> [f64; N] {
        let count = u128::from(self.count());
        let mut buckets = self.buckets.iter();
        let (mut seen, mut value) = (0, 0.0);
        percents.map(|percent| {
            let rank = (count * u128::from(percent)).div_ceil(100).max(1);
            while seen < rank {
                let Some(packed) = buckets.next() else { break };
                seen += u128::from(packed & COUNT_MASK);
                value = middle((packed >> COUNT_BITS) as u16);
            }
            value
        })
    }

    pub(crate) fn add_bucket(&mut self, bucket: u16, count: u64) {
        let key = u64::from(bucket) << COUNT_BITS;
        // Where buckets up to this one end.
        let end = self.buckets.partition_point(|packed| *packed <= key | COUNT_MASK);
        match end.checked_sub(1).map(|at| &mut self.buckets[at]) {
            Some(packed) if *packed >= key => *packed = key | ((*packed & COUNT_MASK) + count).min(COUNT_MASK),
            _ => self.buckets.insert(end, key | count.min(COUNT_MASK)),
        }
    }

    /// Reads where a search begins.
    pub(crate) fn fetch(&self) -> u64 {
        self.buckets.get(self.buckets.len() / 2).copied().unwrap_or_default()
    }

    pub(crate) fn heap_bytes(&self) -> usize {
        self.buckets.capacity() * size_of::<u64>()
    }

    /// The number of buckets, then of each its distance from the one before and its count.
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        varint::put(out, self.buckets.len() as u64);
        let mut before = 0;
        for packed in &self.buckets {
            let bucket = packed >> COUNT_BITS;
            varint::put(out, bucket - before);
            varint::put(out, packed & COUNT_MASK);
            before = bucket;
        }
    }

    pub(crate) fn decode(reader: &mut Reader<'_>) -> Option<Self> {
        let len = reader.u64()?;
        if len > reader.0.len() as u64 {
            return None;
        }
        let mut buckets: Vec<u64> = Vec::with_capacity(len as usize);
        let mut bucket = 0u64;
        for i in 0..len {
            let step = reader.u64()?;
            let count = reader.u64()?;
            bucket = bucket.checked_add(step)?;
            if (i > 0 && step == 0) || bucket > u64::from(bucket_of_max()) || count == 0 || count > COUNT_MASK {
                return None;
            }
            buckets.push(bucket << COUNT_BITS | count);
        }
        Some(Self { buckets })
    }
}

/// The bucket of a value: below 2^(5+1) the value itself, then 2^5 an octave.
pub(crate) const fn bucket(value: u64) -> u16 {
    if value < 1 << (MANTISSA_BITS + 1) {
        return value as u16;
    }
    let shift = value.ilog2() - MANTISSA_BITS;
    // The leading one of the mantissa adds one to `shift`.
    ((shift << MANTISSA_BITS) as u64 + (value >> shift)) as u16
}

const fn bucket_of_max() -> u16 {
    bucket(u64::MAX)
}

/// The middle of a bucket's values.
fn middle(bucket: u16) -> f64 {
    let bucket = u64::from(bucket);
    if bucket < 1 << (MANTISSA_BITS + 1) {
        return bucket as f64;
    }
    let shift = (bucket >> MANTISSA_BITS) - 1;
    let least = ((bucket & ((1 << MANTISSA_BITS) - 1)) | 1 << MANTISSA_BITS) << shift;
    least as f64 + ((1u64 << shift) - 1) as f64 / 2.0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn nearest_rank(sorted: &[u64], percent: usize) -> u64 {
        sorted[(sorted.len() * percent).div_ceil(100).max(1) - 1]
    }

    /// Values of every magnitude alike.
    fn value() -> impl Strategy<Value = u64> {
        (0u32..64, any::<u64>()).prop_map(|(shift, value)| value >> shift)
    }

    proptest! {
        #[test]
        fn percentiles_are_within_a_64th(mut values in prop::collection::vec(value(), 1..300)) {
            let mut sketch = LatencySketch::default();
            values.iter().for_each(|value| sketch.add(*value));
            values.sort_unstable();
            prop_assert_eq!(sketch.count(), values.len() as u64);
            for (percent, found) in [1, 50, 95, 99, 100].into_iter().zip(sketch.percentiles([1, 50, 95, 99, 100])) {
                let exact = nearest_rank(&values, percent) as f64;
                prop_assert!((found - exact).abs() <= exact / 64.0, "p{}: {} for {}", percent, found, exact);
            }
        }

        #[test]
        fn merging_is_adding(values in prop::collection::vec(value(), 0..200), cut in 0usize..200) {
            let (mut all, mut left, mut right) =
                (LatencySketch::default(), LatencySketch::default(), LatencySketch::default());
            for (i, value) in values.iter().enumerate() {
                all.add(*value);
                if i < cut { left.add(*value) } else { right.add(*value) }
            }
            right.merge(&left);
            prop_assert_eq!(&right, &all);

            let mut bytes = Vec::new();
            all.encode(&mut bytes);
            let mut reader = Reader(&bytes);
            prop_assert_eq!(LatencySketch::decode(&mut reader), Some(all));
            prop_assert!(reader.0.is_empty());
        }

        #[test]
        fn buckets_rise_with_values(a in value(), b in value()) {
            prop_assert!(bucket(a.min(b)) <= bucket(a.max(b)));
            prop_assert!(bucket(u64::MAX) >= bucket(a));
        }

        #[test]
        fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
            if let Some(sketch) = LatencySketch::decode(&mut Reader(&bytes)) {
                sketch.percentiles([50, 95, 99]);
            }
        }
    }

    #[test]
    fn nothing_has_percentiles_of_zero() {
        assert_eq!(LatencySketch::default().percentiles([50, 99]), [0.0, 0.0]);
    }

    #[test]
    fn counts_saturate() {
        let mut sketch = LatencySketch::default();
        sketch.add_bucket(7, COUNT_MASK);
        sketch.add_bucket(8, COUNT_MASK);
        sketch.add_bucket(7, COUNT_MASK);
        assert_eq!(sketch.percentiles([50, 99]), [7.0, 8.0]);
    }
}
