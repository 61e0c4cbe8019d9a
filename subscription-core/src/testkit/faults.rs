//! Wrappers that make plug-ins fail, before or after a call took effect, when a test says so.

use std::collections::HashMap;
use std::fmt::Debug;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Poll, Waker};

use async_trait::async_trait;

use crate::error::{Error, ErrorKind, Result};
use crate::gold::AlertRow;
use crate::record::RecordBatch;
use crate::rows::{DeadLetters, EventBatch};
use crate::sink::{AlertSink, DeadLetterSink, Delivery, Sink};
use crate::source::{OffsetRange, Source, SourceEvent, SourceIdentity, SourceProgress, Survey};
use crate::store::{AcceptedId, Commit, Committed, GoldRows, IdLookup, PartitionState, RangeRef, Settings, TableStore};
use crate::time::Timestamp;

/// Where in a call the fault lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// Nothing was done.
    Before,
    /// Of a commit of several tables the first ones were made; any other call is done.
    Within,
    /// All was done, but the answer was lost.
    After,
}

/// Which calls fail, shared by all wrappers that are to be counted together. Handles made by `clone` share it.
///
/// ```
/// use subscription_core::testkit::{block_on, faults::{Fault, Faults, FaultyStore}};
/// use subscription_core::{MemoryStore, TableStore};
///
/// let faults = Faults::new().fail("settings", 1, Fault::Before);
/// let store = FaultyStore::new(MemoryStore::new(), faults.clone());
/// assert!(block_on(store.settings()).is_ok());
/// assert!(block_on(store.settings()).unwrap_err().is_retryable());
/// assert!(block_on(store.settings()).is_ok());
/// assert_eq!(faults.calls(), ["settings"; 3]);
/// ```
#[derive(Debug, Clone, Default)]
pub struct Faults(Arc<Mutex<Plan>>);

#[derive(Debug, Default)]
struct Plan {
    rules: Vec<Rule>,
    /// Seed and share, in thousandths, of the calls that fail by chance.
    chance: Option<(u64, u32)>,
    permanent: bool,
    down: bool,
    /// The methods whose calls wait, from which number on, and who is to be woken.
    held: Vec<(&'static str, u64)>,
    waiting: Vec<Waker>,
    calls: Vec<&'static str>,
    counts: HashMap<&'static str, u64>,
}

#[derive(Debug, Clone, Copy)]
struct Rule {
    /// The method, or any.
    call: &'static str,
    number: u64,
    fault: Fault,
    crash: bool,
}

/// Any method.
pub const ANY: &str = "*";

impl Faults {
    /// No fault yet.
    pub fn new() -> Self {
        Self::default()
    }

    /// Lets the call of that number, from 0, of the method `call` (or [`ANY`]) fail.
    pub fn fail(self, call: &'static str, number: u64, fault: Fault) -> Self {
        self.plan().rules.push(Rule { call, number, fault, crash: false });
        self
    }

    /// As [`Faults::fail`], and every call after it fails too: the process is dead, or cut off.
    pub fn crash(self, call: &'static str, number: u64, fault: Fault) -> Self {
        self.plan().rules.push(Rule { call, number, fault, crash: true });
        self
    }

    /// Lets `per_mille` of a thousand calls fail, before, within or after, as the seed has it.
    pub fn by_chance(self, seed: u64, per_mille: u32) -> Self {
        self.plan().chance = Some((seed, per_mille));
        self
    }

    /// Makes the errors such as no retry helps against.
    pub fn permanent(self) -> Self {
        self.plan().permanent = true;
        self
    }

    /// Lets the calls of the method `call` from that number on, from 0, wait until [`Faults::release`]. Not for commits
    /// and [`Source::next`].
    pub fn hold(self, call: &'static str, number: u64) -> Self {
        self.plan().held.push((call, number));
        self
    }

    /// Lets all calls that wait, and those to come, go on.
    pub fn release(&self) {
        let mut plan = self.plan();
        plan.held.clear();
        plan.waiting.drain(..).for_each(Waker::wake);
    }

    /// The methods called so far, in order.
    pub fn calls(&self) -> Vec<&'static str> {
        self.plan().calls.clone()
    }

    /// Whether a crash was reached.
    pub fn is_down(&self) -> bool {
        self.plan().down
    }

