//! The emitter's thread: hears of deliveries, and brings what waits to the producer, in order.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rdkafka::error::KafkaError;
use rdkafka::producer::{Producer as _, PurgeConfig};
use subscription_core::{Clock as _, Error, ErrorKind, SpoolReader};

use super::deliveries::{Returned, is_for_good};
use super::message::Message;
use super::{Producer, Shared, producer, send};
use crate::error::Doing;

/// Records of the spool handed over before deliveries are heard of again.
const BATCH: u64 = 1_000;

/// How long messages that came back wait before they are tried again.
const PAUSE: Duration = Duration::from_secs(1);

/// How often it is kept on disk what of the spool is acknowledged.
const TIDY: Duration = Duration::from_millis(100);

pub(super) struct Sender {
    shared: Arc<Shared>,
    producer: Arc<Producer>,
    spool: Option<SpoolReader>,
    /// Messages that the producer gave back. They come before all that is in the spool.
    returned: VecDeque<Returned>,
    /// The next record of the backlog, read when there was no room for it.
    held: Option<Returned>,
    next_try: u64,
    next_tidy: u64,
}

impl Sender {
    pub(super) fn new(shared: Arc<Shared>, producer: Arc<Producer>, spool: Option<SpoolReader>) -> Self {
        Self { shared, producer, spool, returned: VecDeque::new(), held: None, next_try: 0, next_tidy: 0 }
    }

    pub(super) fn run(mut self) {
        if let Some(spool) = self.spool.as_ref().filter(|spool| spool.torn_bytes() > 0) {
            let error = if spool.end_is_damaged() {
                Error::new(ErrorKind::Corrupt, "the end of the spool is damaged: what events it had are lost")
                    .with_help("the file is kept with the ending `.damaged`; check the disk")
            } else {
                Error::new(ErrorKind::Corrupt, "the spool ended in an event that was cut short, and is left out")
            };
            self.tell(&error.with("bytes", spool.torn_bytes()));
        }
        while !self.shared.stopping.load(Ordering::Acquire) {
            let busy = self.send_backlog();
            self.hear(Duration::from_millis(if busy { 1 } else { 10 }));
            self.send_returned();
            self.tidy(false);
            self.shared.progress.notify_all();
        }
        self.end();
    }

    /// Hears of deliveries for so long.
    fn hear(&mut self, time: Duration) {
        self.producer.poll(time);
        self.producer.context().take_returned(&mut self.returned);
    }

    /// Hands the next records of the spool over; whether there may be more to do at once.
    fn send_backlog(&mut self) -> bool {
        if self.shared.holding.load(Ordering::Acquire) {
            return false;
        }
        let Some(spool) = &mut self.spool else { return false };
        let backlog = {
            let state = self.shared.state();
            if state.backlog == 0 {
                return false;
            }
            // What is not of the backlog was handed over when it was emitted.
            spool.skip_to(spool.position() + spool.remaining() - state.backlog + u64::from(self.held.is_some()));
            state.backlog
        };
        let mut handed = 0;
        let mut full = false;
        while handed < backlog.min(BATCH) && !full {
            let before = spool.position();
            let (place, message) = match &self.held {
                Some(held) => (held.place, held.message()),
                None => match spool.next() {
                    Ok(None) => break,
                    Ok(Some(spooled)) => match Message::decode(spooled.record) {
                        Some(message) => (self.producer.context().next(Some(spooled.number)), message),
                        None => {
                            let foreign = Error::new(ErrorKind::Corrupt, "the spool has a record that is no event");
                            lose(&self.shared, &self.producer, spooled.number..spooled.number + 1, foreign);
                            handed += 1;
                            continue;
                        }
                    },
                    Err(error) => {
                        let lost = before..spool.position();
                        handed += lost.end - lost.start;
                        full = lost.is_empty();
                        lose(&self.shared, &self.producer, lost, error);
                        continue;
                    }
                },
            };
            match send(&self.producer, self.shared.config.kafka.topic(), message, place) {
                Ok(()) => {
                    self.held = None;
                    handed += 1;
                }
                Err(KafkaError::MessageProduction(code)) if is_for_good(code) => {
                    let error = Doing { what: "deliver a usage event", config: &self.shared.config.kafka };
                    let error = error.code(code, None).with("bytes", message.payload.len());
                    let number = place.number.unwrap_or_default();
                    lose(&self.shared, &self.producer, number..number + 1, error);
                    self.held = None;
                    handed += 1;
                }
                Err(_) => {
                    let held = Returned::new(message, place);
                    self.held = Some(held);
                    full = true;
                }
            }
        }
        let mut state = self.shared.state();
        state.backlog -= handed;
        !full && state.backlog > 0
    }

