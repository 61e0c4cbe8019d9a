//! One Gold table of one partition: its rows in memory, by window and tenant, and the ranges in which they are stored.
//!
//! Rows are replaced, a whole range at a time. A stored range is a stretch of the keys (window start, tenant); ranges
//! do not overlap, and those of one date lie in that date's folder. A range is *loaded* (all its rows are in memory) or
//! *cold* (none is). A group, the rows of one key, is in memory if it belongs to a loaded range, or is new and belongs
//! to none yet. Where memory is short, groups that nothing has touched lately are *packed* to the bytes of their stored
//! state, a quarter of their size, stored already or not, before anything is dropped: most of them are still to be stored,
//! or to become final.

mod cut;
mod kept;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::intern::{Plans, Tenants};
use crate::store::{Counter, PartitionState, RangeId, RangeKey, RangeRef, Table};
use crate::time::{DAY, Timestamp, WindowKind};
pub(crate) use cut::Written;
pub(crate) use kept::Group;
use kept::{Kept, Memory};

/// Rows up to which a range grows before it is split, unless set otherwise.
const RANGE_ROWS: usize = 8_192;

/// Batches in which nothing touched a window, before its groups may be packed.
const IDLE_BATCHES: u64 = 2;

/// The groups of one window that are in memory.
#[derive(Debug)]
struct Window<G> {
    end: i64,
    groups: FxHashMap<u32, Kept<G>>,
    /// The tenants whose groups changed.
    changed: Vec<u32>,
    /// When it was last touched, on the caller's clock.
    used: u64,
    /// Its groups are packed, as far as they can be, and nothing has touched it since.
    packed: bool,
}

/// A stored range.
#[derive(Debug)]
struct Range {
    id: RangeId,
    first: RangeKey,
    last: RangeKey,
    rows: u32,
    loaded: bool,
    /// Whether the cut under way replaces it.
    replaced: bool,
}

impl Range {
    /// Whether it lies before the key, around it or behind it.
    fn compare(&self, window: i64, tenant: &str) -> std::cmp::Ordering {
        use std::cmp::Ordering::{Equal, Greater, Less};
        let key = (window, tenant);
        if (self.last.window_start.millis(), &*self.last.tenant_id) < key {
            Less
        } else if (self.first.window_start.millis(), &*self.first.tenant_id) > key {
            Greater
        } else {
            Equal
        }
    }

    fn day(&self) -> i64 {
        day(self.first.window_start.millis())
    }
}

fn day(window: i64) -> i64 {
    window.div_euclid(DAY)
}

/// One Gold table of one partition.
#[derive(Debug)]
pub(crate) struct GoldTable<G> {
    table: Table,
    partition: u32,
    kind: WindowKind,
    /// The next offset to apply that is not in what is stored.
    pub(crate) position: u64,
    /// The watermark at `position`, as stored.
    pub(crate) watermark: Option<Timestamp>,
    slots: Vec<Window<G>>,
    free: Vec<usize>,
    windows: BTreeMap<i64, usize>,
    /// The window touched last, and where it is.
    last: (i64, usize),
    /// By rising keys.
    ranges: Vec<Range>,
    /// Rows up to which a range grows before it is split.
    range_rows: usize,
    /// The windows to which a cold range may matter: not before the first, before the second.
    cold: (i64, i64),
    /// The event time from which no cold range matters.
    warm_from: i64,
    /// The ranges that the cut under way writes.
    written: Vec<(RangeKey, RangeKey, u32)>,
    memory: Memory,
}

impl<G: Group> GoldTable<G> {
    pub(crate) fn new(table: Table, kind: WindowKind, partition: u32, state: &PartitionState) -> Result<Self> {
        let mut ranges: Vec<Range> = state
            .ranges
            .iter()
            .filter(|range| range.table == table)
            .map(|range| Range {
                id: range.id.clone(),
                first: range.first.clone(),
                last: range.last.clone(),
                rows: range.rows,
                loaded: false,
                replaced: false,
            })
            .collect();
        ranges.sort_by(|a, b| a.first.cmp(&b.first));
        if let Some(pair) = ranges.windows(2).find(|pair| pair[0].last >= pair[1].first) {
            return Err(Error::new(ErrorKind::Corrupt, "stored ranges overlap")
                .with("table", table.name())
                .with("partition", partition)
                .with("one", &pair[0].id.0)
                .with("other", &pair[1].id.0));
        }
        let mut new = Self {
            table,
            partition,
            kind,
            position: state.position(table),
            watermark: state.table(table).counter(Counter::Watermark).map(Timestamp::from_millis),
            slots: Vec::new(),
            free: Vec::new(),
            windows: BTreeMap::new(),
            last: (i64::MIN, 0),
            ranges,
            range_rows: RANGE_ROWS,
            cold: (0, 0),
            warm_from: 0,
            written: Vec::new(),
            memory: Memory::default(),
        };
        new.find_cold();
        Ok(new)
    }

