//! Deduplication: the ids of accepted events, exact where that is needed and cheap where it is not.

mod filter;
mod tenants;

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use hashbrown::HashTable;
use uuid::Uuid;

use crate::time::Timestamp;
use filter::Filters;
use tenants::{Tenants, tenant_hash};

/// How much [`AdmitEngine`](crate::AdmitEngine)s remember by themselves: all that were given clones of one value, together. No
/// limit changes a verdict; what is beyond one is asked of the lake.
///
/// Each engine may hold its share, and more as long as all together stay below the limit: partitions differ much in how many
/// events they have.
#[derive(Debug, Clone)]
pub struct AdmitLimits {
    max_ids: usize,
    max_filter_bytes: usize,
    engines: usize,
    /// What all hold.
    held: Arc<Held>,
}

#[derive(Debug, Default)]
struct Held {
    ids: AtomicUsize,
    filter_bytes: AtomicUsize,
}

impl AdmitLimits {
    /// Limits of so many engines together.
    ///
    /// * `max_ids`: ids that are held exactly, at about 40 bytes each; those of rows that are not in the lake yet come on top.
    /// * `max_filter_bytes`: bytes of filters, which hold older ids at about 10 bits each.
    pub fn new(max_ids: usize, max_filter_bytes: usize, engines: usize) -> Self {
        Self { max_ids, max_filter_bytes, engines: engines.max(1), held: Arc::default() }
    }
}

impl Default for AdmitLimits {
    /// Two million ids and 16 MiB of filters for a single engine.
    fn default() -> Self {
        Self::new(2_000_000, 16 << 20, 1)
    }
}

/// What one engine holds of what is allowed to all.
#[derive(Debug)]
struct Holding {
    limits: AdmitLimits,
    ids: usize,
    filter_bytes: usize,
}

impl Holding {
    fn new(limits: AdmitLimits) -> Self {
        Self { limits, ids: 0, filter_bytes: 0 }
    }

    /// Holds `ids` now; answers how many it may hold, where that is fewer.
    fn ids(&mut self, ids: usize) -> Option<usize> {
        let AdmitLimits { max_ids, engines, held, .. } = &self.limits;
        allowed(&held.ids, std::mem::replace(&mut self.ids, ids), ids, *max_ids, *engines)
    }

    /// As [`Holding::ids`], of bytes of filters.
    fn filter_bytes(&mut self, bytes: usize) -> Option<usize> {
        let AdmitLimits { max_filter_bytes, engines, held, .. } = &self.limits;
        allowed(
            &held.filter_bytes,
            std::mem::replace(&mut self.filter_bytes, bytes),
            bytes,
            *max_filter_bytes,
            *engines,
        )
    }
}

/// One of `engines` holds `now` instead of `before`, as part of `all`: how much it may, where that is less. Nobody has to go
/// below an equal share.
fn allowed(all: &AtomicUsize, before: usize, now: usize, most: usize, engines: usize) -> Option<usize> {
    // The number may be a moment old: it decides what memory is used, never what is answered.
    let all = all.fetch_add(now.wrapping_sub(before), Ordering::Relaxed).wrapping_add(now.wrapping_sub(before));
    let allowed = now.saturating_sub(all.saturating_sub(most)).max(most / engines);
    (allowed < now).then_some(allowed)
}

impl Drop for Holding {
    fn drop(&mut self) {
        self.limits.held.ids.fetch_sub(self.ids, Ordering::Relaxed);
        self.limits.held.filter_bytes.fetch_sub(self.filter_bytes, Ordering::Relaxed);
    }
}

/// The number of no tenant.
const UNSEEN: u32 = u32::MAX;

/// The ids and times of a batch's events, packed: a pass over them reads little memory, and that in order.
#[derive(Debug, Default)]
pub(crate) struct BatchIds {
    ids: Vec<BatchId>,
    /// The tenants' names, one after the other.
    names: Vec<u8>,
}

#[derive(Debug, Clone, Copy)]
struct BatchId {
    hash: u64,
    id: [u64; 2],
    tenant_hash: u64,
    /// Where its tenant's name ends.
    name_end: usize,
    time: Timestamp,
}

impl BatchIds {
    /// For a batch of about that many events.
    pub(crate) fn with_capacity(events: usize) -> Self {
        Self { ids: Vec::with_capacity(events), names: Vec::with_capacity(16 * events) }
    }

    /// Adds an event.
    pub(crate) fn push(&mut self, tenant_id: &str, event_id: Uuid, time: Timestamp) {
        let (high, low) = event_id.as_u64_pair();
        let (id, tenant_hash) = ([high, low], tenant_hash(tenant_id));
        self.names.extend_from_slice(tenant_id.as_bytes());
        let hash = key_hash(tenant_hash, id);
        self.ids.push(BatchId { hash, id, tenant_hash, name_end: self.names.len(), time });
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.ids.len()
    }

