//! What a commit writes of a table: which keys go together into which ranges.
//!
//! Windows that change lie in small ranges, so that little is rewritten with them; once they are over, in large ones, so
//! that there are few files: the tiers of a log-structured merge tree (O'Neil, Cheng, Gawlick, O'Neil: "The log-structured
//! merge-tree", 1996), with two levels.

use std::collections::BTreeMap;

use rustc_hash::FxHashMap;

use super::kept::{Group, Kept};
use super::{GoldTable, Range, day};
use crate::error::{Error, ErrorKind, Result};
use crate::intern::{Plans, Tenants};
use crate::store::{GoldRows, RangeId, RangeKey, RangeWrite};
use crate::time::Timestamp;

/// One over the part of a full range that has to lie before the last window for that to get a range of its own.
const CLOSED_PARTS: usize = 16;

/// Keys of the cut that are written together, in place of some stored ranges.
#[derive(Debug)]
struct Run {
    /// Empty for new keys that join no range: they lie before the range `replaces.end`.
    replaces: std::ops::Range<usize>,
    keys: Vec<(i64, u32)>,
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
        let runs = self.runs(tenants, watermark)?;
        for (i, run) in runs.iter().enumerate() {
            let day = day(run.keys[0].0);
            let growing = runs.get(i + 1).is_none_or(|run| self::day(run.keys[0].0) != day)
                && self.ranges.get(run.replaces.end).is_none_or(|range| range.day() != day);
            let kept = |(start, tenant): &(i64, u32)| self.slots[self.windows[start]].groups.get(tenant);
            let sizes: Vec<usize> = match G::ONE_ROW {
                true => vec![1; run.keys.len()],
                false => run.keys.iter().map(|key| kept(key).map_or(0, Kept::rows)).collect(),
            };
            // Where the window begins that most of what comes will change.
            let over = |start| watermark.is_some_and(|mark| self.kind.end(Timestamp::from_millis(start)) <= mark);
            let last = run.keys.last().map(|(start, _)| *start).filter(|start| growing && !over(*start));
            let open = last.map_or(0, |last| run.keys.partition_point(|(start, _)| *start < last));
            for part in split(&sizes, open, self.range_rows) {
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
                    replaces: self.ranges[run.replaces.clone()].iter().map(|range| range.id.clone()).collect(),
                    first,
                    last,
                    rows: wrap(rows),
                });
            }
        }
        for run in runs {
            self.ranges[run.replaces].iter_mut().for_each(|range| range.replaced = true);
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

    /// Which keys are to be written, together with which stored ranges. Afterwards nothing is marked as changed.
    fn runs(&mut self, tenants: &mut Tenants, watermark: Option<Timestamp>) -> Result<Vec<Run>> {
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
                None => runs.push(Run { replaces: gap..gap, keys: keys.collect() }),
            }
        }
        let mut sorted = FxHashMap::default();
        let mut replacing: Vec<Run> = Vec::new();
        for (at, joined) in touched {
            let mut keys = self.keys(at, tenants, &mut sorted);
            let before = joined
                .partition_point(|(window, tenant)| self.ranges[at].compare(*window, tenants.name(*tenant)).is_gt());
            keys.splice(0..0, joined[..before].iter().copied());
            keys.extend_from_slice(&joined[before..]);
            match replacing.pop_if(|run| run.replaces.end == at && self.merge(&run.replaces, at, watermark)) {
                Some(mut run) => {
                    run.keys.append(&mut keys);
                    replacing.push(Run { replaces: run.replaces.start..at + 1, keys: run.keys });
                }
                None if replacing.last().is_none_or(|run| run.replaces.end < at)
                    && at.checked_sub(1).is_some_and(|left| self.merge(&(left..at), at, watermark)) =>
                {
                    let mut left = self.keys(at - 1, tenants, &mut sorted);
                    left.append(&mut keys);
                    replacing.push(Run { replaces: at - 1..at + 1, keys: left });
                }
                None => replacing.push(Run { replaces: at..at + 1, keys }),
            }
        }
        runs.append(&mut replacing);
        runs.sort_by_key(|run| (run.replaces.start, !run.replaces.is_empty(), run.keys[0].0));
        Ok(runs)
    }

    /// Whether range `at`, which is rewritten, joins those before it: they are small, and `watermark` has passed them all.
    /// Windows are stored in many small ranges while they change, and in few large ones once they are over.
    fn merge(&self, before: &std::ops::Range<usize>, at: usize, watermark: Option<Timestamp>) -> bool {
        let rows = |ranges: &[Range]| ranges.iter().map(|range| range.rows as usize).sum::<usize>();
        let (small, range) = (&self.ranges[before.clone()], &self.ranges[at]);
        watermark.is_some_and(|watermark| self.kind.end(range.last.window_start) <= watermark)
            && small.iter().all(|small| small.loaded && small.day() == range.day())
            && rows(small) <= self.range_rows / 2
            && rows(small) + range.rows as usize <= self.range_rows
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
}

/// Cuts groups of these sizes into ranges of at most `most` rows, about equally large ones; a larger group is one by itself.
/// Those from `open` on, which are going to change, are kept apart from those before unless these are few.
fn split(sizes: &[usize], open: usize, most: usize) -> Vec<std::ops::Range<usize>> {
    let closed: usize = sizes[..open].iter().sum();
    let open = if closed >= most.div_ceil(CLOSED_PARTS) { open } else { 0 };
    let mut parts = Vec::new();
    for groups in [0..open, open..sizes.len()] {
        let total: usize = sizes[groups.clone()].iter().sum();
        let most = total.div_ceil(total.div_ceil(most).max(1));
        let (mut from, mut rows) = (groups.start, 0);
        for at in groups.clone() {
            if rows > 0 && rows + sizes[at] > most {
                parts.push(from..at);
                (from, rows) = (at, 0);
            }
            rows += sizes[at];
        }
        if from < groups.end {
            parts.push(from..groups.end);
        }
    }
    parts
}
