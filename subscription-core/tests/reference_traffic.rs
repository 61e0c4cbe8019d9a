//! The traffic generator: the same bytes for the same seed for ever, and what it promises.
#![cfg(feature = "testkit")]

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::value::RawValue;
use subscription_core::testkit::reference::Reference;
use subscription_core::testkit::traffic::{Broken, Framing, Traffic, TrafficConfig, TrafficRecord, cut};
use subscription_core::{RecordBatch, Routing, Rules, Timestamp, peek};

fn ndjson(config: TrafficConfig) -> String {
    let mut lines = Vec::new();
    Traffic::new(config).write_ndjson(&mut lines).unwrap();
    String::from_utf8_lossy(&lines).into_owned()
}

/// All of a batch that can be compared.
fn contents(batches: &[RecordBatch]) -> Vec<(u32, u64, String)> {
    batches
        .iter()
        .flat_map(|batch| {
            batch.iter().map(|record| (batch.partition(), record.offset(), format!("{:?}", facts(&record))))
        })
        .collect()
}

type Facts = (Timestamp, Option<Vec<u8>>, Option<Vec<u8>>, u64, Vec<(String, Option<Vec<u8>>)>);

fn facts(record: &subscription_core::Record<'_>) -> Facts {
    (
        record.timestamp(),
        record.key().map(<[u8]>::to_vec),
        record.payload().map(<[u8]>::to_vec),
        record.payload_len(),
        record.headers().map(|(name, value)| (name.to_owned(), value.map(<[u8]>::to_vec))).collect(),
    )
}

