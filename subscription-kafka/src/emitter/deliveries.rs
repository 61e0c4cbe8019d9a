//! What becomes of the messages that a producer was given.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _, Timestamp};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::message::Message;
use super::{Counts, EmitterConfig};
use crate::error::Doing;

/// Hears what becomes of messages. Shared by all producers of an emitter.
#[derive(Clone)]
pub(super) struct Deliveries(Arc<Inner>);

struct Inner {
    config: EmitterConfig,
    counts: Arc<Counts>,
    holding: Arc<AtomicBool>,
    outcomes: Mutex<Outcomes>,
    turns: AtomicU64,
}

struct Outcomes {
    acknowledged: Prefix,
    /// Messages that came back for reasons that will pass, in the order they came back.
    returned: Vec<Returned>,
}

/// What is known of a message while a producer has it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Place {
    /// Its place among all messages of the emitter, which it keeps when it is sent again.
    pub(super) turn: u64,
    /// Its number in the spool, where it is there.
    pub(super) number: Option<u64>,
}

/// A message that the producer gave back.
pub(super) struct Returned {
    pub(super) place: Place,
    pub(super) timestamp: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Vec<u8>,
}

impl Returned {
    pub(super) fn new(message: Message<'_>, place: Place) -> Self {
        let (key, payload) = (message.key.map(<[u8]>::to_vec), message.payload.to_vec());
        Self { place, timestamp: message.timestamp, key, payload }
    }

    pub(super) fn message(&self) -> Message<'_> {
        Message { timestamp: self.timestamp, key: self.key.as_deref(), payload: &self.payload }
    }
}

impl Deliveries {
    /// `first` is the first number of the spool that is not acknowledged.
    pub(super) fn new(config: EmitterConfig, counts: Arc<Counts>, holding: Arc<AtomicBool>, first: u64) -> Self {
        let acknowledged = Prefix { end: first, done: VecDeque::new() };
        let outcomes = Mutex::new(Outcomes { acknowledged, returned: Vec::new() });
        Self(Arc::new(Inner { config, counts, holding, outcomes, turns: AtomicU64::new(0) }))
    }

    /// Nobody needs this record of the spool any longer.
    pub(super) fn acknowledge(&self, number: u64) {
        self.outcomes().acknowledged.add(number);
    }

    /// All records of the spool before this one are done with.
    pub(super) fn acknowledged(&self) -> u64 {
        self.outcomes().acknowledged.end
    }

    /// The place of a message that a producer is to be given for the first time.
    pub(super) fn next(&self, number: Option<u64>) -> Place {
        Place { turn: self.0.turns.fetch_add(1, Ordering::Relaxed), number }
    }

    /// Puts what came back among the others, in the order in which it was first sent. It may have come back in another: a producer
    /// that has failed gives back what waits before what was on its way.
    pub(super) fn take_returned(&self, to: &mut VecDeque<Returned>) {
        let returned = std::mem::take(&mut self.outcomes().returned);
        if !returned.is_empty() {
            to.extend(returned);
            to.make_contiguous().sort_by_key(|returned| returned.place.turn);
        }
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doing(&self, what: &'static str) -> Doing<'_> {
        Doing { what, config: &self.0.config.kafka }
    }

    fn failed(&self, code: RDKafkaErrorCode, message: &BorrowedMessage<'_>, place: Place) {
        let payload = message.payload().unwrap_or_default();
        if is_for_good(code) {
            self.0.counts.lost.fetch_add(1, Ordering::Release);
            place.number.into_iter().for_each(|number| self.acknowledge(number));
            let error = self.doing("deliver a usage event").code(code, None).with("bytes", payload.len());
            let key = String::from_utf8_lossy(message.key().unwrap_or_default()).into_owned();
            return (self.0.config.on_problem)(&error.with("tenant", key));
        }
        let purged = matches!(code, RDKafkaErrorCode::PurgeQueue | RDKafkaErrorCode::PurgeInflight);
        if !self.0.holding.swap(true, Ordering::AcqRel) && !purged {
            (self.0.config.on_problem)(&self.doing("deliver usage events").code(code, None).retryable());
        }
        let timestamp = match message.timestamp() {
            Timestamp::CreateTime(millis) => Some(millis),
            _ => None,
        };
        let returned = Returned::new(Message { timestamp, key: message.key(), payload }, place);
        self.outcomes().returned.push(returned);
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, _reason: &str) {
        (self.0.config.on_problem)(&self.doing("reach the brokers").failed(error));
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Place>;

    fn delivery(&self, result: &DeliveryResult<'_>, place: Box<Place>) {
        match result {
            Ok(_) => {
                place.number.into_iter().for_each(|number| self.acknowledge(number));
                self.0.counts.delivered.fetch_add(1, Ordering::Release);
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                self.failed(code, message, *place);
            }
        }
    }
}

/// Whether a message is refused for what it is, so that it will never be taken.
pub(super) fn is_for_good(code: RDKafkaErrorCode) -> bool {
    use RDKafkaErrorCode as C;
    matches!(
        code,
        C::MessageSizeTooLarge | C::InvalidMessageSize | C::InvalidMessage | C::InvalidRecord | C::InvalidTimestamp
    )
}

/// Numbers that are done with, in any order: all before `end`, and those of `done` that are true, from `end` on.
struct Prefix {
    end: u64,
    done: VecDeque<bool>,
}

impl Prefix {
    fn add(&mut self, number: u64) {
        let Some(index) = number.checked_sub(self.end) else { return };
        let index = index as usize;
        if self.done.len() <= index {
            self.done.resize(index + 1, false);
        }
        self.done[index] = true;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.end += 1;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_prefix_ends_at_the_first_that_is_missing() {
        let mut prefix = Prefix { end: 10, done: VecDeque::new() };
        for (number, end) in [(11, 10), (13, 10), (10, 12), (10, 12), (3, 12), (12, 14), (14, 15)] {
            prefix.add(number);
            assert_eq!(prefix.end, end, "after {number}");
        }
        assert!(prefix.done.is_empty());
    }
}