    /// The event time of each.
    pub(crate) fn times(&self) -> impl ExactSizeIterator<Item = Timestamp> {
        self.ids.iter().map(|id| id.time)
    }

    /// What an event and its duplicates share; that another does so too is as good as impossible.
    pub(crate) fn identity(&self, index: usize) -> (u64, [u64; 2]) {
        (self.ids[index].tenant_hash, self.ids[index].id)
    }

    /// The memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.ids.len() * size_of::<BatchId>() + self.names.len()
    }

    fn name(&self, index: usize) -> &[u8] {
        let start = if index == 0 { 0 } else { self.ids[index - 1].name_end };
        &self.names[start..self.ids[index].name_end]
    }
}

/// What two events must share to be duplicates.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Key {
    hash: u64,
    id: [u64; 2],
    tenant: u32,
}

impl Key {
    /// Whether nothing was ever accepted from its tenant, as far as memory knows.
    pub(crate) fn is_unseen(&self) -> bool {
        self.tenant == UNSEEN
    }
}

/// An id in the table: 24 bytes.
#[derive(Debug, Clone, Copy)]
struct Entry {
    id: [u64; 2],
    tenant: u32,
    /// Milliseconds after [`IdMemory::base`].
    time: u32,
}

/// An id with its time in full.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Id {
    id: [u64; 2],
    tenant: u32,
    time: Timestamp,
}

/// The ids of a partition's accepted events.
///
/// Every accepted id with an event time not before `base` is in exact memory: in `table`, or in `held` if its time
/// does not fit there. Every one before `base` is in the lake, or in `held` as long as the lake may not show it; and
/// in the filters if its time is not before `covered`. `base` follows the watermark at the end of batches; if the
/// table is full it runs ahead of it.
#[derive(Debug)]
pub(crate) struct IdMemory {
    holding: Holding,
    /// How far the watermark moves before the ids that it passed are swept out.
    stride: i64,
    base: Option<Timestamp>,
    covered: Timestamp,
    tenants: Tenants,
    table: HashTable<Entry>,
    held: HashTable<Id>,
    /// Ids of rows that the lake may not show yet, a list a batch with the position after it.
    pending: VecDeque<(u64, Vec<Id>)>,
    accepted: Vec<Id>,
    visible: u64,
    filters: Filters,
}

fn fold(a: u64, b: u64) -> u64 {
    let product = u128::from(a) * u128::from(b);
    product as u64 ^ (product >> 64) as u64
}

fn key_hash(tenant_hash: u64, id: [u64; 2]) -> u64 {
    let mixed = fold(id[0] ^ tenant_hash, id[1] ^ 0x9e37_79b9_7f4a_7c15);
    fold(mixed ^ tenant_hash.rotate_left(32), 0xd6e8_feb8_6659_fd93)
}

impl IdMemory {
    /// A memory of a partition whose rows below the start are in the lake. `watermark` is that of the start; `None`
    /// says that nothing was accepted before.
    pub(crate) fn new(limits: AdmitLimits, lateness_ms: i64, watermark: Option<Timestamp>) -> Self {
        Self {
            holding: Holding::new(limits),
            stride: (lateness_ms / 8).max(1),
            base: watermark,
            covered: watermark.unwrap_or(Timestamp::MIN),
            tenants: Tenants::default(),
            table: HashTable::new(),
            held: HashTable::new(),
            pending: VecDeque::new(),
            accepted: Vec::new(),
            visible: 0,
            filters: Filters::default(),
        }
    }

    /// The key of an event, which may be of a tenant never accepted from. Holds until [`IdMemory::end_batch`], or until
    /// an event of such a tenant is accepted.
    pub(crate) fn key(&self, batch: &BatchIds, index: usize) -> Key {
        let BatchId { hash, id, tenant_hash, .. } = batch.ids[index];
        let tenant = self.tenants.get(tenant_hash, batch.name(index)).unwrap_or(UNSEEN);
        Key { hash, id, tenant }
    }

    /// The keys of some events. Brings what is asked about them next into the processor's caches: where each question
    /// would wait for memory by itself, these loops wait for many at a time.
    pub(crate) fn keys(&self, batch: &BatchIds, indices: Range<usize>, keys: &mut Vec<Key>) {
        keys.clear();
        keys.extend(indices.map(|index| self.key(batch, index)));
        let found = keys.iter().filter(|key| self.table.find(key.hash, |e| e.id == key.id).is_some());
        std::hint::black_box(found.count());
    }