    pub(crate) fn set_range_rows(&mut self, rows: usize) {
        self.range_rows = rows.max(1);
        self.find_cold();
    }

    /// Whether new neighbours may join the range: it is at most half full.
    fn small(&self, range: &Range) -> bool {
        range.rows as usize <= self.range_rows / 2
    }

    /// The group of a key, where it is in memory and not packed, as one that was just changed or is held.
    pub(crate) fn get(&self, window: i64, tenant: u32) -> Option<&G> {
        let at = if self.last.0 == window { self.last.1 } else { *self.windows.get(&window)? };
        self.slots[at].groups.get(&tenant)?.opened()
    }

    /// Shows the group of a key, where it is in memory, and leaves it as it is; its plans mean nothing.
    pub(crate) fn show<T>(&self, window: i64, tenant: u32, see: impl FnOnce(&G) -> T) -> Option<T> {
        let at = if self.last.0 == window { self.last.1 } else { *self.windows.get(&window)? };
        let kept = self.slots[at].groups.get(&tenant)?;
        Some(kept.show(window, &mut Plans::default(), |group, _, _| see(group)))
    }

    /// The group of a key, where it is in memory.
    pub(crate) fn find(&mut self, window: i64, tenant: u32, plans: &mut Plans) -> Option<&G> {
        let at = if self.last.0 == window { self.last.1 } else { *self.windows.get(&window)? };
        let found = &mut self.slots[at];
        found.packed = false;
        Some(found.groups.get_mut(&tenant)?.open(window, plans, &mut self.memory))
    }

    /// Reads the group of a key, where it is in memory, so that it is in the processor's cache soon; the answer means nothing.
    pub(crate) fn fetch(&self, window: i64, tenant: u32) -> u64 {
        let at = if self.last.0 == window { Some(self.last.1) } else { self.windows.get(&window).copied() };
        at.and_then(|at| self.slots[at].groups.get(&tenant)?.opened()).map_or(0, G::fetch)
    }

    /// Changes the group of a key; a new one is made where there is none. `change` is also told whether the group is
    /// held, see [`GoldTable::hold`].
    pub(crate) fn change<T>(
        &mut self,
        (tenants, plans): (&mut Tenants, &mut Plans),
        (start, tenant): (i64, u32),
        now: u64,
        new: impl FnOnce() -> G,
        change: impl FnOnce(&mut G, bool) -> T,
    ) -> T {
        let at = self.window(start);
        let window = &mut self.slots[at];
        (window.used, window.packed) = (now, false);
        let kept = match window.groups.entry(tenant) {
            std::collections::hash_map::Entry::Occupied(kept) => kept.into_mut(),
            std::collections::hash_map::Entry::Vacant(place) => {
                tenants.retain(tenant);
                let kept = place.insert(Kept::new(new()));
                self.memory.all += kept.bytes();
                kept
            }
        };
        let held = kept.held;
        let group = kept.open(start, plans, &mut self.memory);
        let before = group.heap_bytes();
        let answer = change(group, held);
        let after = group.heap_bytes();
        self.memory.all = self.memory.all + after - before;
        if kept.changed {
            self.memory.changed = (self.memory.changed + after).saturating_sub(before);
        } else {
            kept.changed = true;
            window.changed.push(tenant);
            self.memory.changed += kept.bytes();
        }
        answer
    }

    /// Keeps a group in memory until [`GoldTable::unhold`]. Answers whether it was not held before.
    pub(crate) fn hold(&mut self, window: i64, tenant: u32) -> bool {
        self.kept(window, tenant).is_some_and(|kept| !std::mem::replace(&mut kept.held, true))
    }

    pub(crate) fn unhold(&mut self, window: i64, tenant: u32) {
        if let Some(kept) = self.kept(window, tenant) {
            kept.held = false;
        }
    }

    fn kept(&mut self, window: i64, tenant: u32) -> Option<&mut Kept<G>> {
        let at = *self.windows.get(&window)?;
        self.slots[at].groups.get_mut(&tenant)
    }

