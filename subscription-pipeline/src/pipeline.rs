//! Putting a pipeline together.

use std::future::Future;
use std::sync::Arc;

use subscription_core::{
    AlertSink, Catalog, Clock, CounterStore, DeadLetterSink, Error, ErrorKind, Result, Rules, Sink, Source,
    SystemClock, TableStore,
};

use crate::config::PipelineConfig;
use crate::events::{EventStream, Events, Progress};
use crate::run::Run;

/// A source, a lake, and whoever else wants rows; [`Pipeline::run`] keeps them going.
///
/// ```
/// use std::sync::Arc;
/// use subscription_core::{MemorySource, MemoryStore, RecordBatch, Timestamp};
/// use subscription_pipeline::Pipeline;
///
/// # fn main() -> subscription_core::Result<()> {
/// let payload = br#"{"event_id":"6f1f6c4e-6f5b-4f3e-9d0b-0d9d8f0a8a01","event_timestamp":"2026-01-01T00:00:00Z",
///     "tenant_id":"acme","api_key_id":"k1","endpoint":"/v1/items","http_method":"GET",
///     "response_status_code":200,"response_time_ms":12.5,"subscription_plan":"free"}"#;
/// let mut records = RecordBatch::builder("usage".into(), 0, 0);
/// records.push(0, Timestamp::from_millis(1_767_225_600_000), None, Some(payload));
///
/// let pipeline = Pipeline::builder()
///     .source(MemorySource::new("usage", vec![records.finish(1)]))
///     .store(Arc::new(MemoryStore::new()))
///     .build()?;
/// let runtime = subscription_pipeline::runtime()?;
/// let report = runtime.block_on(pipeline.run(std::future::pending()))?;
/// assert_eq!(report.progress.counts.accepted, 1);
/// # Ok(())
/// # }
/// ```
pub struct Pipeline {
    pub(crate) name: String,
    pub(crate) source: Box<dyn Source>,
    pub(crate) store: Arc<dyn TableStore>,
    pub(crate) sinks: Vec<Arc<dyn Sink>>,
    pub(crate) letter_sinks: Vec<Arc<dyn DeadLetterSink>>,
    pub(crate) alert_sinks: Vec<Arc<dyn AlertSink>>,
    pub(crate) counters: Option<Arc<dyn CounterStore>>,
    pub(crate) config: PipelineConfig,
    pub(crate) rules: Rules,
    pub(crate) catalog: Arc<Catalog>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) events: Events,
    pub(crate) worker_start: Option<WorkerStart>,
}

/// What each worker thread does first.
pub(crate) type WorkerStart = Arc<dyn Fn() + Send + Sync>;

/// What a run came to.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub struct RunReport {
    /// Whether the input had an end and all of it is committed; else the run was asked to stop.
    pub ended: bool,
    /// How far it came; all of it durable.
    pub progress: Progress,
    /// The next offset of each partition this process had at the end.
    pub positions: Vec<(u32, u64)>,
}

impl Pipeline {
    /// Begins to put a pipeline together.
    pub fn builder() -> PipelineBuilder {
        PipelineBuilder::default()
    }

    /// What happens in the pipeline from now on.
    pub fn events(&self) -> EventStream {
        self.events.subscribe()
    }

    /// Runs until the input ends, or `stop` completes, or something fails for good.
    ///
    /// When it returns `Ok`, everything read is committed. Dropping its future is safe at any moment, like a crash: what
    /// was not committed is read again by the next run. Needs a multi-threaded tokio runtime.
    ///
    /// # Errors
    /// The first error that is not retryable, or stayed so for longer than the retry policy allows. What was committed
    /// stays whole.
    pub async fn run(self, stop: impl Future<Output = ()>) -> Result<RunReport> {
        Run::new(self)?.run(stop).await
    }
}

/// Puts a [`Pipeline`] together.
#[derive(Default)]
pub struct PipelineBuilder {
    name: Option<String>,
    source: Option<Box<dyn Source>>,
    store: Option<Arc<dyn TableStore>>,
    sinks: Vec<Arc<dyn Sink>>,
    letter_sinks: Vec<Arc<dyn DeadLetterSink>>,
    alert_sinks: Vec<Arc<dyn AlertSink>>,
    counters: Option<Arc<dyn CounterStore>>,
    config: PipelineConfig,
    rules: Rules,
    catalog: Arc<Catalog>,
    clock: Option<Arc<dyn Clock>>,
    worker_start: Option<WorkerStart>,
}

impl PipelineBuilder {
    /// The name that the lake knows the pipeline by: a lake is filled by one pipeline, however many processes run it.
    /// Where the store keeps positions by a name of its own, give it the same. Default: `pipeline`.
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Where records come from. Needed.
    pub fn source(self, source: impl Source + 'static) -> Self {
        self.boxed_source(Box::new(source))
    }