    /// Whether exact memory has an accepted event with the key and a time not before `watermark`.
    pub(crate) fn has_since(&self, key: &Key, watermark: Timestamp) -> bool {
        let Some(base) = self.base else { return false };
        // The least time after `base` that counts; none fits if that is too far ahead.
        let least = watermark.millis().saturating_sub(base.millis()).max(0);
        self.table.find(key.hash, |e| e.id == key.id && e.tenant == key.tenant && i64::from(e.time) >= least).is_some()
            || (!self.held.is_empty() && self.find_held(key, |time| time >= watermark))
    }

    /// Whether exact memory has an accepted event with the key and exactly that time.
    pub(crate) fn has_at(&self, key: &Key, time: Timestamp) -> bool {
        let in_table = self.offset(time).is_some_and(|at| {
            self.table.find(key.hash, |e| e.id == key.id && e.tenant == key.tenant && e.time == at).is_some()
        });
        in_table || (!self.held.is_empty() && self.find_held(key, |held| held == time))
    }

    fn find_held(&self, key: &Key, mut matches: impl FnMut(Timestamp) -> bool) -> bool {
        self.held.find(key.hash, |e| e.id == key.id && e.tenant == key.tenant && matches(e.time)).is_some()
    }

    /// Where exact memory begins.
    pub(crate) fn base(&self) -> Option<Timestamp> {
        self.base
    }

    /// The event times, both inclusive, of which only the lake can say whether the key of an event at `time` was
    /// accepted at one of them; `None` where memory knows all that may be asked: at exactly `time`, and, if `time` is
    /// not before `watermark`, at any time not before that. Holds until [`IdMemory::end_batch`].
    pub(crate) fn unknown(
        &self,
        key: &Key,
        time: Timestamp,
        watermark: Option<Timestamp>,
    ) -> Option<(Timestamp, Timestamp)> {
        let (base, watermark) = (self.base?, watermark?);
        let last = base.plus_millis(-1);
        let (from, to) = if time >= watermark { (watermark, last) } else { (time, time.min(last)) };
        if from > to || self.has_at(key, time) {
            return None;
        }
        let uncovered = (from < self.covered).then(|| (from, to.min(self.covered.plus_millis(-1))));
        match (uncovered, self.filters.when(from, to, key.hash)) {
            (Some((from, _)), Some((_, to))) => Some((from, to)),
            (uncovered, filtered) => uncovered.or(filtered),
        }
    }

    /// Remembers an accepted event. `watermark` is that after it.
    pub(crate) fn accept(&mut self, batch: &BatchIds, index: usize, key: Key, watermark: Timestamp) {
        let base = *self.base.get_or_insert(watermark);
        let id = self.id(batch, index, key);
        if id.time < base && id.time >= self.covered {
            self.filters.insert(id.time, base, key.hash);
        }
        self.place(key.hash, id);
        if self.accepted.is_empty() {
            self.accepted.reserve_exact(batch.len());
        }
        self.accepted.push(id);
    }

    /// Remembers accepted events whose rows are in the lake; those before the watermark that memory began with are not
    /// needed.
    pub(crate) fn remember(&mut self, batch: &BatchIds) {
        for (index, time) in batch.times().enumerate() {
            if self.base.is_some_and(|base| time >= base) {
                let key = self.key(batch, index);
                let id = self.id(batch, index, key);
                self.place(key.hash, id);
            }
        }
    }

    fn id(&mut self, batch: &BatchIds, index: usize, key: Key) -> Id {
        let BatchId { id, tenant_hash, time, .. } = batch.ids[index];
        let tenant = if key.is_unseen() { self.tenants.intern(tenant_hash, batch.name(index)) } else { key.tenant };
        Id { id, tenant, time }
    }

    /// Tells that the lake shows the rows below `position`.
    pub(crate) fn visible(&mut self, position: u64) {
        // Nothing is dropped before the end of a batch: answers that are under way were read before.
        self.visible = self.visible.max(position);
    }

    /// Ends a batch: forgets what need not be held, in bulk.
    pub(crate) fn end_batch(&mut self, position: u64, watermark: Option<Timestamp>) {
        if !self.accepted.is_empty() {
            let accepted = std::mem::take(&mut self.accepted);
            self.pending.push_back((position, accepted));
        }
        let (Some(base), Some(watermark)) = (self.base, watermark) else { return };
        while let Some((_, ids)) = self.pending.pop_front_if(|(to, _)| *to <= self.visible) {
            for id in ids.iter().filter(|id| id.time < base) {
                let hash = key_hash(self.tenants.hash(id.tenant), id.id);
                if let Ok(entry) = self.held.find_entry(hash, |held| held == id) {
                    entry.remove();
                }
            }
        }
        if watermark.millis().saturating_sub(base.millis()) >= self.stride {
            self.sweep(watermark);
        }
        if let Some(allowed) = self.holding.ids(self.table.len()) {
            // A quarter less, so that a sweep serves many batches.
            self.sweep(self.base_of(allowed / 4 * 3));
            self.holding.ids(self.table.len());
        }
        if let Some(allowed) = self.holding.filter_bytes(self.filters.bytes()) {
            if let Some(end) = self.filters.shrink_to(allowed) {
                self.covered = self.covered.max(end);
            }
            self.holding.filter_bytes(self.filters.bytes());
        }
    }

