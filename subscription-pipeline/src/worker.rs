//! The threads that run the engines. A partition lives on one of them, so nothing of it is shared or locked.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;

use subscription_core::{
    AdmitEngine, Counter, EngineConfig, Error, ErrorKind, PartitionState, Prepared, RangeId, RecordBatch, Result,
    Table, Timestamp,
};
use tokio::runtime::Handle;
use tokio::sync::mpsc::error::TryRecvError;
use tokio::sync::{mpsc, oneshot};

use crate::partition::{Partition, PartitionCut, Shared};

/// What the coordinator asks of a worker.
pub(crate) enum Job {
    Assign(Vec<(u32, PartitionState)>),
    Records(RecordBatch),
    /// Records that the worker took up before their turn.
    Prepared(Box<Prepared>),
    /// The records before `to` are gone: go on there. `counted`: they belonged to the lake.
    Skip {
        partition: u32,
        to: u64,
        counted: u64,
    },
    /// Hand over what is to be committed.
    Cut {
        gold: GoldCut,
        reply: oneshot::Sender<Result<Cut>>,
    },
    SilverVisible(Vec<(u32, u64)>),
    GoldCommitted(Vec<(u32, Vec<RangeId>)>),
    /// Forget these partitions and all that is pending of them.
    Drop(Vec<u32>, oneshot::Sender<()>),
}

/// Which Gold is to be handed over. It goes some partitions at a time, as rows that are handed over take about twice
/// the memory that they take in the engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GoldCut {
    None,
    /// These tables of all partitions, of which these are the first.
    First(&'static [Table]),
    /// Those of the next ones.
    Next,
    /// Those of the next ones, and of more at a time: no records wait any more, so their memory is free.
    NextAtEnd,
}

/// What a worker hands over to be committed.
pub(crate) struct Cut {
    pub(crate) partitions: Vec<PartitionCut>,
    /// The Gold of further partitions is to be asked for once that of these is committed.
    pub(crate) gold_left: bool,
}

/// What a worker tells the coordinator unasked.
pub(crate) enum Report {
    CaughtUp {
        partition: u32,
        position: u64,
    },
    /// Memory is short: commit now, `gold` too where it is this worker's share of that.
    Pressure {
        gold: bool,
    },
    Failed(Error),
}

/// Figures that all workers and the coordinator keep together.
#[derive(Default)]
pub(crate) struct Gauges {
    /// Bytes of records taken from the source or from Bronze and not yet committed.
    pub(crate) uncommitted: AtomicUsize,
    /// Bytes of changed Gold rows.
    pub(crate) dirty: AtomicUsize,
    /// Bytes of remembered ids.
    pub(crate) dedup: AtomicUsize,
    /// Bytes of Gold rows.
    pub(crate) gold: AtomicUsize,
}

/// The limits of one worker: its share of those of the pipeline.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) uncommitted: usize,
    pub(crate) gold: usize,
}

/// One over what a Gold commit takes of the limit of Gold's memory, about; a partition of each worker at least.
const GOLD_PARTS: usize = 12;
/// The same at the end, where parts wait for each other and nothing else is left to do.
const GOLD_PARTS_AT_END: usize = 4;

/// Partitions whose ids are read in one pass over the files of Silver, each of which has rows of most partitions. More would
/// take fewer passes, and more memory: the ids of an hour, before the engines have them.
const ASSIGNED_AT_ONCE: usize = 8;

pub(crate) struct Worker {
    jobs: mpsc::UnboundedSender<Job>,
    thread: Option<JoinHandle<()>>,
}

impl Worker {
    pub(crate) fn spawn(
        name: String,
        shared: Shared,
        config: Arc<EngineConfig>,
        limits: Limits,
        gauges: Arc<Gauges>,
        reports: mpsc::UnboundedSender<Report>,
    ) -> Result<Self> {
        let (jobs, inbox) = mpsc::unbounded_channel();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                if let Some(start) = &shared.worker_start {
                    start();
                }
                let mut state = State {
                    inbox: Inbox { jobs: inbox, waiting: VecDeque::new(), handle: shared.handle.clone() },
                    shared,
                    config,
                    limits,
                    gauges,
                    reports: reports.clone(),
                    partitions: BTreeMap::new(),
                    gold_tables: &[],
                    gold_left: BTreeSet::new(),
                    seen: Seen::default(),
                };
                if let Err(error) = state.run() {
                    let _ = reports.send(Report::Failed(error));
                    // Replies that are still asked for are dropped, which their askers take for the failure.
                }
            })
            .map_err(|e| Error::new(ErrorKind::Other, "cannot start a worker thread").with_source(e))?;
        Ok(Self { jobs, thread: Some(thread) })
    }

    /// Whether the worker takes it: not after it failed.
    pub(crate) fn send(&self, job: Job) -> bool {
        self.jobs.send(job).is_ok()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        // Hanging up ends the thread's loop.
        self.jobs = mpsc::unbounded_channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

/// The jobs of a worker.
struct Inbox {
    jobs: mpsc::UnboundedReceiver<Job>,
    /// Those that came while the worker waited for the lake, before all in `jobs`.
    waiting: VecDeque<Job>,
    handle: Handle,
}

impl Inbox {
    /// The next job, without waiting for one.
    fn try_next(&mut self) -> std::result::Result<Job, TryRecvError> {
        self.waiting.pop_front().map_or_else(|| self.jobs.try_recv(), Ok)
    }

    /// The next job; `None` once the worker is to end.
    fn next(&mut self) -> Option<Job> {
        self.waiting.pop_front().or_else(|| self.jobs.blocking_recv())
    }
}

/// What goes on while a partition waits for the lake: its worker looks at the records that come, so that the counters
/// are told of them.
pub(crate) struct Meanwhile<'a> {
    inbox: &'a mut Inbox,
    config: &'a EngineConfig,
    others: &'a mut BTreeMap<u32, Partition>,
}

