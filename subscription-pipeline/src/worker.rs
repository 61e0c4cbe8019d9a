//! The threads that run the engines. A partition lives on one of them, so nothing of it is shared or locked.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::mpsc::{Receiver, RecvError, Sender, TryRecvError, channel};
use std::thread::JoinHandle;

use subscription_core::{EngineConfig, Error, ErrorKind, PartitionState, RangeId, RecordBatch, Result};
use tokio::sync::{mpsc, oneshot};

use crate::partition::{Partition, PartitionCut, Shared};

/// What the coordinator asks of a worker.
pub(crate) enum Job {
    Assign(u32, Box<PartitionState>),
    Records(RecordBatch),
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
    /// That of all partitions, of which these are the first.
    First,
    /// That of the next ones.
    Next,
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
    /// Memory is short: commit now.
    Pressure,
    Failed(Error),
}

/// Figures that all workers and the coordinator keep together.
#[derive(Default)]
pub(crate) struct Gauges {
    /// Bytes of records taken from the source or from Bronze and not yet committed.
    pub(crate) uncommitted: AtomicUsize,
    /// Bytes of changed Gold rows.
    pub(crate) dirty: AtomicUsize,
    /// Bytes of the engines' memory.
    pub(crate) memory: AtomicUsize,
}

/// The limits of one worker: its share of those of the pipeline.
#[derive(Clone, Copy)]
pub(crate) struct Limits {
    pub(crate) uncommitted: usize,
    pub(crate) gold: usize,
}

/// One over what a Gold commit takes of the limit of Gold's memory, about; a partition of each worker at least.
const GOLD_PARTS: usize = 12;

pub(crate) struct Worker {
    jobs: Sender<Job>,
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
        let (jobs, inbox) = channel();
        let thread = std::thread::Builder::new()
            .name(name)
            .spawn(move || {
                let mut state = State {
                    shared,
                    config,
                    limits,
                    gauges,
                    reports: reports.clone(),
                    partitions: BTreeMap::new(),
                    gold_left: BTreeSet::new(),
                    seen: Seen::default(),
                };
                if let Err(error) = state.run(&inbox) {
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
        self.jobs = channel().0;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

struct State {
    shared: Shared,
    config: Arc<EngineConfig>,
    limits: Limits,
    gauges: Arc<Gauges>,
    reports: mpsc::UnboundedSender<Report>,
    partitions: BTreeMap<u32, Partition>,
    /// The partitions whose Gold is still to be handed over.
    gold_left: BTreeSet<u32>,
    seen: Seen,
}

/// What this worker last added to the gauges.
#[derive(Default)]
struct Seen {
    dirty: usize,
    memory: usize,
}

impl State {
    fn run(&mut self, inbox: &Receiver<Job>) -> Result<()> {
        loop {
            let catching_up = self.partitions.values().find(|p| !p.is_live()).map(|_| ());
            let job = if catching_up.is_some() && !self.pressed() {
                match inbox.try_recv() {
                    Ok(job) => Some(job),
                    Err(TryRecvError::Empty) => None,
                    Err(TryRecvError::Disconnected) => return Ok(()),
                }
            } else {
                match inbox.recv() {
                    Ok(job) => Some(job),
                    Err(RecvError) => return Ok(()),
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
        self.gauges.uncommitted.load(Ordering::Relaxed) >= self.limits.uncommitted
            || self.seen.dirty >= self.limits.gold
    }

    fn take(&mut self, job: Job) -> Result<()> {
        match job {
            Job::Assign(number, state) => {
                let partition = Partition::new(self.shared.clone(), self.config.clone(), number, &state)?;
                self.partitions.insert(number, partition);
            }
            Job::Records(batch) => {
                match self.partitions.get_mut(&batch.partition()) {
                    Some(partition) => {
                        partition.take_records(batch)?;
                        self.evict();
                    }
                    // Its partition was taken away meanwhile.
                    None => {
                        self.gauges.uncommitted.fetch_sub(batch.memory(), Ordering::Relaxed);
                    }
                }
            }
            Job::Skip { partition, to, counted } => {
                if let Some(partition) = self.partitions.get_mut(&partition) {
                    partition.skip(to, counted)?;
                }
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
                for (partition, ranges) in ranges {
                    if let Some(partition) = self.partitions.get_mut(&partition) {
                        partition.gold_committed(&ranges)?;
                    }
                }
                self.evict();
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

    fn cut(&mut self, gold: GoldCut) -> Result<Cut> {
        if gold == GoldCut::First {
            self.gold_left = self.partitions.keys().copied().collect();
        }
        let (mut bytes, mut partitions) = (0, Vec::new());
        for (number, partition) in &mut self.partitions {
            let gold = gold != GoldCut::None
                && bytes < (self.limits.gold / GOLD_PARTS).max(1)
                && self.gold_left.remove(number);
            if gold {
                bytes += partition.dirty_bytes();
            }
            partitions.push(partition.cut(gold)?);
        }
        Ok(Cut { partitions, gold_left: !self.gold_left.is_empty() })
    }

    fn catch_up(&mut self) -> Result<()> {
        let Some((number, partition)) = self.partitions.iter_mut().find(|(_, p)| !p.is_live()) else { return Ok(()) };
        let bytes = partition.catch_up()?;
        self.gauges.uncommitted.fetch_add(bytes, Ordering::Relaxed);
        if partition.is_live() {
            let report = Report::CaughtUp { partition: *number, position: partition.bronze_position() };
            let _ = self.reports.send(report);
        }
        self.evict();
        Ok(())
    }

    fn evict(&mut self) {
        let share = self.limits.gold / self.partitions.len().max(1);
        self.partitions.values_mut().for_each(|p| p.evict(share));
    }

    /// Brings this worker's part of the gauges up to date and asks for a commit where memory is short.
    fn gauge(&mut self) {
        let dirty = self.partitions.values().map(Partition::dirty_bytes).sum();
        let memory = self.partitions.values().map(Partition::memory_bytes).sum();
        replace(&self.gauges.dirty, &mut self.seen.dirty, dirty);
        replace(&self.gauges.memory, &mut self.seen.memory, memory);
        if self.pressed() {
            let _ = self.reports.send(Report::Pressure);
        }
    }
}

fn replace(gauge: &AtomicUsize, seen: &mut usize, now: usize) {
    gauge.fetch_add(now.wrapping_sub(*seen), Ordering::Relaxed);
    *seen = now;
}
