//! The coordinator of a running pipeline: reads the source, hands records to the workers, times the commits.

use std::collections::BTreeMap;
use std::future::Future;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use subscription_core::{
    AdmitLimits, EngineConfig, Error, ErrorKind, Placement, RecordBatch, Result, Routing, Source, SourceEvent, Table,
};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::begin::Postponed;
use crate::commit::{Committer, GoldDone, GoldPart, ROW_TABLES, RowsDone, Standing};
use crate::config::PipelineConfig;
use crate::counters::Floors;
use crate::end::Waiting;
use crate::events::{Events, PipelineEvent, Progress};
use crate::partition::{Misrouted, Shared};
use crate::pipeline::{Pipeline, RunReport, WorkerStart};
use crate::retry::Retry;
use crate::settings;
use crate::worker::{Gauges, GoldCut, Job, Limits, Report, Worker};

/// The tables of Gold that are committed each time. Of an hour's endpoints nearly all rows are written each time that a few
/// events changed, and there are more of them than of all others: they are committed every third time.
const OFTEN: [Table; 4] = [Table::UsageMinute, Table::UsageHour, Table::UsageMonth, Table::Alerts];

pub(crate) struct Run {
    name: String,
    pub(crate) source: Box<dyn Source>,
    pub(crate) committer: Committer,
    pub(crate) config: PipelineConfig,
    engine: EngineConfig,
    pub(crate) events: Events,
    gauges: Arc<Gauges>,
    worker_start: Option<WorkerStart>,
    workers: Vec<Worker>,
    reports: mpsc::UnboundedReceiver<Report>,
    pub(crate) owned: BTreeMap<u32, Owned>,
    pub(crate) postponed: BTreeMap<u32, Postponed>,
    /// Once this process is at the end, and others are waited for.
    pub(crate) waiting: Option<Waiting>,
    rows: Option<JoinHandle<Result<RowsDone>>>,
    gold: Option<JoinHandle<Result<GoldDone>>>,
    /// Gold that is cut and waits for the commit before it.
    gold_next: Option<GoldPart>,
    /// Where partitions began when the lake was first filled.
    pub(crate) starts: BTreeMap<u32, u64>,
    /// How many partitions there are, and whether it is known which belongs to which tenant.
    partitions: u32,
    placed: bool,
    /// Records were handed out, or caught up on, since the last cut of rows; since the last one of all Gold.
    pub(crate) rows_due: bool,
    gold_due: bool,
    /// Gold is committed some partitions at a time: whether others are to follow, and how long those so far took.
    gold_left: bool,
    gold_took: Duration,
    /// On the monotonic clock, in nanoseconds.
    started: u64,
    next_rows: u64,
    next_gold: u64,
    next_endpoints: u64,
    read: u64,
    durable: u64,
    /// How often the source was asked for its partitions anew.
    fenced: u64,
    /// To be told what tenants have used, and the task that tells the counter store.
    floors: Option<Floors>,
    telling: Option<JoinHandle<()>>,
}

/// A partition of this process.
pub(crate) struct Owned {
    pub(crate) standing: Standing,
    /// The record before the position, as the lake has it, until the source has shown the same.
    pub(crate) expected: Option<RecordBatch>,
    /// Where the source has delivered to; `None` until it was asked to start.
    pub(crate) delivered: Option<u64>,
    /// The source has said which offsets it has, and the position is among them.
    pub(crate) bounded: bool,
}

