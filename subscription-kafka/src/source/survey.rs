//! How producers place records: found out from the first of them.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::Message;
use rdkafka::{ClientConfig, Offset, TopicPartitionList};
use subscription_core::{Clock, Error, ErrorKind, Partitioner, Placement, Result, SystemClock};

use crate::client::{Listening, unanswered};
use crate::config::KafkaConfig;
use crate::error::Doing;

/// Records with a key that are looked at.
const WANTED: usize = 1_000;
/// How long more records are waited for where those that are there do not tell.
const PATIENCE: Duration = Duration::from_secs(5);
/// The share of keys that a partitioner has to explain, in percent: a few records may be misrouted.
const ENOUGH_PERCENT: usize = 90;

/// Keys, and how often each was seen in which partition.
#[derive(Debug, Default)]
struct Seen {
    keys: HashMap<Vec<u8>, BTreeMap<u32, usize>>,
    records: usize,
    keyed: usize,
}

impl Seen {
    fn take(&mut self, key: Option<&[u8]>, partition: u32) {
        self.records += 1;
        // An empty key is placed at random by some, as if there were none.
        if let Some(key) = key.filter(|key| !key.is_empty()) {
            self.keyed += 1;
            *self.keys.entry(key.to_vec()).or_default().entry(partition).or_default() += 1;
        }
    }

    /// How many keys are where the partitioner puts them. A key is where most of its records are: some may be astray.
    fn explained(&self, partitioner: Partitioner, partitions: u32) -> usize {
        let home = |seen: &BTreeMap<u32, usize>| seen.iter().max_by_key(|(_, n)| **n).map(|(partition, _)| *partition);
        self.keys.iter().filter(|(key, seen)| Some(partitioner.partition(key, partitions)) == home(seen)).count()
    }

    /// The partitioners that explain enough, best first.
    fn candidates(&self, partitions: u32) -> Vec<Partitioner> {
        let explained = |partitioner: &Partitioner| self.explained(*partitioner, partitions);
        let mut fitting: Vec<_> =
            Partitioner::ALL.into_iter().filter(|p| explained(p) * 100 >= self.keys.len() * ENOUGH_PERCENT).collect();
        fitting.sort_by_key(|partitioner| std::cmp::Reverse(explained(partitioner)));
        fitting
    }

    /// The verdict on all that there is.
    fn verdict(&self, config: &KafkaConfig, partitions: u32) -> Result<Option<Placement>> {
        if self.records == 0 {
            return Ok(None);
        }
        // Without keys there is nothing to tell by; Kafka's default is the likeliest.
        match self.candidates(partitions).first() {
            Some(partitioner) => Ok(Some(Placement::ByKey(*partitioner))),
            None => Err(self.unknown(config, partitions)),
        }
    }

    fn unknown(&self, config: &KafkaConfig, partitions: u32) -> Error {
        let seen = |p: Partitioner| format!("{} {}", p.name(), self.explained(p, partitions));
        let seen = Partitioner::ALL.map(seen).join(", ");
        Error::new(ErrorKind::Mismatch, "the topic's records are not where any known partitioner puts their keys")
            .with("topic", config.topic())
            .with("partitions", partitions)
            .with("different keys", self.keys.len())
            .with("of these where they belong by", seen)
            .with_help(
                "producers that differ put one tenant into two partitions: let all use murmur2 (Java's default; librdkafka: \
                 `partitioner=murmur2_random`), on a new topic. Where an own partitioner puts each tenant into one partition, \
                 run with `--partitioner trust`; where most of what is there is old, name the one in use now",
            )
    }
}

