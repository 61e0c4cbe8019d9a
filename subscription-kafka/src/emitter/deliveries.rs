//! What becomes of the messages that a producer was given.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use rdkafka::client::ClientContext;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _, Timestamp};
use rdkafka::producer::{DeliveryResult, ProducerContext};

use super::message::Message;
use super::{Counts, EmitterConfig};
use crate::error::Doing;

/// What a message's place in the spool is, while a producer has it. Shared by all producers of an emitter.
#[derive(Clone)]
pub(super) struct Deliveries(Arc<Inner>);

struct Inner {
    config: EmitterConfig,
    counts: Arc<Counts>,
    holding: Arc<AtomicBool>,
    outcomes: Mutex<Outcomes>,
}

struct Outcomes {
    acknowledged: Prefix,
    /// Messages that came back for reasons that will pass, in the order they came back.
    returned: VecDeque<Returned>,
}

/// A message that the producer gave back.
pub(super) struct Returned {
    pub(super) number: Option<u64>,
    pub(super) timestamp: Option<i64>,
    pub(super) key: Option<Vec<u8>>,
    pub(super) payload: Vec<u8>,
}

impl Returned {
    pub(super) fn new(message: Message<'_>, number: Option<u64>) -> Self {
        let (key, payload) = (message.key.map(<[u8]>::to_vec), message.payload.to_vec());
        Self { number, timestamp: message.timestamp, key, payload }
    }

    pub(super) fn message(&self) -> Message<'_> {
        Message { timestamp: self.timestamp, key: self.key.as_deref(), payload: &self.payload }
    }
}

/// A place in the spool as librdkafka carries it with a message: 0 for none.
pub(super) fn place(number: Option<u64>) -> usize {
    number.map_or(0, |number| number as usize + 1)
}

fn number(place: usize) -> Option<u64> {
    place.checked_sub(1).map(|number| number as u64)
}

impl Deliveries {
    /// `first` is the first number of the spool that is not acknowledged.
    pub(super) fn new(config: EmitterConfig, counts: Arc<Counts>, holding: Arc<AtomicBool>, first: u64) -> Self {
        let acknowledged = Prefix { end: first, done: VecDeque::new() };
        let outcomes = Mutex::new(Outcomes { acknowledged, returned: VecDeque::new() });
        Self(Arc::new(Inner { config, counts, holding, outcomes }))
    }

    /// Nobody needs this record of the spool any longer.
    pub(super) fn acknowledge(&self, number: u64) {
        self.outcomes().acknowledged.add(number);
    }

    /// All records of the spool before this one are done with.
    pub(super) fn acknowledged(&self) -> u64 {
        self.outcomes().acknowledged.end
    }

    /// Moves what came back behind `to`.
    pub(super) fn take_returned(&self, to: &mut VecDeque<Returned>) {
        to.append(&mut self.outcomes().returned);
    }

    fn outcomes(&self) -> MutexGuard<'_, Outcomes> {
        self.0.outcomes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn doing(&self, what: &'static str) -> Doing<'_> {
        Doing { what, config: &self.0.config.kafka }
    }

    fn failed(&self, code: RDKafkaErrorCode, message: &BorrowedMessage<'_>, number: Option<u64>) {
        let payload = message.payload().unwrap_or_default();
        if is_for_good(code) {
            self.0.counts.lost.fetch_add(1, Ordering::Release);
            number.into_iter().for_each(|number| self.acknowledge(number));
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
        let returned = Returned::new(Message { timestamp, key: message.key(), payload }, number);
        self.outcomes().returned.push_back(returned);
    }
}

impl ClientContext for Deliveries {
    fn error(&self, error: KafkaError, _reason: &str) {
        (self.0.config.on_problem)(&self.doing("reach the brokers").failed(error));
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = usize;

    fn delivery(&self, result: &DeliveryResult<'_>, place: usize) {
        match result {
            Ok(_) => {
                number(place).into_iter().for_each(|number| self.acknowledge(number));
                self.0.counts.delivered.fetch_add(1, Ordering::Release);
            }
            Err((error, message)) => {
                let code = error.rdkafka_error_code().unwrap_or(RDKafkaErrorCode::Fail);
                self.failed(code, message, number(place));
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