impl Run {
    pub(crate) fn new(pipeline: Pipeline) -> Result<Self> {
        let Pipeline {
            name,
            source,
            store,
            sinks,
            letter_sinks,
            alert_sinks,
            counters,
            config,
            rules,
            catalog,
            clock,
            events,
            worker_start,
        } = pipeline;
        let topic: Arc<str> = source.topic().into();
        let retry = Retry { policy: config.retry, clock: clock.clone(), events: events.clone() };
        let started = clock.monotonic_nanos();
        let (floors, telling) = counters.map(|counters| Floors::start(counters, clock.clone(), events.clone())).unzip();
        Ok(Self {
            engine: EngineConfig { rules, catalog, routing: None, limits: AdmitLimits::default() },
            committer: Committer { topic, store, sinks, letter_sinks, alert_sinks, retry, clock },
            name,
            source,
            events,
            gauges: Arc::default(),
            worker_start,
            workers: Vec::new(),
            reports: mpsc::unbounded_channel().1,
            owned: BTreeMap::new(),
            postponed: BTreeMap::new(),
            waiting: None,
            rows: None,
            gold: None,
            gold_next: None,
            starts: BTreeMap::new(),
            partitions: 0,
            placed: false,
            rows_due: false,
            gold_due: false,
            gold_left: false,
            gold_took: Duration::ZERO,
            started,
            next_rows: started + nanos(config.commit_interval),
            next_gold: started + nanos(config.gold_interval.max(config.commit_interval)),
            next_endpoints: started + nanos(config.gold_interval.max(config.commit_interval)),
            read: 0,
            durable: 0,
            fenced: 0,
            floors,
            telling,
            config,
        })
    }