impl Meanwhile<'_> {
    /// Waits for an answer of the lake, of which `partition` is in need.
    pub(crate) fn wait<T>(
        &mut self,
        mut partition: Option<&mut Partition>,
        answer: impl Future<Output = Result<T>>,
    ) -> Result<T> {
        let handle = self.inbox.handle.clone();
        handle.block_on(async {
            tokio::pin!(answer);
            loop {
                tokio::select! {
                    biased;
                    answer = &mut answer => return answer,
                    Some(job) = self.inbox.jobs.recv() => {
                        let job = self.look_ahead(job, partition.as_deref_mut());
                        self.inbox.waiting.push_back(job);
                    }
                }
            }
        })
    }

    fn look_ahead(&mut self, job: Job, partition: Option<&mut Partition>) -> Job {
        let Job::Records(records) = job else { return job };
        let number = records.partition();
        let partition = partition.filter(|own| own.number() == number).or_else(|| self.others.get_mut(&number));
        // What is about to be given away, or begun anew, is not looked at.
        let moves = self.inbox.waiting.iter().any(|job| matches!(job, Job::Assign(..) | Job::Drop(..)));
        match partition {
            Some(partition) if partition.is_live() && !moves => {
                let prepared = AdmitEngine::prepare(self.config, records);
                partition.look_ahead(&prepared);
                Job::Prepared(Box::new(prepared))
            }
            _ => Job::Records(records),
        }
    }
}

struct State {
    inbox: Inbox,
    shared: Shared,
    config: Arc<EngineConfig>,
    limits: Limits,
    gauges: Arc<Gauges>,
    reports: mpsc::UnboundedSender<Report>,
    partitions: BTreeMap<u32, Partition>,
    /// The tables of Gold that are being handed over, and the partitions that are still to follow.
    gold_tables: &'static [Table],
    gold_left: BTreeSet<u32>,
    seen: Seen,
}

/// What this worker last added to the gauges.
#[derive(Default)]
struct Seen {
    dirty: usize,
    dedup: usize,
    gold: usize,
}

impl State {
    fn run(&mut self) -> Result<()> {
        loop {
            let catching_up = self.partitions.values().find(|p| !p.is_live()).map(|_| ());
            let job = if catching_up.is_some() && !self.pressed() {
                match self.inbox.try_next() {
                    Ok(job) => Some(job),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            } else {
                match self.inbox.next() {
                    Some(job) => Some(job),
                    None => return Ok(()),
                }
            };
            match job {
                Some(job) => self.take(job)?,
                None => self.catch_up()?,
            }
            self.gauge();
        }
    }

    fn pressed(&self) -> bool {
        self.gauges.uncommitted.load(Ordering::Relaxed) >= self.limits.uncommitted || self.gold_full()
    }

    fn gold_full(&self) -> bool {
        self.seen.dirty >= self.limits.gold
    }

    /// Lets a partition do what it may have to wait for the lake for; `None` where it was taken away.
    fn with<T>(
        &mut self,
        number: u32,
        act: impl FnOnce(&mut Partition, &mut Meanwhile<'_>) -> Result<T>,
    ) -> Result<Option<T>> {
        let Some(mut partition) = self.partitions.remove(&number) else { return Ok(None) };
        let done = act(&mut partition, &mut self.meanwhile());
        self.partitions.insert(number, partition);
        done.map(Some)
    }

    fn meanwhile(&mut self) -> Meanwhile<'_> {
        Meanwhile { inbox: &mut self.inbox, config: &self.config, others: &mut self.partitions }
    }

    fn take(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Assign(states) => self.assign(&states)?,
            Job::Records(records) => self.take_records(AdmitEngine::prepare(&self.config, records))?,
            Job::Prepared(prepared) => self.take_records(*prepared)?,
            Job::Skip { partition, to, counted } => {
                self.with(partition, |partition, meanwhile| partition.skip(to, counted, meanwhile))?;
            }
            Job::Cut { gold, reply } => {
                let _ = reply.send(self.cut(gold));
            }
            Job::SilverVisible(positions) => {
                for (partition, position) in positions {
                    if let Some(partition) = self.partitions.get_mut(&partition) {
                        partition.silver_visible(position);
                    }
                }
            }
            Job::GoldCommitted(ranges) => {
                for (number, ranges) in ranges {
                    if let Some(partition) = self.partitions.get_mut(&number) {
                        partition.gold_committed(&ranges)?;
                        self.evict(number);
                    }
                }
            }
            Job::Drop(partitions, done) => {
                for partition in partitions.iter().filter_map(|number| self.partitions.remove(number)) {
                    self.gold_left.remove(&partition.number());
                    self.gauges.uncommitted.fetch_sub(partition.pending_bytes(), Ordering::Relaxed);
                }
                let _ = done.send(());
            }
        }
        Ok(())
    }