    fn plan(&self) -> MutexGuard<'_, Plan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Counts a call and says how it is to fail.
    fn decide(&self, call: &'static str) -> Option<(Fault, Error)> {
        let mut plan = self.plan();
        let total = plan.calls.len() as u64;
        plan.calls.push(call);
        let count = plan.counts.entry(call).or_default();
        let number = *count;
        *count += 1;
        let meets =
            |rule: &&Rule| (rule.call == call && rule.number == number) || (rule.call == ANY && rule.number == total);
        let rule = plan.rules.iter().find(meets).copied();
        let was_down = plan.down;
        plan.down |= rule.is_some_and(|rule| rule.crash);
        let chance = plan.chance.and_then(|(seed, per_mille)| {
            let drawn = splitmix64(seed ^ splitmix64(total));
            let faults = [Fault::Before, Fault::Within, Fault::After];
            (drawn % 1_000 < u64::from(per_mille)).then(|| faults[(drawn >> 32) as usize % 3])
        });
        let fault = if was_down { Some(Fault::Before) } else { rule.map(|rule| rule.fault).or(chance) }?;
        let message = if plan.down { "injected crash" } else { "injected fault" };
        let error = Error::new(ErrorKind::Unavailable, message)
            .with("call", call)
            .with("number", number)
            .with("fault", format!("{fault:?}"));
        Some((fault, if plan.down || plan.permanent { error } else { error.retryable() }))
    }

    /// Makes a call that may fail.
    async fn call<T>(&self, call: &'static str, made: impl Future<Output = Result<T>>) -> Result<T> {
        let number = self.plan().counts.get(call).copied().unwrap_or(0);
        let fault = self.decide(call);
        std::future::poll_fn(|context| {
            let mut plan = self.plan();
            if !plan.held.iter().any(|(held, from)| *held == call && number >= *from) {
                return Poll::Ready(());
            }
            plan.waiting.push(context.waker().clone());
            Poll::Pending
        })
        .await;
        match fault {
            Some((Fault::Before, error)) => Err(error),
            Some((_, error)) => made.await.and(Err(error)),
            None => made.await,
        }
    }
}

/// Vigna's splitmix64: one step from `state`.
fn splitmix64(state: u64) -> u64 {
    let z = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
    let z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    z ^ (z >> 31)
}