    /// Where a window is in `slots`; it is made where there is none.
    fn window(&mut self, start: i64) -> usize {
        if self.last.0 == start {
            return self.last.1;
        }
        let at = *self.windows.entry(start).or_insert_with(|| {
            let end = self.kind.end(Timestamp::from_millis(start)).millis();
            let window = Window { end, groups: FxHashMap::default(), changed: Vec::new(), used: 0, packed: false };
            match self.free.pop() {
                Some(at) => {
                    self.slots[at] = window;
                    at
                }
                None => {
                    self.slots.push(window);
                    self.slots.len() - 1
                }
            }
        });
        self.last = (start, at);
        at
    }

    /// Whether a cold range may matter to a key of this window.
    pub(crate) fn may_be_cold(&self, window: i64) -> bool {
        (self.cold.0..self.cold.1).contains(&window)
    }

    /// The event time from which no cold range matters.
    pub(crate) fn warm_from(&self) -> i64 {
        self.warm_from
    }

    /// The cold range around a key.
    pub(crate) fn cold_around(&self, window: i64, tenant: &str) -> Option<usize> {
        let at = self.ranges.binary_search_by(|range| range.compare(window, tenant)).ok()?;
        (!self.ranges[at].loaded).then_some(at)
    }

    /// The cold range around a key; or, where there is none around it, a small one beside it, which a new row can join
    /// rather than begin one of its own.
    pub(crate) fn cold_near(&self, window: i64, tenant: &str) -> Option<usize> {
        match self.ranges.binary_search_by(|range| range.compare(window, tenant)) {
            Ok(at) => (!self.ranges[at].loaded).then_some(at),
            Err(at) => {
                let beside = |range: &&Range| range.day() == day(window);
                let left = at.checked_sub(1).map(|at| &self.ranges[at]).filter(beside);
                let right = self.ranges.get(at).filter(beside);
                match (left, right) {
                    (Some(left), _) if left.loaded || self.small(left) => (!left.loaded).then(|| at - 1),
                    (_, Some(right)) if self.small(right) && !right.loaded => Some(at),
                    _ => None,
                }
            }
        }
    }

    pub(crate) fn range_ref(&self, at: usize) -> RangeRef {
        let range = &self.ranges[at];
        RangeRef {
            table: self.table,
            partition: self.partition,
            id: range.id.clone(),
            first: range.first.clone(),
            last: range.last.clone(),
            rows: range.rows,
        }
    }

    /// The cold ranges with windows that a watermark passes which goes from the stored one to `watermark`.
    pub(crate) fn cold_to_finish(&self, watermark: Option<Timestamp>) -> Vec<usize> {
        // The end of the last window that is over.
        let Some(to) = watermark.map(|to| self.kind.start(to)) else { return Vec::new() };
        if self.watermark.is_some_and(|from| to <= from) {
            return Vec::new();
        }
        let end = |key: &RangeKey| self.kind.end(key.window_start);
        let from = self.ranges.partition_point(|range| self.watermark.is_some_and(|from| end(&range.last) <= from));
        (from..self.ranges.len())
            .take_while(|at| end(&self.ranges[*at].first) <= to)
            .filter(|at| !self.ranges[*at].loaded)
            .collect()
    }

    /// Begins to take the rows of a stored range. `None` where it is loaded already.
    pub(crate) fn begin_load(&self, range: &RangeRef) -> Result<Option<usize>> {
        let at = self.ranges.binary_search_by(|known| known.first.cmp(&range.first)).ok();
        match at.filter(|at| self.ranges[*at].id == range.id) {
            Some(at) => Ok((!self.ranges[at].loaded).then_some(at)),
            None => Err(Error::new(ErrorKind::Invariant, "no such stored range")
                .with("table", self.table.name())
                .with("partition", self.partition)
                .with("range", &range.id.0)),
        }
    }

    /// Takes a group of the range `at`, which is being loaded.
    pub(crate) fn put(
        &mut self,
        tenants: &mut Tenants,
        at: usize,
        window: i64,
        tenant: &str,
        group: G,
        now: u64,
    ) -> Result<()> {
        let range = &self.ranges[at];
        if range.compare(window, tenant).is_ne() {
            return Err(self.corrupt(at, "a stored row lies outside of its range"));
        }
        let id = tenants.intern(tenant.as_bytes());
        let kept = Kept::new(group);
        let bytes = kept.bytes();
        let window = self.window(window);
        let window = &mut self.slots[window];
        (window.used, window.packed) = (now, false);
        if window.groups.insert(id, kept).is_some() {
            return Err(self.corrupt(at, "a stored range has two rows of one key"));
        }
        tenants.retain(id);
        self.memory.all += bytes;
        Ok(())
    }