    pub(crate) async fn run(mut self, stop: impl Future<Output = ()>) -> Result<RunReport> {
        tokio::pin!(stop);
        tokio::select! {
            biased;
            () = &mut stop => return self.finish(false).await,
            agreed = self.agree() => agreed?,
        }
        // All partitions may come to this process.
        let (ids, filters) = (self.config.max_dedup_ids, self.config.max_dedup_filter_bytes);
        self.engine.limits = AdmitLimits::new(ids, filters, self.partitions as usize);
        self.start_workers()?;
        let mut ticks = tokio::time::interval(self.config.commit_interval.min(Duration::from_millis(100)));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let reading = self.gauges.uncommitted.load(Ordering::Relaxed) < self.config.max_uncommitted_bytes;
            tokio::select! {
                biased;
                () = &mut stop => return self.finish(false).await,
                Some(report) = self.reports.recv() => self.take_report(report).await?,
                done = joined(&mut self.rows) => { self.rows = None; self.rows_done(done).await?; }
                done = joined(&mut self.gold) => { self.gold = None; self.gold_done(done).await?; }
                _ = ticks.tick() => {}
                event = self.source.next(), if reading => match event {
                    // Else it is the end of what is to be read anew: another follows.
                    Ok(SourceEvent::End) if self.owned.values().all(|owned| owned.delivered.is_some()) => {
                        if self.reached_end().await? {
                            return self.finish(true).await;
                        }
                    }
                    Ok(event) => self.take_event(event).await?,
                    Err(error) if error.is_retryable() => {
                        let pause = self.config.retry.first;
                        self.events.send(PipelineEvent::Retrying { what: "read the source", error: format!("{error:?}"), pause });
                        tokio::time::sleep(pause).await;
                    }
                    Err(error) => if let Err(error) = self.pass_gaps(error).await {
                        // What was read before the error is whole: keep it.
                        self.finish(false).await?;
                        return Err(error);
                    },
                },
            }
            if self.others_are_done().await? {
                return self.finish(true).await;
            }
            self.begin_postponed().await?;
            self.cut_if_due();
        }
    }

    /// Compares the lake with what it is about to be filled from.
    async fn agree(&mut self) -> Result<()> {
        let mut tries = self.committer.retry.tries("ask the source what it is");
        let identity = loop {
            match self.source.identity().await {
                Ok(identity) => break identity,
                Err(error) => tries.failed(error).await?,
            }
        };
        let agreed = settings::agree(&self.committer, &mut *self.source, &self.name, &identity, &self.engine).await?;
        self.partitions = identity.partitions;
        self.placed = agreed.placement.is_some();
        self.starts = agreed.starts;
        self.engine.routing = match agreed.placement {
            Some(Placement::ByKey(partitioner)) => Some(Routing { partitioner, partitions: identity.partitions }),
            _ => None,
        };
        Ok(())
    }

    /// The first records are here, so it can be told which partition belongs to which tenant. Everything begins anew
    /// with that; nothing was judged yet.
    async fn place(&mut self) -> Result<()> {
        self.agree().await?;
        self.settle().await?;
        self.start_workers()?;
        let assigned = std::mem::take(&mut self.owned).into_keys().collect();
        self.assign(assigned).await
    }

    fn start_workers(&mut self) -> Result<()> {
        let engine = Arc::new(self.engine.clone());
        let shared = Shared {
            topic: self.committer.topic.clone(),
            store: self.committer.store.clone(),
            retry: self.committer.retry.clone(),
            handle: Handle::current(),
            floors: self.floors.clone(),
            worker_start: self.worker_start.clone(),
        };
        let limits = Limits {
            uncommitted: self.config.max_uncommitted_bytes,
            gold: (self.config.max_gold_bytes / self.config.workers).max(1),
        };
        let (sender, reports) = mpsc::unbounded_channel();
        self.reports = reports;
        (self.gold_left, self.gold_took, self.gold_next) = (false, Duration::ZERO, None);
        self.workers.clear();
        for i in 0..self.config.workers {
            let name = format!("usage-engine-{i}");
            let (engine, gauges) = (engine.clone(), self.gauges.clone());
            self.workers.push(Worker::spawn(name, shared.clone(), engine, limits, gauges, sender.clone())?);
        }
        Ok(())
    }

    async fn take_event(&mut self, event: SourceEvent) -> Result<()> {
        match event {
            SourceEvent::Assigned(assigned) => self.assign(assigned).await?,
            SourceEvent::Records(batch) if !self.placed && !batch.is_empty() => self.place().await?,
            SourceEvent::Records(batch) => self.hand_out(batch)?,
            SourceEvent::Revoked { partitions, deadline } => {
                // Past the deadline the partitions go uncommitted: their next owner reads those records again.
                self.commit_until(Some(Instant::now() + deadline)).await?;
                self.drop_partitions(&partitions).await;
                self.source.release(&partitions).await?;
                self.events.send(PipelineEvent::Released { partitions });
            }
            // Nothing is left, so a commit under way that is refused is no reason to give up what comes next.
            SourceEvent::Lost(partitions) if self.owned.keys().all(|partition| partitions.contains(partition)) => {
                self.drop_all()?;
            }
            SourceEvent::Lost(partitions) => {
                self.drop_partitions(&partitions).await;
                self.events.send(PipelineEvent::Released { partitions });
            }
            _ => {}
        }
        Ok(())
    }

    async fn assign(&mut self, assigned: Vec<u32>) -> Result<()> {
        if let Some(last) = assigned.iter().max().filter(|last| **last >= self.partitions) {
            // The source knows how many there are by now, or nearly so.
            let is = self.source.identity().await.map_or(0, |identity| identity.partitions).max(last + 1);
            return Err(settings::more_partitions(self.partitions, is).with("topic", &self.committer.topic));
        }
        // A partition that comes back may have a commit of this process under way: it begins where that ends.
        let fenced = self.fenced;
        self.settle().await?;
        if self.fenced > fenced {
            // The source was asked for its partitions anew meanwhile.
            return Ok(());
        }
        let (store, topic) = (self.committer.store.clone(), self.committer.topic.clone());
        let read = || store.state(&topic, &assigned);
        let states = self.committer.retry.run("read positions", read).await?;
        let mut jobs: Vec<Vec<_>> = self.workers.iter().map(|_| Vec::new()).collect();
        for (&partition, state) in assigned.iter().zip(states) {
            let tables = ROW_TABLES.map(|table| state.position(table));
            let sinks = self.committer.catch_up_sinks(partition, state.position(Table::Silver)).await?;
            let letters = self.committer.catch_up_letters(partition, state.position(Table::DeadLetter)).await?;
            let expected = store.last_record(&topic, partition, state.position(Table::Bronze)).await?;
            let standing = Standing { tables, sinks, letters, ..Standing::default() };
            self.owned.insert(partition, Owned { standing, expected, delivered: None, bounded: false });
            jobs[partition as usize % self.workers.len()].push((partition, state));
        }
        for (worker, states) in self.workers.iter().zip(jobs).filter(|(_, states)| !states.is_empty()) {
            worker.send(Job::Assign(states));
        }
        self.events.send(PipelineEvent::Assigned { partitions: assigned });
        Ok(())
    }

    /// Compares what overlaps with the lake, and gives the rest to the partition's worker.
    fn hand_out(&mut self, mut batch: RecordBatch) -> Result<()> {
        // One that was assigned anew is read from where it is started, whatever was on its way.
        let started = |owned: &&mut Owned| owned.delivered.is_some();
        let Some(owned) = self.owned.get_mut(&batch.partition()).filter(started) else { return Ok(()) };
        owned.delivered = Some(batch.to());
        if let Some(expected) = &owned.expected {
            let wanted = expected.get(0);
            if batch.to() <= wanted.offset() {
                return Ok(());
            }
            let same = batch.iter().find(|record| record.offset() == wanted.offset()).is_some_and(|record| {
                record.payload() == wanted.payload() && record.payload_len() == wanted.payload_len()
            });
            if !same {
                return Err(other_inputs(batch.partition(), wanted.offset()));
            }
            owned.expected = None;
        }
        let position = owned.standing.tables[1];
        if batch.from() < position {
            if batch.to() <= position {
                return Ok(());
            }
            batch = batch.since(position);
        }
        self.read += batch.len() as u64;
        self.gauges.uncommitted.fetch_add(batch.memory(), Ordering::Relaxed);
        self.rows_due = true;
        self.gold_due = true;
        self.worker(batch.partition()).send(Job::Records(batch));
        Ok(())
    }

    async fn take_report(&mut self, report: Report) -> Result<()> {
        match report {
            Report::CaughtUp { partition, position } => {
                self.rows_due = true;
                self.gold_due = true;
                // Frequent crashes still make progress: what was caught up on is committed at once.
                (self.next_rows, self.next_gold, self.next_endpoints) = (0, 0, 0);
                self.begin(partition, position).await
            }
            Report::Pressure { gold } => {
                self.rows_due = true;
                self.gold_due = true;
                // A worker's share may be full where those of all together are not.
                if gold {
                    (self.next_gold, self.next_endpoints) = (0, 0);
                }
                Ok(())
            }
            Report::Failed(error) => self.recover(error).await,
        }
    }

    /// Starts the commits that are due and that no running one stands in the way of.
    fn cut_if_due(&mut self) {
        // Without partitions there is nothing to cut, though something may still be due.
        if self.rows.is_some() || self.owned.is_empty() {
            return;
        }
        let now = self.committer.clock.monotonic_nanos();
        let full = |gauge: &std::sync::atomic::AtomicUsize, limit: usize| gauge.load(Ordering::Relaxed) >= limit / 2;
        let gold_full = full(&self.gauges.dirty, self.config.max_gold_bytes);
        let gold_due = self.gold_due || self.gold_left;
        let gold = self.gold.is_none() && gold_due && (gold_full || now >= self.next_gold);
        let rows_full = full(&self.gauges.uncommitted, self.config.max_uncommitted_bytes);
        if gold || self.rows_due && (rows_full || now >= self.next_rows) {
            self.cut(match gold {
                true if self.gold_left => GoldCut::Next,
                true if gold_full || now >= self.next_endpoints => GoldCut::First(&Table::GOLD),
                true => GoldCut::First(&OFTEN),
                false => GoldCut::None,
            });
        }
    }

    fn cut(&mut self, gold: GoldCut) {
        let now = self.committer.clock.monotonic_nanos();
        self.next_rows = now + nanos(self.config.commit_interval);
        self.rows_due = false;
        if gold == GoldCut::First(&Table::GOLD) {
            let longest = self.config.max_gold_interval.max(self.config.gold_interval);
            self.next_endpoints = now + nanos((self.config.gold_interval * 3).min(longest));
            self.gold_due = false;
        }
        let replies = self
            .workers
            .iter()
            .map(|worker| {
                let (reply, receiver) = oneshot::channel();
                worker.send(Job::Cut { gold, reply });
                receiver
            })
            .collect();
        let standing = self.owned.iter().map(|(&partition, owned)| (partition, owned.standing.clone())).collect();
        let committer = self.committer.clone();
        self.rows = Some(tokio::spawn(async move { committer.rows(standing, replies).await }));
    }

    async fn rows_done(&mut self, done: Result<RowsDone>) -> Result<()> {
        let done = match done {
            Ok(done) => done,
            Err(error) => {
                let error = self.cause(error);
                return self.recover(error).await;
            }
        };
        self.gauges.uncommitted.fetch_sub(done.released, Ordering::Relaxed);
        self.durable += done.records;
        let mut visible = Vec::new();
        for (partition, standing) in done.standing {
            visible.push((partition, standing.tables[3]));
            if let Some(owned) = self.owned.get_mut(&partition) {
                owned.standing = standing;
            }
        }
        for (i, worker) in self.workers.iter().enumerate() {
            let mine = visible.iter().filter(|(p, _)| *p as usize % self.workers.len() == i).copied().collect();
            worker.send(Job::SilverVisible(mine));
        }
        self.source.acknowledge(&visible).await?;
        for (partition, Misrouted { records, tenant_id }) in done.misrouted {
            if let Some(routing) = self.engine.routing {
                let (belongs_to, partitioner) = (routing.partition(&tenant_id), routing.partitioner);
                let told = PipelineEvent::Misrouted { partition, records, tenant_id, belongs_to, partitioner };
                self.events.send(told);
            }
        }
        if !done.tables.is_empty() {
            self.events.send(PipelineEvent::Committed {
                tables: done.tables,
                records: done.records,
                bytes: done.committed.bytes,
                took: done.took,
            });
        }
        self.events.send(PipelineEvent::Progress(self.progress()));
        let lag = self.source.lag();
        if !lag.is_empty() {
            self.events.send(PipelineEvent::Lag(lag));
        }
        // The rest is asked for as soon as this part is being committed, whether or not there are further rows.
        self.gold_left = done.gold_left;
        if done.gold.is_some() {
            self.gold_next = done.gold;
        }
        self.commit_gold();
        Ok(())
    }

    /// Commits the Gold that waits, unless other Gold is being committed.
    fn commit_gold(&mut self) {
        if self.gold.is_none()
            && let Some(part) = self.gold_next.take()
        {
            let committer = self.committer.clone();
            self.gold = Some(tokio::spawn(async move { committer.gold(part).await }));
        }
    }

    async fn gold_done(&mut self, done: Result<GoldDone>) -> Result<()> {
        let done = match done {
            Ok(done) => done,
            Err(error) => return self.recover(error).await,
        };
        self.commit_gold();
        // Commits may take a twentieth of the time at most, so that many late events slow Gold down and nothing else.
        self.gold_took += done.took;
        if self.gold_left {
            self.next_gold = 0;
        } else if self.gold.is_none() {
            let pause = (std::mem::take(&mut self.gold_took) * 20)
                .clamp(self.config.gold_interval, self.config.max_gold_interval.max(self.config.gold_interval));
            self.next_gold = self.committer.clock.monotonic_nanos() + nanos(pause.max(self.config.commit_interval));
        }
        for (i, worker) in self.workers.iter().enumerate() {
            let mine = done.ranges.iter().filter(|(p, _)| *p as usize % self.workers.len() == i).cloned().collect();
            worker.send(Job::GoldCommitted(mine));
        }
        if !done.alerts.is_empty() {
            self.events.send(PipelineEvent::Alerts(done.alerts));
        }
        if !done.tables.is_empty() {
            self.events.send(PipelineEvent::Committed {
                tables: done.tables,
                records: 0,
                bytes: done.committed.bytes,
                took: done.took,
            });
        }
        Ok(())
    }

    /// Commits all that was handed out so far, Gold too. As nothing else is to be done, the next part of Gold is cut while one is
    /// committed. (Done all the time, it made half as many commits more of 500,000 tenants.)
    pub(crate) async fn commit_all(&mut self) -> Result<()> {
        self.commit_until(None).await
    }

    /// As [`Run::commit_all`], as far as that comes before the deadline.
    async fn commit_until(&mut self, deadline: Option<Instant>) -> Result<()> {
        let settled = |run: &Self| run.rows.is_none() && run.gold.is_none();
        if !self.wait_until(settled, deadline).await? {
            return Ok(());
        }
        self.cut(GoldCut::First(&Table::GOLD));
        let mut done = self.wait_until(|run| run.rows.is_none(), deadline).await?;
        while done && self.gold_left {
            self.cut(GoldCut::NextAtEnd);
            done = self.wait_until(|run| run.rows.is_none() && run.gold_next.is_none(), deadline).await?;
        }
        self.wait_until(settled, deadline).await.map(|_| ())
    }

    /// Waits for the commits that are under way.
    async fn settle(&mut self) -> Result<()> {
        self.wait_until(|run| run.rows.is_none() && run.gold.is_none(), None).await.map(|_| ())
    }

    /// Takes what comes of commits and workers; `false` where the deadline came first. What is begun to be taken is taken to its
    /// end, deadline or not: half of it would be lost.
    async fn wait_until(&mut self, done: impl Fn(&Self) -> bool, deadline: Option<Instant>) -> Result<bool> {
        while !done(self) {
            let passed = async {
                match deadline {
                    Some(deadline) => tokio::time::sleep_until(deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = passed => return Ok(false),
                // A partition that caught up meanwhile is told so once.
                Some(report) = self.reports.recv() => self.take_report(report).await?,
                done = joined(&mut self.rows) => { self.rows = None; self.rows_done(done).await?; }
                done = joined(&mut self.gold) => { self.gold = None; self.gold_done(done).await?; }
            }
        }
        Ok(true)
    }

    async fn finish(mut self, ended: bool) -> Result<RunReport> {
        let owned_some = !self.owned.is_empty();
        self.commit_all().await?;
        if ended && owned_some && self.owned.is_empty() {
            return Err(Error::new(ErrorKind::Fenced, "another process took over before the end was committed")
                .with_help("run it again: it goes on where the lake is"));
        }
        let positions = self.owned.iter().map(|(&partition, owned)| (partition, owned.standing.tables[3])).collect();
        let report = RunReport { ended, progress: self.progress(), positions };
        // The task ends once nobody can tell it more.
        self.workers.clear();
        self.floors = None;
        if let Some(telling) = self.telling.take() {
            let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
        }
        Ok(report)
    }

    /// Why a worker handed over nothing: it says so before it drops what it was asked for.
    fn cause(&mut self, error: Error) -> Error {
        let reports = std::iter::from_fn(|| self.reports.try_recv().ok());
        let failed = |report| if let Report::Failed(cause) = report { Some(cause) } else { None };
        reports.into_iter().find_map(failed).unwrap_or(error)
    }

    /// After a failure: where another process has moved a position and the source can ask for its partitions anew,
    /// all that is not committed is dropped and read again. Anything else ends the run.
    async fn recover(&mut self, error: Error) -> Result<()> {
        if error.kind() != ErrorKind::Fenced {
            return Err(error);
        }
        if !self.source.rejoin().await? {
            return Err(error);
        }
        self.events.send(PipelineEvent::Fenced { error: format!("{error:?}") });
        self.fenced += 1;
        self.drop_all()
    }

    /// Drops all partitions with all that is not committed.
    fn drop_all(&mut self) -> Result<()> {
        // What a commit still under way does later is refused by the lake, or was this process's own: that is only told.
        tell_refused(self.rows.take(), &self.events);
        tell_refused(self.gold.take(), &self.events);
        self.postponed.clear();
        let partitions = std::mem::take(&mut self.owned).into_keys().collect();
        self.gauges = Arc::default();
        self.start_workers()?;
        self.events.send(PipelineEvent::Released { partitions });
        Ok(())
    }

    async fn drop_partitions(&mut self, partitions: &[u32]) {
        for worker in &self.workers {
            let (reply, done) = oneshot::channel();
            if worker.send(Job::Drop(partitions.to_vec(), reply)) {
                let _ = done.await;
            }
        }
        if let Some(gold) = &mut self.gold_next {
            gold.leave_out(partitions);
        }
        self.owned.retain(|partition, _| !partitions.contains(partition));
        self.postponed.retain(|partition, _| !partitions.contains(partition));
    }

    pub(crate) fn worker(&self, partition: u32) -> &Worker {
        &self.workers[partition as usize % self.workers.len()]
    }

    fn progress(&self) -> Progress {
        let mut counts = subscription_core::Counts::default();
        for owned in self.owned.values() {
            counts += owned.standing.counts;
        }
        Progress {
            read: self.read,
            counts,
            durable: self.durable,
            source: self.source.progress(),
            uncommitted_bytes: self.gauges.uncommitted.load(Ordering::Relaxed),
            dedup_bytes: self.gauges.dedup.load(Ordering::Relaxed),
            gold_bytes: self.gauges.gold.load(Ordering::Relaxed),
            elapsed: Duration::from_nanos(self.committer.clock.monotonic_nanos() - self.started),
        }
    }
}

/// The end of a task, or never where there is none.
async fn joined<T>(task: &mut Option<JoinHandle<Result<T>>>) -> Result<T> {
    match task {
        Some(task) => match task.await {
            Ok(done) => done,
            Err(error) => Err(Error::new(ErrorKind::Invariant, "a commit panicked").with_source(error)),
        },
        None => std::future::pending().await,
    }
}

/// Tells of a commit that is waited for no longer, where it is refused.
fn tell_refused<T: Send + 'static>(commit: Option<JoinHandle<Result<T>>>, events: &Events) {
    if let Some(commit) = commit {
        let events = events.clone();
        tokio::spawn(async move {
            if let Ok(Err(error)) = commit.await
                && error.kind() == ErrorKind::Fenced
            {
                events.send(PipelineEvent::Fenced { error: format!("{error:?}") });
            }
        });
    }
}

