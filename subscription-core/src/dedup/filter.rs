//! Approximate sets of ids, by event time: for the ids that exact memory no longer holds.

use std::collections::BTreeMap;

use crate::time::{HOUR, Timestamp};

/// Bits of filter an id: about one in a hundred absent ids is found by mistake.
const BITS_PER_ID: usize = 10;

/// Ids of the smallest filter.
const LEAST_IDS: usize = 48;

/// A split block Bloom filter: one cache line a question, eight bits in eight words of one block.
///
/// Putze, Sanders, Singler, "Cache-, Hash- and Space-Efficient Bloom Filters" (2007), in the form that Parquet uses.
#[derive(Debug, Clone)]
struct Bloom {
    blocks: Box<[[u32; 8]]>,
    /// How many more ids it takes at its rate of errors.
    room: usize,
}

impl Bloom {
    fn with_room(ids: usize) -> Self {
        let blocks = (ids * BITS_PER_ID).div_ceil(256).max(1);
        Self { blocks: vec![[0; 8]; blocks].into(), room: ids }
    }

    fn block_index(&self, hash: u64) -> usize {
        // The upper half scaled to the number of blocks: below it, as both factors are below 2^32.
        (((hash >> 32) * self.blocks.len() as u64) >> 32) as usize
    }

    fn insert(&mut self, hash: u64) {
        let index = self.block_index(hash);
        for (word, bit) in self.blocks[index].iter_mut().zip(bits(hash)) {
            *word |= bit;
        }
        self.room = self.room.saturating_sub(1);
    }

    fn contains(&self, hash: u64) -> bool {
        self.blocks[self.block_index(hash)].iter().zip(bits(hash)).all(|(word, bit)| word & bit != 0)
    }

    fn bytes(&self) -> usize {
        size_of_val(&*self.blocks)
    }
}

/// One bit in each word of a block, from the lower half of the hash.
fn bits(hash: u64) -> [u32; 8] {
    const SALT: [u32; 8] =
        [0x47b6_137b, 0x4497_4d91, 0x8824_ad5b, 0xa2b7_289d, 0x7054_95c7, 0x2df1_424b, 0x9efc_4947, 0x5c6b_fb31];
    SALT.map(|salt| 1 << ((hash as u32).wrapping_mul(salt) >> 27))
}

/// The filters of a stretch of event time.
#[derive(Debug, Clone)]
struct Stretch {
    /// Where it ends, exclusive.
    end: Timestamp,
    /// Filled one after the other. The first may be that of a sweep, full; those after it are each four times as large
    /// as the one before.
    filters: Vec<Bloom>,
}

/// Filters over disjoint stretches of event time. An id whose time no stretch covers is in none.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters {
    stretches: BTreeMap<Timestamp, Stretch>,
    bytes: usize,
}

/// What a stretch costs besides its filters.
const STRETCH_BYTES: usize = size_of::<(Timestamp, Stretch)>() + 2 * size_of::<Bloom>();

impl Filters {
    /// Takes the ids of `[start, end)`, which no stretch covers yet but those made by [`Filters::insert`].
    pub(super) fn insert_stretch(&mut self, start: Timestamp, end: Timestamp, hashes: &[u64]) {
        if hashes.is_empty() {
            return;
        }
        let mut filter = Bloom::with_room(hashes.len());
        for hash in hashes {
            filter.insert(*hash);
        }
        self.bytes += filter.bytes() + STRETCH_BYTES;
        let previous = self.stretches.insert(start, Stretch { end, filters: vec![filter] });
        debug_assert!(previous.is_none(), "stretches are disjoint");
    }

    /// Takes one id whose time is before `limit`, where the stretches of exact memory begin.
    pub(super) fn insert(&mut self, time: Timestamp, limit: Timestamp, hash: u64) {
        let before = self.stretches.range(..=time).next_back().map(|(start, stretch)| (*start, stretch.end));
        let start = match before {
            Some((start, end)) if time < end => start,
            _ => {
                // An hour, as far as its neighbours leave one.
                let hour = Timestamp::from_millis(time.millis().div_euclid(HOUR).saturating_mul(HOUR));
                let start = before.map_or(hour, |(_, end)| hour.max(end));
                let next = self.stretches.range(time..).next().map_or(limit, |(next, _)| limit.min(*next));
                let end = hour.plus_millis(HOUR).min(next);
                self.bytes += STRETCH_BYTES;
                self.stretches.insert(start, Stretch { end, filters: Vec::new() });
                start
            }
        };
        let Some(stretch) = self.stretches.get_mut(&start) else { return };
        if stretch.filters.last().is_none_or(|filter| filter.room == 0) {
            let filter = Bloom::with_room(LEAST_IDS << (2 * stretch.filters.len()).min(24));
            self.bytes += filter.bytes();
            stretch.filters.push(filter);
        }
        if let Some(filter) = stretch.filters.last_mut() {
            filter.insert(hash);
        }
    }