    pub(crate) fn end_load(&mut self, at: usize) {
        self.ranges[at].loaded = true;
        self.find_cold();
    }

    pub(crate) fn corrupt(&self, at: usize, message: &str) -> Error {
        Error::new(ErrorKind::Corrupt, message)
            .with("table", self.table.name())
            .with("partition", self.partition)
            .with("range", &self.ranges[at].id.0)
    }

    /// To be called when ranges were loaded or evicted.
    pub(crate) fn find_cold(&mut self) {
        let mut cold = (i64::MAX, i64::MIN);
        for (at, range) in self.ranges.iter().enumerate().filter(|(_, range)| !range.loaded) {
            let (mut first, mut last) = (range.first.window_start.millis(), range.last.window_start.millis());
            if self.small(range) {
                // New rows join it, as far as the ranges beside it.
                let beside = |range: &&Range| range.day() == day(first);
                let left = at.checked_sub(1).map(|at| &self.ranges[at]).filter(beside);
                let right = self.ranges.get(at + 1).filter(beside);
                (first, last) = (
                    left.map_or(day(first) * DAY, |range| range.last.window_start.millis()),
                    right.map_or((day(first) + 1) * DAY, |range| range.first.window_start.millis()),
                );
            }
            cold = (cold.0.min(first), cold.1.max(last.saturating_add(1)));
        }
        self.cold = cold;
        self.warm_from = if cold.0 < cold.1 {
            self.kind.end(self.kind.start(Timestamp::from_millis(cold.1 - 1))).millis()
        } else {
            i64::MIN
        };
    }

    /// The loaded ranges that no cut is about to replace, each with the time it was last used.
    pub(crate) fn evictable(&self) -> impl Iterator<Item = (u64, usize)> {
        self.ranges.iter().enumerate().filter(|(_, range)| range.loaded && !range.replaced).map(|(at, range)| {
            let windows = self.windows.range(range.first.window_start.millis()..=range.last.window_start.millis());
            (windows.map(|(_, at)| self.slots[*at].used).max().unwrap_or(0), at)
        })
    }

    /// Drops the rows of a loaded range, unless one of them has to stay.
    pub(crate) fn evict(&mut self, at: usize, tenants: &mut Tenants) {
        let range = &self.ranges[at];
        let (first, last) = (range.first.window_start.millis(), range.last.window_start.millis());
        let windows: Vec<(i64, usize)> = self.windows.range(first..=last).map(|(start, at)| (*start, *at)).collect();
        let inside = |start: i64, id: u32, tenants: &Tenants| range.compare(start, tenants.name(id)).is_eq();
        let needed = windows.iter().any(|(start, at)| {
            let groups = &self.slots[*at].groups;
            groups.iter().any(|(id, kept)| (kept.changed || kept.held) && inside(*start, *id, tenants))
        });
        if needed {
            return;
        }
        let mut released = Vec::new();
        for (start, at) in windows {
            let window = &mut self.slots[at];
            window.groups.retain(|id, kept| {
                let evicted = inside(start, *id, tenants);
                if evicted {
                    self.memory.all -= kept.bytes();
                    released.push(*id);
                }
                !evicted
            });
            if window.groups.is_empty() {
                window.groups = FxHashMap::default();
                self.windows.remove(&start);
                self.free.push(at);
                self.last = (i64::MIN, 0);
            }
        }
        released.into_iter().for_each(|id| tenants.release(id));
        self.ranges[at].loaded = false;
    }

    /// The windows that may be packed, each with the time it was last used.
    pub(crate) fn idle(&self, now: u64) -> impl Iterator<Item = (u64, i64)> {
        let windows = self.windows.iter().map(|(start, at)| (&self.slots[*at], *start));
        windows
            .filter(move |(window, _)| !window.packed && window.used + IDLE_BATCHES < now)
            .map(|(window, start)| (window.used, start))
    }

    /// Packs the groups of a window, but those that are held.
    pub(crate) fn pack(&mut self, start: i64, plans: &Plans) {
        let Some(at) = self.windows.get(&start) else { return };
        let window = &mut self.slots[*at];
        window.packed = true;
        window.groups.values_mut().for_each(|kept| kept.pack(start, plans, &mut self.memory));
    }

    /// Memory of the rows and of the list of ranges, in bytes.
    pub(crate) fn memory_bytes(&self) -> usize {
        self.memory.all + self.ranges.capacity() * size_of::<Range>()
    }

    /// Memory of the rows that changed since the last cut, in bytes.
    pub(crate) fn changed_bytes(&self) -> usize {
        self.memory.changed
    }
}