pub(crate) fn other_inputs(partition: u32, offset: u64) -> Error {
    Error::new(ErrorKind::Mismatch, "the lake was filled from other inputs: the record before its position is another")
        .with("partition", partition)
        .with("offset", offset)
        .with_help(
            "files: give all the inputs that the lake was filled from, in the same order; a topic: it was deleted and made \
             again, so its records are new ones: fill another lake from it",
        )
}

pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX / 4).min(u64::MAX / 4)
}

#[cfg(test)]
mod tests {
    use async_trait::async_trait;
    use subscription_core::testkit::faults::{Fault, Faults, FaultyStore};
    use subscription_core::testkit::samples;
    use subscription_core::{
        Commit, Counter, MemorySource, MemoryStore, SourceIdentity, TableCommit, TableSpan, TableStore as _,
    };

    use super::*;

    /// A source whose partitions move between processes.
    struct Group(MemorySource);

    #[async_trait]
    impl Source for Group {
        fn topic(&self) -> &str {
            self.0.topic()
        }

        async fn identity(&mut self) -> Result<SourceIdentity> {
            self.0.identity().await
        }

        async fn next(&mut self) -> Result<SourceEvent> {
            self.0.next().await
        }

        async fn start(&mut self, partition: u32, from: u64) -> Result<()> {
            self.0.start(partition, from).await
        }

