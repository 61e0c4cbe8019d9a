//! The counter path, beside the lake's: what tenants have used of their open windows, told to the counter store within
//! milliseconds of being read, and told again where the store has lost its memory.
//!
//! Values are absolute and only grow, so it never matters how often or in what order they are told. Nothing here waits
//! for a commit, and nothing else waits for the store. Nor does it wait for what deduplication or windows ask the lake:
//! events that are accepted whatever the answer are told ahead ([`Floors::note_ahead`]).

use std::sync::Arc;
use std::time::Duration;

use futures::future::join_all;
use hashbrown::{HashMap, HashSet};
use subscription_core::{
    AggregateEngine, Clock, CounterStore, EventBatch, GoldRows, PartitionState, RangeRef, Settled, Table, Timestamp,
    WindowKind,
};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::events::{Events, PipelineEvent};
use crate::run::nanos;

/// How long one call may take. Longer than a gateway's: nobody waits for it.
const DEADLINE: Duration = Duration::from_millis(500);
/// How often it is looked whether the store still has its memory, and how long to wait after a failure.
const CHECK: Duration = Duration::from_millis(200);
/// How often it is said that the store cannot be reached, while it is tried all the time.
const SAY: Duration = Duration::from_secs(10);
/// Values in one call.
const BATCH: usize = 4_096;
/// Parts of a store, as [`CounterStore::shard`] numbers them.
const SHARDS: usize = 64;
const MINUTE: i64 = 60_000;

/// What a tenant has used of a window.
type Key = (Arc<str>, WindowKind, Timestamp);

/// What was told of events that were not applied yet. Empty where there are none.
pub(crate) type ToldAhead = HashMap<Key, i64>;

/// Where workers say what they have counted.
#[derive(Clone)]
pub(crate) struct Floors {
    sender: mpsc::UnboundedSender<Vec<(Key, i64)>>,
    clock: Arc<dyn Clock>,
}

impl Floors {
    /// Begins to tell a store. The task ends once all copies of the value are gone and all is told, or cannot be.
    pub(crate) fn start(store: Arc<dyn CounterStore>, clock: Arc<dyn Clock>, events: Events) -> (Self, JoinHandle<()>) {
        let (sender, receiver) = mpsc::unbounded_channel();
        let teller = Teller::new(store, clock.clone(), events);
        (Self { sender, clock }, tokio::spawn(teller.run(receiver)))
    }

    /// Takes up what a batch has changed, once it was applied.
    pub(crate) fn note(&self, batch: &EventBatch, aggregate: &AggregateEngine) {
        let open = Open::at(self.clock.now());
        let mut seen = HashSet::new();
        let mut values = Vec::new();
        for row in batch.rows() {
            let tenant = batch.text(row.tenant_id);
            let mut name: Option<Arc<str>> = None;
            for (kind, start) in open.windows(row.event_timestamp) {
                if seen.insert((tenant, kind, start))
                    && let Some(used) = aggregate.quota_used(tenant, kind, start)
                    && used > 0
                {
                    values.push(((name.get_or_insert_with(|| Arc::from(tenant)).clone(), kind, start), used));
                }
            }
        }
        self.send(values);
    }

    /// Takes up events that are accepted and wait to be applied.
    pub(crate) fn note_ahead(&self, batch: &EventBatch, aggregate: &AggregateEngine, ahead: &mut ToldAhead) {
        let open = Open::at(self.clock.now());
        let mut changed = HashMap::new();
        for row in batch.rows().iter().filter(|row| row.quota_used() > 0) {
            for (kind, start) in open.windows(row.event_timestamp) {
                let used: &mut i64 = changed.entry((batch.text(row.tenant_id), kind, start)).or_default();
                *used = used.saturating_add(row.quota_used());
            }
        }
        let values = changed.into_iter().map(|((tenant, kind, start), used)| {
            // Either may be behind: what was applied since has late events too, and of rows that are not in memory
            // nothing is known here.
            let applied = aggregate.quota_used(tenant, kind, start).unwrap_or(0);
            let key = (Arc::from(tenant), kind, start);
            let before = ahead.get(&key).map_or(applied, |told| applied.max(*told));
            ahead.insert(key.clone(), before.saturating_add(used));
            (key, before.saturating_add(used))
        });
        self.send(values.collect());
    }