macro_rules! wrapper {
    ($(#[$doc:meta])* $name:ident { $($field:ident: $type:ty)? }) => {
        $(#[$doc])*
        #[derive(Debug)]
        pub struct $name<T> {
            inner: T,
            faults: Faults,
            $($field: $type,)?
        }

        impl<T> $name<T> {
            /// Wraps a plug-in.
            pub fn new(inner: T, faults: Faults) -> Self {
                Self { inner, faults, $($field: Default::default(),)? }
            }

            /// The plug-in.
            pub fn inner(&self) -> &T {
                &self.inner
            }
        }
    };
}

wrapper! {
    /// A [`TableStore`] that fails.
    FaultyStore {}
}
wrapper! {
    /// A [`Source`] that fails. No event is lost: one whose answer was lost comes with the next call.
    FaultySource { held: Option<SourceEvent> }
}
wrapper! {
    /// A [`Sink`] that fails.
    FaultySink {}
}
wrapper! {
    /// A [`DeadLetterSink`] that fails.
    FaultyDeadLetterSink {}
}
wrapper! {
    /// An [`AlertSink`] that fails.
    FaultyAlertSink {}
}

#[async_trait]
impl<T: TableStore> TableStore for FaultyStore<T> {
    async fn state(&self, topic: &str, partitions: &[u32]) -> Result<Vec<PartitionState>> {
        self.faults.call("state", self.inner.state(topic, partitions)).await
    }

    async fn partitions(&self, topic: &str) -> Result<Vec<u32>> {
        self.faults.call("partitions", self.inner.partitions(topic)).await
    }

    async fn commit(&self, commit: Arc<Commit>) -> Result<Committed> {
        match self.faults.decide("commit") {
            Some((Fault::Before, error)) => Err(error),
            Some((Fault::Within, error)) if commit.tables.len() > 1 => {
                let mut begun = Commit::clone(&commit);
                begun.tables.truncate(commit.tables.len() / 2);
                begun.ranges.retain(|range| begun.tables.iter().any(|part| part.table == range.table));
                self.inner.commit(begun.into()).await.and(Err(error))
            }
            Some((_, error)) => self.inner.commit(commit).await.and(Err(error)),
            None => self.inner.commit(commit).await,
        }
    }

    async fn read_bronze(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max_bytes: usize,
    ) -> Result<Option<RecordBatch>> {
        self.faults.call("read_bronze", self.inner.read_bronze(topic, partition, from, max_bytes)).await
    }

    async fn last_record(&self, topic: &str, partition: u32, before: u64) -> Result<Option<RecordBatch>> {
        self.faults.call("last_record", self.inner.last_record(topic, partition, before)).await
    }

    async fn read_dead_letters(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<DeadLetters> {
        let read = self.inner.read_dead_letters(topic, partition, from, to, max_rows);
        self.faults.call("read_dead_letters", read).await
    }

    async fn read_silver(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<EventBatch> {
        self.faults.call("read_silver", self.inner.read_silver(topic, partition, from, to, max_rows)).await
    }

    async fn read_ids(&self, topic: &str, since: &[(u32, Timestamp)]) -> Result<Vec<Vec<AcceptedId>>> {
        self.faults.call("read_ids", self.inner.read_ids(topic, since)).await
    }

    async fn lookup(&self, topic: &str, questions: &[IdLookup]) -> Result<Vec<Vec<Timestamp>>> {
        self.faults.call("lookup", self.inner.lookup(topic, questions)).await
    }

    async fn load(&self, topic: &str, ranges: &[RangeRef]) -> Result<Vec<GoldRows>> {
        self.faults.call("load", self.inner.load(topic, ranges)).await
    }

    async fn settings(&self) -> Result<Option<Settings>> {
        self.faults.call("settings", self.inner.settings()).await
    }

    async fn put_settings(&self, settings: Settings) -> Result<()> {
        self.faults.call("put_settings", self.inner.put_settings(settings)).await
    }
}

#[async_trait]
impl<T: Source> Source for FaultySource<T> {
    fn topic(&self) -> &str {
        self.inner.topic()
    }

    async fn identity(&mut self) -> Result<SourceIdentity> {
        self.faults.call("identity", self.inner.identity()).await
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        match self.faults.decide("next") {
            Some((Fault::Before, error)) => return Err(error),
            Some((_, error)) => {
                if self.held.is_none() {
                    self.held = Some(self.inner.next().await?);
                }
                return Err(error);
            }
            None => {}
        }
        match self.held.take() {
            Some(event) => Ok(event),
            None => self.inner.next().await,
        }
    }

    async fn start(&mut self, partition: u32, from: u64) -> Result<()> {
        self.faults.call("start", self.inner.start(partition, from)).await
    }

    async fn acknowledge(&mut self, positions: &[(u32, u64)]) -> Result<()> {
        self.faults.call("acknowledge", self.inner.acknowledge(positions)).await
    }

    async fn release(&mut self, partitions: &[u32]) -> Result<()> {
        self.faults.call("release", self.inner.release(partitions)).await
    }

    async fn survey(&mut self) -> Result<Survey> {
        self.faults.call("survey", self.inner.survey()).await
    }

    async fn offsets(&mut self, partition: u32) -> Result<Option<OffsetRange>> {
        self.faults.call("offsets", self.inner.offsets(partition)).await
    }

    fn ends(&self) -> Option<Vec<u64>> {
        self.inner.ends()
    }

    async fn rejoin(&mut self) -> Result<bool> {
        self.faults.call("rejoin", self.inner.rejoin()).await
    }

    fn progress(&self) -> SourceProgress {
        self.inner.progress()
    }

    fn lag(&self) -> Vec<(u32, u64)> {
        self.inner.lag()
    }
}

#[async_trait]
impl<T: Sink> Sink for FaultySink<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        self.faults.call("position", self.inner.position(topic, partition)).await
    }

    async fn write(&self, delivery: &Delivery) -> Result<()> {
        self.faults.call("write", self.inner.write(delivery)).await
    }
}

#[async_trait]
impl<T: DeadLetterSink> DeadLetterSink for FaultyDeadLetterSink<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn position(&self, topic: &str, partition: u32) -> Result<Option<u64>> {
        self.faults.call("position", self.inner.position(topic, partition)).await
    }

    async fn write(&self, letters: &DeadLetters) -> Result<()> {
        self.faults.call("write", self.inner.write(letters)).await
    }
}

#[async_trait]
impl<T: AlertSink> AlertSink for FaultyAlertSink<T> {
    fn name(&self) -> &str {
        self.inner.name()
    }

    async fn notify(&self, alerts: &[AlertRow]) -> Result<()> {
        self.faults.call("notify", self.inner.notify(alerts)).await
    }
}