        async fn acknowledge(&mut self, positions: &[(u32, u64)]) -> Result<()> {
            self.0.acknowledge(positions).await
        }

        async fn release(&mut self, partitions: &[u32]) -> Result<()> {
            self.0.release(partitions).await
        }

        async fn rejoin(&mut self) -> Result<bool> {
            Ok(true)
        }
    }

    /// Moves the table of records as another process does that then dies.
    async fn fill_bronze(store: &MemoryStore, from: u64) {
        let admitted = samples::admitted("usage", 0, from);
        let to = admitted.records.to();
        let counts = [(Counter::Read, admitted.counts.read), (Counter::DeadLettered, admitted.counts.dead_lettered)];
        let counters = counts.map(|(counter, count)| (counter, count as i64)).into();
        let spans = vec![TableSpan { partition: 0, from, to, counters }];
        let tables = vec![TableCommit { table: Table::Bronze, spans }];
        let admitted = vec![Arc::new(admitted)];
        let commit = Commit { topic: "usage".into(), tables, admitted, ranges: Vec::new() };
        store.handle().commit(Arc::new(commit)).await.expect("a commit");
    }

    /// A partition that was given away past the deadline, and comes back while its commit is still tried, begins where that ends.
    #[test]
    fn a_partition_that_comes_back_begins_where_the_commit_under_way_ends() {
        crate::runtime().expect("a runtime").block_on(async {
            let records = samples::admitted("usage", 0, 0).records.clone();
            let faults = Faults::new().fail("commit", 0, Fault::Before).fail("commit", 1, Fault::Before);
            let store = Arc::new(FaultyStore::new(MemoryStore::new(), faults));
            let source = Group(MemorySource::new("usage", vec![records.clone()]));
            let pipeline = Pipeline::builder().source(source).store(store).build().expect("a pipeline");
            let mut run = Run::new(pipeline).expect("a run");
            run.agree().await.expect("a lake for this source");
            run.start_workers().expect("workers");
            run.assign(vec![0]).await.expect("a partition");
            while run.owned[&0].delivered.is_none() {
                let report = run.reports.recv().await.expect("a worker");
                run.take_report(report).await.expect("a partition that begins");
            }
            run.hand_out(records.clone()).expect("a partition that takes records");
            run.cut(GoldCut::None);
            run.drop_partitions(&[0]).await;

            run.assign(vec![0]).await.expect("the same partition");
            assert!(run.rows.is_none(), "the commit is done");
            assert_eq!(run.owned[&0].standing.tables, [records.to(); 4]);
        });
    }