    /// The first and last time in `[from, to]` at which an id may have been taken; `None` is certain.
    pub(super) fn when(&self, from: Timestamp, to: Timestamp, hash: u64) -> Option<(Timestamp, Timestamp)> {
        let mut span = None;
        // From the latest stretch to the earliest.
        for (start, stretch) in self.stretches.range(..=to).rev().take_while(|(_, stretch)| stretch.end > from) {
            if stretch.filters.iter().any(|filter| filter.contains(hash)) {
                let last = span.map_or_else(|| stretch.end.plus_millis(-1).min(to), |(_, last)| last);
                span = Some((from.max(*start), last));
            }
        }
        span
    }

    /// Forgets the stretches of the oldest times until at most `bytes` are held. Answers where the last one that was
    /// forgotten ended.
    pub(super) fn shrink_to(&mut self, bytes: usize) -> Option<Timestamp> {
        let mut forgotten = None;
        while self.bytes > bytes {
            let Some((_, stretch)) = self.stretches.pop_first() else { break };
            self.bytes -= STRETCH_BYTES + stretch.filters.iter().map(Bloom::bytes).sum::<usize>();
            forgotten = Some(stretch.end);
        }
        forgotten
    }

    /// The memory held, in bytes.
    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn hash(n: u64) -> u64 {
        xxhash_rust::xxh3::xxh3_64(&n.to_le_bytes())
    }

    #[test]
    fn finds_what_it_took_and_little_else() {
        let (zero, end) = (Timestamp::EPOCH, Timestamp::from_millis(HOUR));
        let hashes: Vec<u64> = (0..100_000).map(hash).collect();
        let mut filters = Filters::default();
        filters.insert_stretch(zero, end, &hashes);
        assert!(hashes.iter().all(|h| filters.when(zero, zero, *h) == Some((zero, zero))));
        let mistakes = (100_000..200_000).filter(|n| filters.when(zero, zero, hash(*n)).is_some()).count();
        assert!(mistakes < 2_000, "{mistakes} of 100,000");
        assert!(filters.bytes() < 100_000 * 11 / 8, "{} bytes", filters.bytes());
        assert_eq!(filters.when(end, Timestamp::MAX, hashes[0]), None, "another time");
        filters.insert_stretch(end, end.plus_millis(HOUR), &hashes[..10]);
        let times = |from, to| filters.when(Timestamp::from_millis(from), Timestamp::from_millis(to), hashes[0]);
        let span = |from, to| Some((Timestamp::from_millis(from), Timestamp::from_millis(to)));
        assert_eq!(times(7, 3 * HOUR), span(7, 2 * HOUR - 1), "in both stretches");
        assert_eq!(times(HOUR, HOUR + 5), span(HOUR, HOUR + 5), "in the second");
    }

    #[test]
    fn grows_with_few_mistakes() {
        let mut filters = Filters::default();
        for n in 0..100_000 {
            filters.insert(Timestamp::from_millis(5), Timestamp::MAX, hash(n));
        }
        let at = Timestamp::from_millis(HOUR - 1);
        assert!((0..100_000).all(|n| filters.when(at, at, hash(n)).is_some()));
        let mistakes = (100_000..200_000).filter(|n| filters.when(at, at, hash(*n)).is_some()).count();
        assert!(mistakes < 10_000, "{mistakes} of 100,000");
    }

    proptest! {
        /// No id is ever missed at its time, whatever the order of times, nor after forgetting, where it is covered.
        #[test]
        fn misses_nothing(times in prop::collection::vec(-20 * HOUR..20 * HOUR, 1..300), keep in 0usize..4_000) {
            let limit = Timestamp::from_millis(10 * HOUR + 1234);
            let mut filters = Filters::default();
            let (late, swept): (Vec<_>, Vec<_>) =
                times.iter().map(|t| Timestamp::from_millis(*t)).enumerate().partition(|(_, t)| *t < limit);
            for (n, time) in &late {
                filters.insert(*time, limit, hash(*n as u64));
            }
            let hashes: Vec<u64> = swept.iter().map(|(n, _)| hash(*n as u64)).collect();
            filters.insert_stretch(limit, Timestamp::from_millis(20 * HOUR), &hashes);
            let covered = filters.shrink_to(keep).unwrap_or(Timestamp::MIN);
            prop_assert!(filters.bytes() <= keep);
            for (n, time) in late.into_iter().chain(swept) {
                prop_assert!(time < covered || filters.when(time, time, hash(n as u64)).is_some());
            }
        }
    }
}
