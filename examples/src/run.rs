//! `pipeline run`: from files, or a topic, to every table.

use std::future::Future;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use clap::Args;
use subscription_core::{Error, ErrorKind, Result, Source};
use subscription_delta::{DeltaConfig, DeltaStore};
use subscription_kafka::{DeadLetterConfig, KafkaConfig, KafkaDeadLetters, KafkaSource, TopicAdmin};
use subscription_pipeline::{Pipeline, PipelineBuilder};

use crate::config::Settings;
use crate::exit::{At, Exit, Failure, Outcome};
use crate::files::{FileSource, Input};
use crate::summary::{RunSummary, Summary, layers};
use crate::{lake, progress, usage};

/// What `run` is told.
#[derive(Debug, Clone, Default, Args)]
pub struct Run {
    /// What is set.
    #[command(flatten)]
    pub settings: Settings,

    /// Configuration file; flags and environment variables are over it
    #[arg(long, value_name = "FILE", env = "PIPELINE_CONFIG")]
    pub config: Option<PathBuf>,

    /// Print the summary as JSON
    #[arg(long)]
    pub json: bool,

    /// Show no progress
    #[arg(long, short)]
    pub quiet: bool,
}

/// Reads the inputs to their end, or until a signal comes; answers what came out.
///
/// # Errors
/// With the exit code by what failed.
pub async fn run(run: &Run) -> Outcome<(Exit, Summary)> {
    let file = run.config.as_deref().map_or_else(|| Ok(Settings::default()), Settings::load).at_usage()?;
    let settings = run.settings.clone().over(file);
    let name = settings.name.as_deref().unwrap_or(lake::DEFAULT_NAME);
    let topic = settings.kafka.config(name).at_usage()?;
    let lake = settings.lake.as_deref().ok_or_else(|| missing("lake", "name a folder for the tables: --lake ./lake"));
    let lake = DeltaConfig::new(lake.at_usage()?).at_usage()?.pipeline(name);
    let catalog = settings.catalog().at_usage()?;
    let config = settings.pipeline().at_usage()?;
    let (source, input_failed): (Box<dyn Source>, _) = match topic {
        Some(_) if settings.input.is_some() => {
            let both = Error::new(ErrorKind::Configuration, "files and a topic are given, and a lake has one input");
            return Err(both.with_help("give --input or --kafka")).at_usage();
        }
        Some(topic) => {
            let topic = if settings.redis.is_some() { prompt(topic).at_usage()? } else { topic };
            warn_of(&topic, run.quiet).await?;
            let source = KafkaSource::open(topic, settings.kafka.options()).at_usage()?;
            let failed = source.failed();
            (Box::new(source), failed)
        }
        None => {
            let files = settings.input.as_deref();
            let help = "name files: --input access.log; or a topic: --kafka localhost:9092";
            let files = files.ok_or_else(|| missing("input", help)).at_usage()?;
            let options = settings.file_options(&catalog).at_usage()?;
            let source = FileSource::open(files.iter().cloned().map(Input::from).collect(), options).at_input()?;
            let failed = source.failed();
            (Box::new(source), failed)
        }
    };
    let store = Arc::new(DeltaStore::open(lake).await.at_lake()?);

    let before = lake::reached(&store).await.at_lake()?;
    let mut pipeline = Pipeline::builder();
    if let Some(topic) = settings.kafka.dead_letters().at_usage()? {
        TopicAdmin::new(topic.clone()).at_usage()?.describe().await.at_input()?;
        let sink = KafkaDeadLetters::new(DeadLetterConfig::new(topic, name).at_usage()?).at_usage()?;
        pipeline = pipeline.dead_letter_sink(Arc::new(sink));
    }
    if let Some(url) = &settings.redis {
        pipeline = pipeline.counters(Arc::new(usage::counters(url).await.at_usage()?));
    }
    let pipeline = set_priorities(pipeline, settings.redis.is_some())
        .name(name)
        .boxed_source(source)
        .store(store.clone())
        .config(config)
        .rules(settings.rules.clone().unwrap_or_default())
        .catalog(catalog)
        .build()
        .at_usage()?;
    let shown = tokio::spawn(progress::show(pipeline.events(), run.quiet));
    let stopped = Arc::new(AtomicU8::new(0));
    let result = pipeline.run(signal(stopped.clone(), "committing what was read").at_usage()?).await;
    // The events end with the pipeline; a bar is gone before anything else is printed.
    let _ = shown.await;
    let report = if input_failed.load(Ordering::Relaxed) { result.at_input()? } else { result.at_lake()? };

    let after = lake::reached(&store).await.at_lake()?;
    let mut summary = lake::summarize(&store).await.at_lake()?;
    let elapsed = report.progress.elapsed;
    summary.run = Some(RunSummary {
        ended: report.ended,
        seconds: elapsed.as_secs_f64(),
        read: report.progress.read,
        layers: layers(&before, &after, elapsed),
    });
    let exit = match stopped.load(Ordering::Relaxed) {
        _ if report.ended => Exit::Ok,
        SIGTERM => Exit::Terminated,
        _ => Exit::Interrupted,
    };
    if !summary.ledger.balanced {
        let error = Error::new(ErrorKind::Invariant, "the ledger is broken").with("lake", &summary.lake);
        return Err(Failure {
            exit: Exit::Broken,
            error: error.with_help("run `pipeline verify`, and report this as a bug"),
        });
    }
    Ok((exit, summary))
}