    /// A process that crashes again and again before Gold's interval is over makes progress there too.
    #[test]
    fn gold_that_was_caught_up_on_is_committed_at_once() {
        crate::runtime().expect("a runtime").block_on(async {
            let store = MemoryStore::new();
            fill_bronze(&store, 0).await;
            let records = samples::admitted("usage", 0, 0).records.clone();
            let source = Group(MemorySource::new("usage", vec![records.clone()]));
            let mut config = PipelineConfig::default();
            config.gold_interval = Duration::from_secs(3_600);
            config.max_gold_interval = config.gold_interval;
            let pipeline = Pipeline::builder().source(source).store(Arc::new(store.handle())).config(config);
            let mut run = Run::new(pipeline.build().expect("a pipeline")).expect("a run");
            run.agree().await.expect("a lake for this source");
            run.start_workers().expect("workers");
            run.assign(vec![0]).await.expect("a partition");
            while run.owned[&0].delivered.is_none() {
                let report = run.reports.recv().await.expect("a worker");
                run.take_report(report).await.expect("a partition that begins");
            }
            run.cut_if_due();
            run.wait_until(|run| run.rows.is_none() && run.gold.is_none(), None).await.expect("a commit");

            let state = store.state("usage", &[0]).await.expect("a state").remove(0);
            assert!(Table::ALL.iter().all(|table| state.position(*table) == records.to()), "{state:?}");
        });
    }