    /// [`PipelineBuilder::source`] for one that is chosen while the program runs.
    pub fn boxed_source(mut self, source: Box<dyn Source>) -> Self {
        self.source = Some(source);
        self
    }

    /// The lake. Needed.
    pub fn store(mut self, store: Arc<dyn TableStore>) -> Self {
        self.store = Some(store);
        self
    }

    /// Adds a sink for accepted events.
    pub fn sink(mut self, sink: Arc<dyn Sink>) -> Self {
        self.sinks.push(sink);
        self
    }

    /// Adds a sink for dead letters.
    pub fn dead_letter_sink(mut self, sink: Arc<dyn DeadLetterSink>) -> Self {
        self.letter_sinks.push(sink);
        self
    }

    /// Adds a sink for alerts.
    pub fn alert_sink(mut self, sink: Arc<dyn AlertSink>) -> Self {
        self.alert_sinks.push(sink);
        self
    }

    /// The counters by which gateways decide, to be told what tenants have used of their open windows: once a batch
    /// is applied, without waiting for its commit, and again where they were lost.
    pub fn counters(mut self, counters: Arc<dyn CounterStore>) -> Self {
        self.counters = Some(counters);
        self
    }

    /// How to run. Defaults: [`PipelineConfig::default`].
    pub fn config(mut self, config: PipelineConfig) -> Self {
        self.config = config;
        self
    }

    /// What decides which rows come out. Defaults: [`Rules::default`].
    pub fn rules(mut self, rules: Rules) -> Self {
        self.rules = rules;
        self
    }

    /// The plans. Defaults: [`Catalog::default`].
    pub fn catalog(mut self, catalog: Arc<Catalog>) -> Self {
        self.catalog = catalog;
        self
    }

    /// The clock for intervals and pauses. Defaults: the operating system's.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = Some(clock);
        self
    }

    /// What each thread that runs engines does first, such as setting its priority. There are
    /// [`PipelineConfig::workers`] of them, named `usage-engine-0` and so on.
    ///
    /// ```
    /// use std::sync::{Arc, atomic::{AtomicUsize, Ordering}};
    /// use subscription_core::{MemorySource, MemoryStore};
    /// use subscription_pipeline::{Pipeline, PipelineConfig};
    ///
    /// # fn main() -> subscription_core::Result<()> {
    /// let started = Arc::new(AtomicUsize::new(0));
    /// let count = started.clone();
    /// let pipeline = Pipeline::builder()
    ///     .source(MemorySource::new("usage", Vec::new()))
    ///     .store(Arc::new(MemoryStore::new()))
    ///     .worker_start(move || {
    ///         count.fetch_add(1, Ordering::Relaxed);
    ///     })
    ///     .build()?;
    /// subscription_pipeline::runtime()?.block_on(pipeline.run(std::future::pending()))?;
    /// assert_eq!(started.load(Ordering::Relaxed), PipelineConfig::default().workers);
    /// # Ok(())
    /// # }
    /// ```
    pub fn worker_start(mut self, start: impl Fn() + Send + Sync + 'static) -> Self {
        self.worker_start = Some(Arc::new(start));
        self
    }

    /// The pipeline.
    ///
    /// # Errors
    /// Without a source or a store, or with a limit of 0.
    pub fn build(self) -> Result<Pipeline> {
        let missing = |what: &str| {
            Error::new(ErrorKind::Configuration, format!("the pipeline has no {what}"))
                .with_help(format!("call `.{what}(…)` before `.build()`"))
        };
        let positive =
            |name: &'static str, value: usize| match value {
                0 => Err(Error::new(ErrorKind::Configuration, "a limit of nothing lets nothing through")
                    .with("setting", name)),
                _ => Ok(()),
            };
        positive("workers", self.config.workers)?;
        positive("max_uncommitted_bytes", self.config.max_uncommitted_bytes)?;
        positive("max_gold_bytes", self.config.max_gold_bytes)?;
        Ok(Pipeline {
            name: self.name.unwrap_or_else(|| DEFAULT_NAME.to_owned()),
            source: self.source.ok_or_else(|| missing("source"))?,
            store: self.store.ok_or_else(|| missing("store"))?,
            sinks: self.sinks,
            letter_sinks: self.letter_sinks,
            alert_sinks: self.alert_sinks,
            counters: self.counters,
            config: self.config,
            rules: self.rules,
            catalog: self.catalog,
            clock: self.clock.unwrap_or_else(|| Arc::new(SystemClock::new())),
            events: Events::new(),
            worker_start: self.worker_start,
        })
    }
}

/// The name of a pipeline that was given none.
pub(crate) const DEFAULT_NAME: &str = "pipeline";

/// A runtime that suits a pipeline, for programs that have none.
///
/// # Errors
/// Where the operating system grants no threads.
pub fn runtime() -> Result<tokio::runtime::Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .map_err(|e| Error::new(ErrorKind::Other, "cannot start the runtime").with_source(e))
}