    fn take_records(&mut self, prepared: Prepared) -> Result<()> {
        let (number, bytes) = (prepared.records().partition(), prepared.records().memory());
        match self.with(number, |partition, meanwhile| partition.take_records(prepared, meanwhile))? {
            Some(_) => self.evict(number),
            // Its partition was taken away meanwhile.
            None => {
                self.gauges.uncommitted.fetch_sub(bytes, Ordering::Relaxed);
            }
        }
        Ok(())
    }

    fn assign(&mut self, states: &[(u32, PartitionState)]) -> Result<()> {
        for states in states.chunks(ASSIGNED_AT_ONCE) {
            let watermark = |state: &PartitionState| state.table(Table::Silver).counter(Counter::Watermark);
            let since: Vec<_> = (states.iter())
                .filter_map(|(number, state)| Some((*number, Timestamp::from_millis(watermark(state)?))))
                .collect();
            let shared = self.shared.clone();
            let read = || shared.store.read_ids(&shared.topic, &since);
            let found = match &since[..] {
                [] => Vec::new(),
                _ => self.meanwhile().wait(None, shared.retry.run("read ids", read))?,
            };
            let mut ids: BTreeMap<u32, _> = since.iter().map(|(number, _)| *number).zip(found).collect();
            for (number, state) in states {
                let (shared, config) = (self.shared.clone(), self.config.clone());
                let ids = ids.remove(number).unwrap_or_default();
                let partition = Partition::new(shared, config, *number, state, &ids, &mut self.meanwhile())?;
                self.partitions.insert(*number, partition);
            }
        }
        Ok(())
    }

    fn cut(&mut self, gold: GoldCut) -> Result<Cut> {
        if let GoldCut::First(tables) = gold {
            self.gold_tables = tables;
            self.gold_left = self.partitions.keys().copied().collect();
        }
        let tables = self.gold_tables;
        let most = match gold {
            GoldCut::NextAtEnd => self.limits.gold / GOLD_PARTS_AT_END,
            _ => self.limits.gold / GOLD_PARTS,
        };
        let (mut bytes, mut partitions) = (0, Vec::new());
        let numbers: Vec<u32> = self.partitions.keys().copied().collect();
        for number in numbers {
            let gold = gold != GoldCut::None && bytes < most.max(1) && self.gold_left.remove(&number);
            partitions.extend(self.with(number, |partition, meanwhile| {
                bytes += if gold { partition.dirty_bytes(tables) } else { 0 };
                partition.cut(gold.then_some(tables), meanwhile)
            })?);
        }
        Ok(Cut { partitions, gold_left: !self.gold_left.is_empty() })
    }

    fn catch_up(&mut self) -> Result<()> {
        let Some(number) = self.partitions.values().find(|p| !p.is_live()).map(Partition::number) else {
            return Ok(());
        };
        let caught_up = self.with(number, |partition, meanwhile| {
            let bytes = partition.catch_up(meanwhile)?;
            Ok((bytes, partition.is_live().then(|| partition.bronze_position())))
        })?;
        let Some((bytes, position)) = caught_up else { return Ok(()) };
        self.gauges.uncommitted.fetch_add(bytes, Ordering::Relaxed);
        if let Some(position) = position {
            let _ = self.reports.send(Report::CaughtUp { partition: number, position });
        }
        self.evict(number);
        Ok(())
    }

    fn evict(&mut self, number: u32) {
        let share = self.limits.gold / self.partitions.len().max(1);
        if let Some(partition) = self.partitions.get_mut(&number) {
            partition.evict(share);
        }
    }

    /// Brings this worker's part of the gauges up to date and asks for a commit where memory is short.
    fn gauge(&mut self) {
        let sum = |of: fn(&Partition) -> usize| self.partitions.values().map(of).sum();
        let dirty = sum(|partition| partition.dirty_bytes(&Table::GOLD));
        let (dedup, gold) = (sum(Partition::dedup_bytes), sum(Partition::gold_bytes));
        replace(&self.gauges.dirty, &mut self.seen.dirty, dirty);
        replace(&self.gauges.dedup, &mut self.seen.dedup, dedup);
        replace(&self.gauges.gold, &mut self.seen.gold, gold);
        if self.pressed() {
            let _ = self.reports.send(Report::Pressure { gold: self.gold_full() });
        }
    }
}

fn replace(gauge: &AtomicUsize, seen: &mut usize, now: usize) {
    gauge.fetch_add(now.wrapping_sub(*seen), Ordering::Relaxed);
    *seen = now;
}