    /// Those of a partition's stored ranges in which open windows are, to be read at the start.
    pub(crate) fn open_ranges(&self, state: &PartitionState) -> Vec<RangeRef> {
        let open = Open::at(self.clock.now());
        let is_open =
            |range: &&RangeRef| usage_kind(range.table).is_some_and(|kind| range.last.window_start >= open.first(kind));
        state.ranges.iter().filter(is_open).cloned().collect()
    }

    /// Takes up what the lake has.
    pub(crate) fn note_rows(&self, table: Table, rows: &GoldRows) {
        let (Some(kind), GoldRows::Usage(rows)) = (usage_kind(table), rows) else { return };
        let open = Open::at(self.clock.now());
        let rows = rows.iter().filter(|row| row.quota_used > 0 && row.window_start >= open.first(kind));
        self.send(rows.map(|row| ((row.tenant_id.clone(), kind, row.window_start), row.quota_used)).collect());
    }

    fn send(&self, values: Vec<(Key, i64)>) {
        if !values.is_empty() {
            // The task only goes before this where the runtime ends.
            let _ = self.sender.send(values);
        }
    }
}

fn usage_kind(table: Table) -> Option<WindowKind> {
    match table {
        Table::UsageMinute => Some(WindowKind::Minute),
        Table::UsageHour => Some(WindowKind::Hour),
        Table::UsageMonth => Some(WindowKind::Month),
        _ => None,
    }
}

/// The windows that decisions look at, now or soon: of each kind that of now and the one after it, and the minute
/// before.
struct Open {
    minutes: [Timestamp; 3],
    hours: [Timestamp; 2],
    months: [Timestamp; 3],
}

impl Open {
    fn at(now: Timestamp) -> Self {
        let [minute, hour, month] = WindowKind::ALL.map(|kind| kind.start(now));
        let next_month = WindowKind::Month.end(month);
        Self {
            minutes: [minute.plus_millis(-MINUTE), minute, minute.plus_millis(MINUTE)],
            hours: [hour, WindowKind::Hour.end(hour)],
            months: [month, next_month, WindowKind::Month.end(next_month)],
        }
    }

    fn first(&self, kind: WindowKind) -> Timestamp {
        match kind {
            WindowKind::Minute => self.minutes[0],
            WindowKind::Hour => self.hours[0],
            WindowKind::Month => self.months[0],
        }
    }

    /// The open windows that hold a time, nearly always three or none.
    fn windows(&self, time: Timestamp) -> impl Iterator<Item = (WindowKind, Timestamp)> {
        let [this, next, after] = self.months;
        let month = if time < this || time >= after { None } else { Some(if time < next { this } else { next }) };
        let (minute, hour) = (WindowKind::Minute.start(time), WindowKind::Hour.start(time));
        let minute = self.minutes.contains(&minute).then_some((WindowKind::Minute, minute));
        let hour = self.hours.contains(&hour).then_some((WindowKind::Hour, hour));
        minute.into_iter().chain(hour).chain(month.map(|month| (WindowKind::Month, month)))
    }
}

/// The task that tells the store.
struct Teller {
    store: Arc<dyn CounterStore>,
    clock: Arc<dyn Clock>,
    events: Events,
    /// Of all open windows; and whether the store has been told.
    values: HashMap<Key, (i64, bool)>,
    untold: Vec<Key>,
    /// For each part of the store a counter that no tenant can have, by its place: as long as it is there, so is the
    /// rest of that part.
    marks: Vec<Option<String>>,
    failing: bool,
    /// When a failure was last said, on the monotonic clock, in nanoseconds.
    said: Option<u64>,
}

impl Teller {
    fn new(store: Arc<dyn CounterStore>, clock: Arc<dyn Clock>, events: Events) -> Self {
        let mut marks = vec![None; SHARDS];
        // Some thousand names are enough to meet all of 64 parts; of most stores all names meet one.
        for n in 0..2_000 {
            let name = format!("#floor-{n}");
            let shard = store.shard(&name) % SHARDS;
            marks[shard].get_or_insert(name);
        }
        Self { store, clock, events, values: HashMap::new(), untold: Vec::new(), marks, failing: false, said: None }
    }