    /// A worker that another process has fenced is gone when a commit asks for its rows. The commit can only say so, and may be heard
    /// of before the worker's own reason, which is what decides: the process joins anew.
    #[test]
    fn a_worker_that_is_fenced_under_a_commit_makes_the_process_join_anew() {
        crate::runtime().expect("a runtime").block_on(async {
            let store = MemoryStore::new();
            fill_bronze(&store, 0).await;
            let behind = store.state("usage", &[0]).await.expect("a state").remove(0);
            fill_bronze(&store, samples::SAMPLE_SPAN).await;

            let records = RecordBatch::builder("usage".into(), 0, 0).finish(0);
            let source = Group(MemorySource::new("usage", vec![records]));
            let pipeline = Pipeline::builder().source(source).store(Arc::new(store)).build().expect("a pipeline");
            let mut events = pipeline.events();
            let mut run = Run::new(pipeline).expect("a run");
            run.agree().await.expect("a lake for this source");
            run.start_workers().expect("workers");
            run.worker(0).send(Job::Assign(vec![(0, behind)]));
            while run.worker(0).send(Job::SilverVisible(Vec::new())) {
                tokio::time::sleep(Duration::from_millis(1)).await;
            }
            run.cut(GoldCut::None);

            let done = joined(&mut run.rows).await;
            run.rows = None;
            assert_eq!(done.as_ref().err().map(Error::kind), Some(ErrorKind::Other), "its silence");
            run.rows_done(done).await.expect("it joins anew");
            let told = events.next().await;
            assert!(matches!(&told, Some(PipelineEvent::Fenced { error }) if error.contains("bronze")), "{told:?}");
        });
    }
}