    /// The memory held, in bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.table.allocation_size()
            + self.held.allocation_size()
            + self.pending.iter().map(|(_, ids)| ids.capacity() * size_of::<Id>()).sum::<usize>()
            + self.filters.bytes()
            + self.tenants.bytes()
    }

    /// A time's place after `base`, where the table can hold it.
    fn offset(&self, time: Timestamp) -> Option<u32> {
        u32::try_from(time.millis().checked_sub(self.base?.millis())?).ok()
    }

    fn place(&mut self, hash: u64, id: Id) {
        let tenants = &self.tenants;
        match self.offset(id.time) {
            Some(time) => {
                let entry = Entry { id: id.id, tenant: id.tenant, time };
                self.table.insert_unique(hash, entry, |e| key_hash(tenants.hash(e.tenant), e.id));
            }
            None => {
                self.held.insert_unique(hash, id, |e| key_hash(tenants.hash(e.tenant), e.id));
            }
        }
    }

    /// A base that leaves the table at most `kept` ids, which are fewer than it has.
    fn base_of(&self, kept: usize) -> Timestamp {
        let mut times: Vec<u32> = self.table.iter().map(|e| e.time).collect();
        let last_dropped = times.len() - kept - 1;
        let (_, time, _) = times.select_nth_unstable(last_dropped);
        self.base.unwrap_or_default().plus_millis(i64::from(*time) + 1)
    }

    /// Moves `base` on. The ids that it passes go to the filters, and to `held` while they are pending.
    fn sweep(&mut self, to: Timestamp) {
        let Some(from) = self.base else { return };
        if to <= from {
            return;
        }
        let tenants = &self.tenants;
        let hash = |id: [u64; 2], tenant: u32| key_hash(tenants.hash(tenant), id);
        let shift = to.millis().saturating_sub(from.millis());
        let mut passed = Vec::new();
        self.table.retain(|e| match u32::try_from(i64::from(e.time) - shift) {
            Ok(time) => {
                e.time = time;
                true
            }
            Err(_) => {
                passed.push(hash(e.id, e.tenant));
                false
            }
        });
        let held = std::mem::take(&mut self.held);
        // Those before the old base went to the filters when they were accepted.
        passed.extend(held.iter().filter(|id| (from..to).contains(&id.time)).map(|id| hash(id.id, id.tenant)));
        self.filters.insert_stretch(from, to, &passed);
        if self.table.len() < self.table.capacity() / 4 {
            self.table.shrink_to(self.table.len() * 2, |e| hash(e.id, e.tenant));
        }
        self.base = Some(to);
        let pending = std::mem::take(&mut self.pending);
        let pending_ids = pending.iter().flat_map(|(_, ids)| ids).filter(|id| id.time < to);
        for id in held.iter().filter(|id| id.time >= to).chain(pending_ids) {
            self.place(key_hash(self.tenants.hash(id.tenant), id.id), *id);
        }
        self.pending = pending;
        self.forget_tenants();
    }

    /// Forgets the tenants of which no id is held, once they are most of them.
    fn forget_tenants(&mut self) {
        if self.tenants.len() < 1_024 {
            return;
        }
        let mut used = vec![false; self.tenants.len()];
        let exact = self.table.iter().map(|e| e.tenant).chain(self.held.iter().map(|id| id.tenant));
        for tenant in exact.chain(self.pending.iter().flat_map(|(_, ids)| ids).map(|id| id.tenant)) {
            used[tenant as usize] = true;
        }
        if used.iter().filter(|used| **used).count() > used.len() / 2 {
            return;
        }
        // An id's hash is made of its tenant's name, so that it stays where it is.
        let numbers = self.tenants.retain(&used);
        self.table.iter_mut().for_each(|e| e.tenant = numbers[e.tenant as usize]);
        self.held.iter_mut().for_each(|id| id.tenant = numbers[id.tenant as usize]);
        let pending = self.pending.iter_mut().flat_map(|(_, ids)| ids);
        pending.for_each(|id| id.tenant = numbers[id.tenant as usize]);
    }
}

#[cfg(test)]
mod tests;
