//! One Gold table of one partition: its rows in memory, by window and tenant, and the ranges in which they are stored.
//!
//! Rows are replaced, a whole range at a time. A stored range is a stretch of the keys (window start, tenant); ranges
//! do not overlap, and those of one date lie in that date's folder. A range is *loaded* (all its rows are in memory) or
//! *cold* (none is). A group, the rows of one key, is in memory if it belongs to a loaded range, or is new and belongs
//! to none yet. Where memory is short, groups that nothing has touched lately are *packed* to the bytes of their stored
//! state, a quarter of their size, stored already or not, before anything is dropped: most of them are still to be stored,
//! or to become final.

mod kept;

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use crate::error::{Error, ErrorKind, Result};
use crate::intern::{Plans, Tenants};
use crate::store::{Counter, GoldRows};
use crate::store::{PartitionState, RangeId, RangeKey, RangeRef, RangeWrite, Table};
use crate::time::{DAY, Timestamp, WindowKind};
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

/// Keys of the cut that are written together, in place of some stored ranges.
#[derive(Debug)]
struct Run {
    /// `2 × i + 1` for what replaces range `i`, `2 × i` for what is new before it: runs sort by it and their first key.
    place: usize,
    replaces: Option<usize>,
    keys: Vec<(i64, u32)>,
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

/// A group as it is written.
pub(crate) struct Written<'a, G> {
    pub(crate) group: &'a G,
    /// Its short form, where that is at hand.
    pub(crate) packed: Option<&'a [u8]>,
    pub(crate) tenant: u32,
    pub(crate) start: Timestamp,
    pub(crate) end: Timestamp,
    pub(crate) is_final: bool,
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
        for range in self.ranges.iter().filter(|range| !range.loaded) {
            let (first, last) = if self.small(range) {
                (range.day() * DAY, (range.day() + 1) * DAY)
            } else {
                (range.first.window_start.millis(), range.last.window_start.millis().saturating_add(1))
            };
            cold = (cold.0.min(first), cold.1.max(last));
        }
        self.cold = cold;
        self.warm_from = if cold.0 < cold.1 {
            self.kind.end(self.kind.start(Timestamp::from_millis(cold.1 - 1))).millis()
        } else {
            i64::MIN
        };
    }

    /// Writes what changed since the last cut and the rows that `watermark` makes final. `emit` appends a group's rows.
    ///
    /// # Errors
    /// `Invariant` where a range is cold that must be loaded.
    pub(crate) fn cut<R>(
        &mut self,
        (tenants, plans): (&mut Tenants, &mut Plans),
        watermark: Option<Timestamp>,
        emit: impl Fn(&Written<'_, G>, (&Tenants, &Plans), &mut Vec<R>),
        wrap: impl Fn(Vec<R>) -> GoldRows,
    ) -> Result<Vec<RangeWrite>> {
        if let Some(at) = self.cold_to_finish(watermark).first() {
            return Err(self.not_loaded(*at));
        }
        self.finish(watermark);
        let mut writes = Vec::new();
        let runs = self.runs(tenants)?;
        for (i, run) in runs.iter().enumerate() {
            let day = day(run.keys[0].0);
            let next = run.place.div_ceil(2);
            let growing = runs.get(i + 1).is_none_or(|run| self::day(run.keys[0].0) != day)
                && self.ranges.get(next).is_none_or(|range| range.day() != day);
            let kept = |(start, tenant): &(i64, u32)| self.slots[self.windows[start]].groups.get(tenant);
            let sizes: Vec<usize> = match G::ONE_ROW {
                true => vec![1; run.keys.len()],
                false => run.keys.iter().map(|key| kept(key).map_or(0, Kept::rows)).collect(),
            };
            for part in split(&sizes, self.range_rows, growing) {
                let mut rows = Vec::with_capacity(sizes[part.clone()].iter().sum());
                let keys = &run.keys[part];
                for (start, tenant) in keys {
                    let window = &self.slots[self.windows[start]];
                    let (window_start, end) = (Timestamp::from_millis(*start), Timestamp::from_millis(window.end));
                    let is_final = watermark.is_some_and(|watermark| end <= watermark);
                    let Some(kept) = window.groups.get(tenant) else { continue };
                    kept.show(*start, plans, |group, packed, plans| {
                        let written = Written { group, packed, tenant: *tenant, start: window_start, end, is_final };
                        emit(&written, (tenants, plans), &mut rows);
                    });
                }
                let key = |(window, tenant): (i64, u32)| RangeKey {
                    window_start: Timestamp::from_millis(window),
                    tenant_id: tenants.name(tenant).clone(),
                };
                let (first, last) = (key(keys[0]), key(keys[keys.len() - 1]));
                self.written.push((first.clone(), last.clone(), u32::try_from(rows.len()).unwrap_or(u32::MAX)));
                writes.push(RangeWrite {
                    table: self.table,
                    partition: self.partition,
                    replaces: run.replaces.iter().map(|at| self.ranges[*at].id.clone()).collect(),
                    first,
                    last,
                    rows: wrap(rows),
                });
            }
        }
        for run in runs {
            if let Some(at) = run.replaces {
                self.ranges[at].replaced = true;
            }
        }
        self.memory.changed = 0;
        Ok(writes)
    }

    /// The cut under way is stored, its ranges under the next of `ids`, and the table stands at `position`.
    pub(crate) fn committed<'a>(
        &mut self,
        ids: &mut impl Iterator<Item = &'a RangeId>,
        position: u64,
        watermark: Option<Timestamp>,
    ) {
        self.position = position;
        self.watermark = self.watermark.max(watermark);
        self.ranges.retain(|range| !range.replaced);
        for ((first, last, rows), id) in self.written.drain(..).zip(ids) {
            let at = self.ranges.partition_point(|range| range.first < first);
            self.ranges.insert(at, Range { id: id.clone(), first, last, rows, loaded: true, replaced: false });
        }
    }

    /// How many ranges the cut under way writes.
    pub(crate) fn writing(&self) -> usize {
        self.written.len()
    }

    /// Marks the groups as changed whose windows end behind the stored watermark, but not behind `watermark`.
    fn finish(&mut self, watermark: Option<Timestamp>) {
        let Some(to) = watermark else { return };
        let from = self.watermark.unwrap_or(Timestamp::MIN);
        for at in self.windows.values() {
            let window = &mut self.slots[*at];
            let end = Timestamp::from_millis(window.end);
            if from < end && end <= to {
                for (tenant, kept) in &mut window.groups {
                    if !std::mem::replace(&mut kept.changed, true) {
                        window.changed.push(*tenant);
                    }
                }
            }
        }
    }

    /// Which keys are to be written, together with which stored range. Afterwards nothing is marked as changed.
    fn runs(&mut self, tenants: &mut Tenants) -> Result<Vec<Run>> {
        let mut touched: BTreeMap<usize, Vec<(i64, u32)>> = BTreeMap::new();
        let mut fresh: Vec<(usize, i64, u32)> = Vec::new();
        for (start, at) in &self.windows {
            let window = &mut self.slots[*at];
            if window.changed.is_empty() {
                continue;
            }
            let mut changed = std::mem::take(&mut window.changed);
            for tenant in &changed {
                if let Some(kept) = window.groups.get_mut(tenant) {
                    kept.changed = false;
                }
            }
            tenants.sort(&mut changed);
            // In the order of names many come from one range.
            let mut last = None;
            for tenant in changed {
                let compare = |range: &Range| range.compare(*start, tenants.name(tenant));
                let same = last.filter(|at| compare(&self.ranges[*at]).is_eq());
                let found = same.map_or_else(|| self.ranges.binary_search_by(compare), Ok);
                last = found.ok();
                match found {
                    Ok(at) if self.ranges[at].loaded => {
                        touched.entry(at).or_default();
                    }
                    Ok(at) => return Err(self.not_loaded(at)),
                    Err(gap) => fresh.push((gap, *start, tenant)),
                }
            }
        }
        // New keys join the range before or behind them where that is rewritten anyway, or is small.
        let mut runs = Vec::new();
        for stretch in fresh.chunk_by(|a, b| a.0 == b.0 && day(a.1) == day(b.1)) {
            let (gap, window, _) = stretch[0];
            let joins = |at: usize| {
                let range = &self.ranges[at];
                range.loaded && range.day() == day(window) && (self.small(range) || touched.contains_key(&at))
            };
            let neighbour = gap
                .checked_sub(1)
                .filter(|at| joins(*at))
                .or_else(|| (gap < self.ranges.len() && joins(gap)).then_some(gap));
            let keys = stretch.iter().map(|(_, window, tenant)| (*window, *tenant));
            match neighbour {
                Some(at) => touched.entry(at).or_default().extend(keys),
                None => runs.push(Run { place: 2 * gap, replaces: None, keys: keys.collect() }),
            }
        }
        let mut sorted = FxHashMap::default();
        for (at, joined) in touched {
            let mut keys = self.keys(at, tenants, &mut sorted);
            let before = joined
                .partition_point(|(window, tenant)| self.ranges[at].compare(*window, tenants.name(*tenant)).is_gt());
            keys.splice(0..0, joined[..before].iter().copied());
            keys.extend_from_slice(&joined[before..]);
            runs.push(Run { place: 2 * at + 1, replaces: Some(at), keys });
        }
        runs.sort_by_key(|run| (run.place, run.keys[0].0));
        Ok(runs)
    }

    /// The keys of a loaded range, in order. `sorted` keeps the order of windows that were met before.
    fn keys(&self, at: usize, tenants: &mut Tenants, sorted: &mut FxHashMap<i64, Vec<u32>>) -> Vec<(i64, u32)> {
        let range = &self.ranges[at];
        let mut keys = Vec::with_capacity(range.rows as usize);
        let (first, last) = (range.first.window_start.millis(), range.last.window_start.millis());
        for (start, at) in self.windows.range(first..=last) {
            let ids = sorted.entry(*start).or_insert_with(|| {
                let mut ids: Vec<u32> = self.slots[*at].groups.keys().copied().collect();
                tenants.sort(&mut ids);
                ids
            });
            let from = ids.partition_point(|id| range.compare(*start, tenants.name(*id)).is_gt());
            let to = ids.partition_point(|id| range.compare(*start, tenants.name(*id)).is_ge());
            keys.extend(ids[from..to].iter().map(|id| (*start, *id)));
        }
        keys
    }

    fn not_loaded(&self, at: usize) -> Error {
        Error::new(ErrorKind::Invariant, "a stored range is needed and was not loaded")
            .with("table", self.table.name())
            .with("partition", self.partition)
            .with("range", &self.ranges[at].id.0)
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

/// Cuts groups of these sizes into ranges of at most `most` rows; a larger group is one by itself. At the growing end
/// of a date all but the last are filled, for what comes goes behind them; elsewhere they are of equal size, for what
/// comes goes anywhere.
fn split(sizes: &[usize], most: usize, growing: bool) -> Vec<std::ops::Range<usize>> {
    let total: usize = sizes.iter().sum();
    let most = if growing { most } else { total.div_ceil(total.div_ceil(most).max(1)) };
    let mut parts = Vec::new();
    let (mut from, mut rows) = (0, 0);
    for (at, size) in sizes.iter().enumerate() {
        if rows > 0 && rows + size > most {
            parts.push(from..at);
            (from, rows) = (at, 0);
        }
        rows += size;
    }
    if from < sizes.len() {
        parts.push(from..sizes.len());
    }
    parts
}