/// Says what of a topic is apt to go wrong. What keeps it from being read is said by who reads it.
async fn warn_of(topic: &KafkaConfig, quiet: bool) -> Outcome<()> {
    if !quiet && let Ok(topic) = TopicAdmin::new(topic.clone()).at_usage()?.describe().await {
        topic.warnings().iter().for_each(|warning| eprintln!("warning: {warning}"));
    }
    Ok(())
}

/// Gateways decide by what the counters are told, so no record shall wait long for others, where nobody said how long.
fn prompt(mut topic: KafkaConfig) -> Result<KafkaConfig> {
    for (name, value) in [("fetch.wait.max.ms", "5"), ("fetch.min.bytes", "16384")] {
        if topic.property(name).is_none() {
            topic = topic.with_property(name, value)?;
        }
    }
    Ok(topic)
}

/// Lets one kind of threads give way to the other where both have work. What counters are told cannot wait, and files can for
/// some milliseconds. Where nobody is told, the files go first: while they are flushed, the engines have the processors for
/// themselves.
fn set_priorities(pipeline: PipelineBuilder, counters: bool) -> PipelineBuilder {
    let pool = rayon::ThreadPoolBuilder::new().thread_name(|n| format!("encode-{n}"));
    let pool = pool.start_handler(move |_| {
        if counters {
            give_way()
        }
    });
    // There is one already where this is called twice.
    let _ = pool.build_global();
    pipeline.worker_start(move || {
        if !counters {
            give_way()
        }
    })
}

/// Lowers the priority of this thread. Threads have one of their own on Linux only.
fn give_way() {
    #[cfg(target_os = "linux")]
    // Refused, it is as it was.
    let _ = rustix::process::setpriority_process(None, 10);
}

fn missing(setting: &str, help: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("no {setting} is given")).with_help(help)
}

const SIGINT: u8 = 2;
pub(crate) const SIGTERM: u8 = 15;

/// Completes when the process is asked to stop, and says so; a second time it ends at once, as by a crash, which loses nothing.
#[cfg(unix)]
pub(crate) fn signal(
    which: Arc<AtomicU8>,
    stopping: &'static str,
) -> subscription_core::Result<impl Future<Output = ()>> {
    use tokio::signal::unix::{SignalKind, signal};
    let cannot = |error| Error::new(ErrorKind::Other, "cannot listen to signals").with_source(error);
    let mut interrupt = signal(SignalKind::interrupt()).map_err(cannot)?;
    let mut terminate = signal(SignalKind::terminate()).map_err(cannot)?;
    Ok(async move {
        let one = tokio::select! {
            _ = interrupt.recv() => SIGINT,
            _ = terminate.recv() => SIGTERM,
        };
        which.store(one, Ordering::Relaxed);
        eprintln!("stopping: {stopping} (once more to stop at once)");
        tokio::spawn(async move {
            let exit = tokio::select! {
                _ = interrupt.recv() => Exit::Interrupted,
                _ = terminate.recv() => Exit::Terminated,
            };
            std::process::exit(exit as i32);
        });
    })
}

#[cfg(not(unix))]
pub(crate) fn signal(
    which: Arc<AtomicU8>,
    stopping: &'static str,
) -> subscription_core::Result<impl Future<Output = ()>> {
    Ok(async move {
        let _ = tokio::signal::ctrl_c().await;
        which.store(SIGINT, Ordering::Relaxed);
        eprintln!("stopping: {stopping}");
    })
}