    async fn run(mut self, mut receiver: mpsc::UnboundedReceiver<Vec<(Key, i64)>>) {
        let mut checks = tokio::time::interval(CHECK);
        checks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut many = Vec::new();
        loop {
            tokio::select! {
                _ = checks.tick() => {
                    self.forget_closed();
                    self.check().await;
                    self.failing = false;
                }
                taken = receiver.recv_many(&mut many, 1_024) => {
                    if taken == 0 {
                        break;
                    }
                    many.drain(..).flatten().for_each(|(key, used)| self.take(key, used));
                }
            }
            // After a failure not before the next check, so that values only pile up, each once.
            if !self.failing {
                self.tell().await;
            }
        }
        self.tell().await;
    }

    fn take(&mut self, key: Key, used: i64) {
        let (value, told) = self.values.entry(key.clone()).or_insert((0, true));
        if used > *value {
            *value = used;
            if std::mem::replace(told, false) {
                self.untold.push(key);
            }
        }
    }

    async fn tell(&mut self) {
        while !self.untold.is_empty() && !self.failing {
            let batch = self.untold.split_off(self.untold.len().saturating_sub(BATCH));
            let values: Vec<Settled<'_>> = batch
                .iter()
                .filter_map(|key| {
                    let (tenant, kind, window_start) = key;
                    let (quota_used, _) = *self.values.get(key)?;
                    Some(Settled { tenant, kind: *kind, window_start: *window_start, quota_used })
                })
                .collect();
            let told = self.store.settle(&values, DEADLINE).await;
            drop(values);
            match told {
                Ok(()) => {
                    for key in &batch {
                        if let Some((_, told)) = self.values.get_mut(key) {
                            *told = true;
                        }
                    }
                }
                Err(error) => {
                    self.failed(error);
                    self.untold.extend(batch);
                }
            }
        }
    }

    /// Looks for the marks; where one is gone all of its part is told again.
    async fn check(&mut self) {
        let now = self.clock.now();
        let marks: Vec<(usize, &str)> =
            self.marks.iter().enumerate().filter_map(|(shard, name)| Some((shard, name.as_deref()?))).collect();
        let found = join_all(marks.iter().map(|(_, name)| self.store.counters(name, DEADLINE))).await;
        let mut lost = [false; SHARDS];
        let mut error = None;
        for ((shard, _), found) in marks.iter().zip(found) {
            match found {
                Ok(counters) => lost[*shard] = counters.month.settled == 0,
                Err(failure) => error = Some(failure),
            }
        }
        if lost.contains(&true) {
            let store = self.store.clone();
            let is_lost = |key: &Key| lost[store.shard(&key.0) % SHARDS];
            for (key, (_, told)) in &mut self.values {
                if *told && is_lost(key) {
                    *told = false;
                    self.untold.push(key.clone());
                }
            }
            let window_start = WindowKind::Month.start(now);
            let mark = |tenant| Settled { tenant, kind: WindowKind::Month, window_start, quota_used: 1 };
            let marks: Vec<_> = marks.iter().filter(|(shard, _)| lost[*shard]).map(|(_, name)| mark(name)).collect();
            error = self.store.settle(&marks, DEADLINE).await.err().or(error);
        }
        if let Some(error) = error {
            self.failed(error);
        }
    }

    fn forget_closed(&mut self) {
        let open = Open::at(self.clock.now());
        self.values.retain(|(_, kind, start), _| *start >= open.first(*kind));
        let values = &self.values;
        self.untold.retain(|key| values.contains_key(key));
    }

    fn failed(&mut self, error: subscription_core::Error) {
        self.failing = true;
        let now = self.clock.monotonic_nanos();
        if self.said.is_none_or(|said| now - said >= nanos(SAY)) {
            self.said = Some(now);
            let error = format!("{error:?}");
            self.events.send(PipelineEvent::Retrying { what: "settle counters", error, pause: CHECK });
        }
    }
}