/// Reads the first records with a key; `None` where the topic has no record yet.
pub(super) fn placement(config: &KafkaConfig, mut client: ClientConfig, partitions: u32) -> Result<Option<Placement>> {
    let doing = Doing { what: "look at the topic's first records", config };
    client.set("enable.partition.eof", "true").set("auto.offset.reset", "earliest").remove("group.instance.id");
    // What there is, at once: a topic with few records has no more.
    client.set("fetch.min.bytes", "1");
    let consumer: BaseConsumer<Listening> =
        client.create_with_context(Listening::default()).map_err(|e| doing.failed(e))?;
    let mut list = TopicPartitionList::new();
    for partition in 0..partitions {
        list.add_partition_offset(config.topic(), partition as i32, Offset::Beginning).map_err(|e| doing.failed(e))?;
    }
    consumer.assign(&list).map_err(|e| doing.failed(e))?;

    let clock = SystemClock::new();
    let limit = WANTED.div_ceil(partitions.max(1) as usize).max(16);
    let mut seen = Seen::default();
    let mut keyed = vec![0; partitions as usize];
    let mut at_end: HashSet<u32> = HashSet::new();
    let mut waited_from = None;
    // Whatever happens to a broker, the look has an end.
    let until = clock.monotonic_nanos() + Duration::from_secs(60).as_nanos() as u64;
    loop {
        match consumer.poll(Duration::from_millis(100)) {
            Some(Ok(message)) => {
                let partition = message.partition() as u32;
                if let Some(keyed) = keyed.get_mut(partition as usize).filter(|keyed| **keyed < limit) {
                    seen.take(message.key(), partition);
                    *keyed += usize::from(message.key().is_some_and(|key| !key.is_empty()));
                }
            }
            Some(Err(KafkaError::PartitionEOF(partition))) => {
                at_end.insert(partition as u32);
            }
            Some(Err(error)) => {
                let error = unanswered(doing, error, &consumer.context().0);
                if !error.is_retryable() {
                    return Err(error);
                }
            }
            None => {}
        }
        let now = clock.monotonic_nanos();
        let all_seen = (0..partitions).all(|p| keyed[p as usize] >= limit || at_end.contains(&p));
        if seen.keyed < WANTED && !all_seen && now < until {
            continue;
        }
        if now >= until && !all_seen {
            return Err(Error::new(ErrorKind::Unavailable, "cannot look at the topic's first records in a minute")
                .with("topic", config.topic())
                .with_help("check that every partition has a leader: pipeline topic describe")
                .retryable());
        }
        let told =
            seen.records == 0 || seen.keyed >= WANTED || seen.candidates(partitions).len() == 1 || partitions == 1;
        let began = *waited_from.get_or_insert(now);
        if told || now - began >= PATIENCE.as_nanos() as u64 {
            return seen.verdict(config, partitions);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> KafkaConfig {
        KafkaConfig::new("localhost:9092", "usage").expect("valid names")
    }

    fn seen(keys: usize, partitions: u32, place: impl Fn(usize, &[u8]) -> u32) -> Result<Option<Placement>> {
        let mut seen = Seen::default();
        for i in 0..keys {
            let key = format!("tenant-{i}");
            seen.take(Some(key.as_bytes()), place(i, key.as_bytes()));
        }
        seen.verdict(&config(), partitions)
    }

    #[test]
    fn each_partitioner_is_recognised_by_what_it_does() {
        for partitioner in Partitioner::ALL {
            for (keys, partitions) in [(30, 64), (300, 8), (1_000, 3)] {
                let found = seen(keys, partitions, |_, key| partitioner.partition(key, partitions));
                assert_eq!(found.expect("it fits"), Some(Placement::ByKey(partitioner)), "{keys} keys");
                // One record in twenty goes astray.
                let found = seen(keys, partitions, |i, key| match i % 20 {
                    7 => (partitioner.partition(key, partitions) + 1) % partitions,
                    _ => partitioner.partition(key, partitions),
                });
                assert_eq!(found.expect("it fits"), Some(Placement::ByKey(partitioner)), "{keys} keys, some astray");
            }
        }
    }

    #[test]
    fn where_none_fits_it_is_said_what_was_seen() {
        // Half the producers use one, half the other.
        let error = seen(1_000, 64, |i, key| Partitioner::ALL[i % 2].partition(key, 64)).expect_err("two producers");
        assert_eq!(error.kind(), ErrorKind::Mismatch);
        let told = error.to_string();
        assert!(told.contains("different keys: 1000") && told.contains("murmur2 5"), "{told}");
        assert!(error.help().is_some_and(|help| help.contains("--partitioner trust")));
        assert!(seen(1_000, 64, |i, _| i as u32 % 64).is_err());
    }

    #[test]
    fn nothing_tells_nothing() {
        assert_eq!(Seen::default().verdict(&config(), 64).expect("no refusal"), None);
        let mut keyless = Seen::default();
        keyless.take(None, 3);
        keyless.take(Some(b""), 3);
        let verdict = keyless.verdict(&config(), 64).expect("no refusal");
        assert_eq!(verdict, Some(Placement::ByKey(Partitioner::Murmur2)));
        // With one partition all agree.
        let one = seen(10, 1, |_, _| 0).expect("it fits");
        assert_eq!(one, Some(Placement::ByKey(Partitioner::Murmur2)));
    }
}