#[test]
fn the_first_lines_of_a_seed_never_change() {
    let config = TrafficConfig { events: 6, odd_share: 0.4, ..TrafficConfig::steady(7) };
    let expected = include_str!("golden/traffic_seed_7.ndjson");
    assert_eq!(ndjson(config), expected);
    // And none of 5,000 records with every kind of trouble, by a sum (FNV-1a) of their bytes.
    let sum = Traffic::new(TrafficConfig::trouble(7))
        .flat_map(|record| record.payload)
        .fold(0xcbf2_9ce4_8422_2325u64, |sum, byte| (sum ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
    assert_eq!(sum, 0x9a4d_80f4_8f46_4c58);
}

#[test]
fn another_seed_is_other_traffic() {
    let config = |seed| TrafficConfig { events: 10, ..TrafficConfig::steady(seed) };
    assert_ne!(ndjson(config(1)), ndjson(config(2)));
}

#[test]
fn events_have_about_600_bytes() {
    let records = 10_000;
    let config = TrafficConfig { events: records, ..TrafficConfig::steady(1) };
    let bytes: usize = Traffic::new(config).map(|record| record.payload.len()).sum();
    assert!((570..630).contains(&(bytes / records as usize)), "{} bytes on average", bytes / records as usize);
}

#[test]
fn time_goes_forward_at_the_rate() {
    let config = TrafficConfig { events: 5_001, ..TrafficConfig::steady(3) };
    let start = config.start;
    let times: Vec<Timestamp> = Traffic::new(config).map(|record| record.timestamp).collect();
    assert!(times.is_sorted());
    assert_eq!(times[5_000], start.plus_millis(10_000));
}

#[test]
fn shares_are_as_configured() {
    let config = TrafficConfig {
        events: 20_000,
        late_share: 0.2,
        hot_share: 0.5,
        broken: vec![(Broken::NotJson, 0.05), (Broken::NullField, 0.1)],
        ..TrafficConfig::steady(5)
    };
    let (mut late, mut three_hours, mut hot, mut broken) = (0, 0, 0, BTreeMap::new());
    for record in Traffic::new(config) {
        if let Some(kind) = record.broken {
            *broken.entry(kind).or_insert(0) += 1;
            continue;
        }
        let age = record.timestamp.millis() - peek(&record.payload).event_timestamp.unwrap().millis();
        assert!(age <= 35 * 86_400_000);
        late += i32::from(age > 3_600_000);
        three_hours += i32::from(age > 3 * 3_600_000);
        hot += i32::from(record.key.as_deref() == Some(b"tenant-000000"));
    }
    // Of the 17,000 that are not broken: 3,400 late, 340 of them by more than three hours; half and a tenth of the other
    // half of the hot tenant.
    assert!((3_200..3_600).contains(&late), "{late} late");
    assert!((280..400).contains(&three_hours), "{three_hours} by more than three hours");
    assert!((9_000..9_700).contains(&hot), "{hot} of the hot tenant");
    assert!((900..1_100).contains(&broken[&Broken::NotJson]), "{broken:?}");
    assert!((1_900..2_100).contains(&broken[&Broken::NullField]), "{broken:?}");
}

#[test]
fn twice_is_twice() {
    let mut seen: BTreeMap<String, u32> = BTreeMap::new();
    for record in Traffic::new(TrafficConfig { events: 20_000, ..TrafficConfig::twice(9) }) {
        let id = std::str::from_utf8(&record.payload[13..49]).unwrap().to_owned();
        *seen.entry(id).or_default() += 1;
    }
    let twice = seen.values().filter(|count| **count == 2).count();
    assert!(seen.values().all(|count| *count <= 2) && twice > 7_500, "{twice} of {} were sent twice", seen.len());
}

#[test]
fn every_record_gets_the_code_it_was_made_for() {
    let mut made = BTreeMap::new();
    for seed in 0..4 {
        let config = TrafficConfig::trouble(seed);
        let records: Vec<TrafficRecord> = Traffic::new(config.clone()).collect();
        let batches = Traffic::new(config.clone()).to_batches(3, Framing::Topic { gaps: 0.05 }, 500);
        let tables = Reference::of(&batches, &Rules::default(), &config.catalog, Some(Routing::murmur2(3))).tables;
        // By payload and time, since the records are spread over partitions.
        let mut codes: BTreeMap<(Timestamp, Vec<u8>), Vec<String>> = BTreeMap::new();
        for row in tables.dead_letter.unwrap() {
            let payload = row.record.payload.unwrap_or_default().to_vec();
            codes.entry((row.record.timestamp, payload)).or_default().push(row.code);
        }
        for row in tables.quarantine.unwrap() {
            // Some events are the data of a CloudEvent.
            let envelope: BTreeMap<String, Box<RawValue>> = serde_json::from_slice(&row.payload).unwrap();
            let is_envelope = envelope.contains_key("specversion");
            let payload = if is_envelope { envelope["data"].get().as_bytes() } else { &row.payload };
            codes.entry((row.timestamp, payload.to_vec())).or_default().extend(row.errors);
        }
        for record in records {
            let got = codes.get(&(record.timestamp, record.payload.clone()));
            match record.broken {
                None => assert_eq!(got, None, "{}", String::from_utf8_lossy(&record.payload)),
                Some(broken) => {
                    *made.entry(broken).or_insert(0) += 1;
                    let found = got.is_some_and(|codes| codes.iter().any(|code| code.starts_with(broken.code())));
                    assert!(found, "{broken:?} got {got:?}: {}", String::from_utf8_lossy(&record.payload));
                }
            }
        }
    }
    assert!(Broken::ALL.iter().all(|broken| made.contains_key(broken)), "{made:?}");
}

#[test]
fn a_file_is_framed_as_a_reader_would() {
    let config = TrafficConfig::trouble(11);
    let mut before = Timestamp::EPOCH;
    let mut expected: BTreeMap<u64, (Timestamp, Option<Vec<u8>>)> = BTreeMap::new();
    for (line, record) in Traffic::new(config.clone()).enumerate().filter(|(_, record)| !record.payload.is_empty()) {
        let whole = record.payload_len == record.payload.len() as u64;
        let peeked = if whole { peek(&record.payload) } else { Default::default() };
        before = peeked.record_timestamp().unwrap_or(before);
        expected.insert(line as u64, (before, peeked.tenant_id.map(|tenant| tenant.into_owned().into_bytes())));
    }
    let batches = Traffic::new(config.clone()).to_batches(4, Framing::File, 100);
    let mut got = BTreeMap::new();
    for (batch, record) in batches.iter().flat_map(|batch| batch.iter().map(move |record| (batch, record))) {
        let partition = record.key().map_or(0, |key| subscription_core::murmur2_partition(key, 4));
        assert_eq!(batch.partition(), partition);
        got.insert(record.offset(), (record.timestamp(), record.key().map(<[u8]>::to_vec)));
    }
    assert_eq!(got, expected);
    for partition in 0..4 {
        let spans: Vec<_> = batches.iter().filter(|batch| batch.partition() == partition).collect();
        assert!(spans.windows(2).all(|pair| pair[0].to() == pair[1].from()));
        assert_eq!((spans[0].from(), spans[spans.len() - 1].to()), (0, config.events));
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(16))]

    #[test]
    fn cutting_changes_no_record(seed: u64, lengths in prop::collection::vec(1..60usize, 1..20), partitions in 1..5u32) {
        let config = TrafficConfig { events: 500, ..TrafficConfig::trouble(seed) };
        let batches = Traffic::new(config).to_batches(partitions, Framing::Topic { gaps: 0.1 }, 100);
        let mut lengths = lengths.into_iter().cycle();
        let parts = cut(&batches, || lengths.next().unwrap());
        prop_assert_eq!(contents(&batches), contents(&parts));
        for partition in 0..partitions {
            let of = |batches: &[RecordBatch]| -> Vec<(u64, u64)> {
                batches.iter().filter(|b| b.partition() == partition).map(|b| (b.from(), b.to())).collect()
            };
            let (whole, parts) = (of(&batches), of(&parts));
            prop_assert!(parts.windows(2).all(|pair| pair[0].1 == pair[1].0));
            prop_assert_eq!(whole.first().map(|span| span.0), parts.first().map(|span| span.0));
            prop_assert_eq!(whole.last().map(|span| span.1), parts.last().map(|span| span.1));
        }
    }
}