    /// Tries again what came back, once the producer has given back all that it had, so that nothing overtakes.
    fn send_returned(&mut self) {
        let is_broken = self.producer.client().fatal_error().is_some();
        if is_broken {
            // It gives back what waits as it fails, and not what it means to try again after that: nothing is given up by time.
            self.producer.purge(PurgeConfig::default().queue());
        }
        if !(is_broken || self.shared.holding.load(Ordering::Acquire)) || self.producer.in_flight_count() > 0 {
            return;
        }
        self.producer.context().take_returned(&mut self.returned);
        let now = self.shared.clock.monotonic_nanos();
        if now < self.next_try {
            return;
        }
        // Where they come back once more, it is not at once.
        self.next_try = now + PAUSE.as_nanos() as u64;
        if is_broken && !self.replace_producer() {
            return;
        }
        while let Some(returned) = self.returned.front() {
            let topic = self.shared.config.kafka.topic();
            if send(&self.producer, topic, returned.message(), returned.place).is_err() {
                return;
            }
            self.returned.pop_front();
        }
        self.shared.holding.store(false, Ordering::Release);
    }

    /// An idempotent producer that has failed for good takes no more messages: a new one does.
    fn replace_producer(&mut self) -> bool {
        match producer(&self.shared.config, self.producer.context().as_ref().clone()) {
            Ok(new) => {
                self.producer = Arc::new(new);
                self.shared.state().producer = self.producer.clone();
                true
            }
            Err(error) => {
                self.tell(&error);
                false
            }
        }
    }

    fn tidy(&mut self, at_once: bool) {
        let now = self.shared.clock.monotonic_nanos();
        if now < self.next_tidy && !at_once {
            return;
        }
        self.next_tidy = now + TIDY.as_nanos() as u64;
        let Some(spool) = &mut self.spool else { return };
        let acknowledged = self.producer.context().acknowledged();
        spool.skip_to(acknowledged);
        spool.acknowledge(acknowledged);
        if let Err(error) = spool.tidy() {
            self.tell(&error);
        }
    }

    /// Keeps what the producer still has, where there is a place for it.
    fn end(&mut self) {
        if self.spool.is_some() {
            self.producer.purge(PurgeConfig::default().queue().inflight());
            while self.producer.in_flight_count() > 0 {
                self.hear(Duration::from_millis(1));
            }
            self.hear(Duration::ZERO);
            let shared = self.shared.clone();
            let mut state = shared.state();
            // What has a number is in the spool already.
            for returned in self.returned.drain(..).filter(|returned| returned.place.number.is_none()) {
                if let Err(error) = state.spool(returned.message()) {
                    shared.counts.lost.fetch_add(1, Ordering::Release);
                    (shared.config.on_problem)(&error);
                }
            }
        }
        self.tidy(true);
    }

    fn tell(&self, error: &Error) {
        (self.shared.config.on_problem)(error);
    }
}

/// Counts and tells of records of the spool that cannot be delivered.
fn lose(shared: &Shared, producer: &Producer, numbers: std::ops::Range<u64>, error: Error) {
    shared.counts.lost.fetch_add(numbers.end - numbers.start, Ordering::Release);
    numbers.for_each(|number| producer.context().acknowledge(number));
    (shared.config.on_problem)(&error);
}
