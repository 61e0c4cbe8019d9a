//! `pipeline emit`: records of files, to a topic.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicU8, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use clap::Args;
use subscription_core::{Clock, Error, ErrorKind, EventEmitter, Source, SourceEvent, SystemClock};
use subscription_kafka::{EmitterConfig, KafkaEmitter, TopicAdmin};

use crate::exit::{At, Exit, Failure, Outcome};
use crate::files::{FileOptions, FileSource, Input};
use crate::kafka::Cluster;
use crate::run::{SIGTERM, signal};
use crate::text;

/// How long records that are on their way may take once all are read.
const CLOSE: Duration = Duration::from_secs(30);

/// How long nothing may be delivered before the command gives up.
const GIVE_UP: Duration = Duration::from_secs(60);

/// What `emit` is told.
#[derive(Debug, Clone, Args)]
pub struct Emit {
    /// Events or access logs, plain, .gz or .zst; - is standard input, such as what `pipeline generate` writes
    #[arg(value_name = "FILE", required = true)]
    pub input: Vec<PathBuf>,

    /// Where to.
    #[command(flatten)]
    pub cluster: Cluster,

    /// So many records a second at most [default: as fast as the broker takes them]
    #[arg(long, value_name = "N", value_parser = crate::generate::positive)]
    pub rate: Option<f64>,
}

/// What was sent.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Sent {
    /// The topic.
    pub topic: String,
    /// Records that the broker has confirmed.
    pub records: u64,
    /// Records too large to be sent.
    pub too_large: u64,
    /// How long it took.
    pub took: Duration,
}

impl Sent {
    /// As people read it.
    pub fn render(&self) -> String {
        let (count, time) = (text::count(self.records), text::duration(self.took));
        let mut line =
            format!("{count} records to {} in {time} ({})\n", self.topic, text::rate(self.records, self.took));
        if self.too_large > 0 {
            line += &format!("{} records left out: too large for the topic\n", text::count(self.too_large));
        }
        line
    }
}

/// Sends the records of the inputs as they are, with the key, and the record timestamp where the topic does not set its own,
/// that they have as a file: until the end, or until a signal comes.
///
/// # Errors
/// With the exit code by what failed.
pub async fn emit(emit: &Emit) -> Outcome<(Exit, Sent)> {
    let kafka = emit.cluster.config(&BTreeMap::new()).at_usage()?;
    let mut sent = Sent { topic: kafka.topic().to_owned(), ..Sent::default() };
    let inputs = emit.input.iter().cloned().map(Input::from).collect();
    let mut source = FileSource::open(inputs, FileOptions { partitions: 1, ..FileOptions::default() }).at_input()?;
    // Properties first, which need no broker.
    let emitter = Arc::new(
        KafkaEmitter::open(EmitterConfig::new(kafka.clone()).with_name("pipeline-emit").on_problem(tell()))
            .at_usage()?,
    );
    TopicAdmin::new(kafka).at_input()?.describe().await.at_input()?;
    let stopped = Arc::new(AtomicU8::new(0));
    let stop = signal(stopped.clone(), "waiting for what is on its way").at_usage()?;
    tokio::pin!(stop);
    let clock = SystemClock::new();
    let mut pace = Pace { rate: emit.rate, clock, taken: 0 };
    loop {
        let event = tokio::select! {
            biased;
            () = &mut stop => break,
            event = source.next() => event.at_input()?,
        };
        match event {
            SourceEvent::Assigned(partitions) => {
                for partition in partitions {
                    source.start(partition, 0).await.at_input()?;
                }
            }
            SourceEvent::Records(batch) => {
                tokio::select! {
                    biased;
                    () = &mut stop => break,
                    done = send(&emitter, &batch, &mut pace, &mut sent) => done?,
                }
            }
            SourceEvent::End => break,
            _ => {}
        }
    }
    let closing = emitter.clone();
    let closed = tokio::task::spawn_blocking(move || closing.close(CLOSE)).await;
    sent.records = emitter.counts().delivered;
    sent.took = Duration::from_nanos(clock.monotonic_nanos());
    closed
        .map_err(|error| Error::new(ErrorKind::Invariant, "the emitter panicked").with_source(error))
        .at_input()?
        .at_input()?;
    let exit = match stopped.load(Ordering::Relaxed) {
        0 if sent.too_large > 0 => Exit::Input,
        0 => Exit::Ok,
        SIGTERM => Exit::Terminated,
        _ => Exit::Interrupted,
    };
    Ok((exit, sent))
}

/// Hands a batch to the emitter, waiting where its buffer is full.
async fn send(
    emitter: &KafkaEmitter,
    batch: &subscription_core::RecordBatch,
    pace: &mut Pace,
    sent: &mut Sent,
) -> Outcome<()> {
    for record in batch.iter() {
        pace.wait().await;
        let payload = record.payload().unwrap_or_default();
        if record.payload_len() > payload.len() as u64 {
            sent.too_large += 1;
            continue;
        }
        let mut waiting: Option<(u64, u64)> = None;
        loop {
            let error = match emitter.forward(record.key(), payload, Some(record.timestamp())) {
                Ok(()) => break,
                Err(error) => error,
            };
            if error.kind() == ErrorKind::Configuration {
                sent.too_large += 1;
                break;
            }
            let (now, delivered) = (pace.clock.monotonic_nanos(), emitter.counts().delivered);
            let (since, before) = *waiting.get_or_insert((now, delivered));
            if delivered > before {
                waiting = None;
            } else if !error.is_retryable() || u128::from(now - since) > GIVE_UP.as_nanos() {
                return Err(Failure { exit: Exit::Input, error });
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
    Ok(())
}

/// Lets so many pass a second.
struct Pace {
    rate: Option<f64>,
    clock: SystemClock,
    taken: u64,
}

impl Pace {
    async fn wait(&mut self) {
        self.taken += 1;
        let Some(rate) = self.rate else { return };
        while (self.clock.monotonic_nanos() as f64 * 1e-9 * rate) < self.taken as f64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

/// Prints a problem, but not the same one time and again.
fn tell() -> impl Fn(&Error) + Send + Sync {
    let last = Mutex::new(String::new());
    move |error| {
        let told = error.to_string();
        let mut last = last.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if *last != told {
            let help = error.help().map(|help| format!("; {help}")).unwrap_or_default();
            eprintln!("{told}{help}");
            *last = told;
        }
    }
}
