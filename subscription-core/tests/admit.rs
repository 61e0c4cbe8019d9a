//! The admit engine against the definition of its verdicts, as plain loops over all records.

use std::sync::Arc;

use proptest::prelude::*;
use subscription_core::testkit::block_on;
use subscription_core::*;
use uuid::Uuid;

const TOPIC: &str = "usage";
const PARTITION: u32 = 3;
const HOUR: i64 = 3_600_000;
const DAY: i64 = 24 * HOUR;
/// 2023-11-14T22:13:20Z
const START: i64 = 1_700_000_000_000;

/// A record to be sent.
#[derive(Debug, Clone)]
struct Sent {
    offset: u64,
    ingestion: Timestamp,
    payload: Option<Vec<u8>>,
    kind: Kind,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Event { tenant: u8, id: u8, time: Timestamp },
    Quarantine,
    Dead,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Accepted,
    Duplicate,
    Quarantined,
    Dead,
}

/// The verdicts as `docs/semantics.md` defines them, the watermark at the end, and the offsets accepted behind it.
fn expected(sent: &[Sent]) -> (Vec<Verdict>, Option<Timestamp>, Vec<u64>) {
    let mut behind = Vec::new();
    let mut accepted: Vec<(u8, u8, Timestamp)> = Vec::new();
    let mut watermark: Option<Timestamp> = None;
    let verdicts = sent.iter().map(|record| match record.kind {
        Kind::Dead => Verdict::Dead,
        Kind::Quarantine => Verdict::Quarantined,
        Kind::Event { tenant, id, time } => {
            let on_time = watermark.is_none_or(|watermark| time >= watermark);
            let known = accepted.iter().any(|(t, i, at)| {
                (*t, *i) == (tenant, id) && if on_time { Some(*at) >= watermark } else { *at == time }
            });
            if known {
                return Verdict::Duplicate;
            }
            accepted.push((tenant, id, time));
            if !on_time {
                behind.push(record.offset);
            }
            watermark = watermark.max(Some(time.plus_millis(-HOUR)));
            Verdict::Accepted
        }
    });
    (verdicts.collect(), watermark, behind)
}

fn event_json(tenant: u8, id: u8, time: Timestamp, extra: u8) -> Vec<u8> {
    let extra = match extra % 4 {
        0 => "",
        1 => r#", "user_agent": "caf\u00e9 \"x\"", "labels": {"a\n": "1", "b": "\ud83d\ude00", "a\n": "2"}"#,
        2 => r#", "labels": {}, "region": "", "billable_units": 1.5, "velocity_last_1min": 3"#,
        _ => r#", "risk_score": 0.25, "quota_cost": 0, "user_agent": "curl/8", "country_code": "SE"}"#
            .trim_end_matches('}'),
    };
    let event_id = Uuid::from_u128(0x1000 + u128::from(id));
    format!(
        r#"{{"event_id": "{event_id}", "event_timestamp": "{time}", "tenant_id": "tenant-{tenant}", "api_key_id": "k",
        "endpoint": "/v1", "http_method": "GET", "response_status_code": 200, "response_time_ms": 1.5,
        "subscription_plan": "pro"{extra}}}"#
    )
    .into_bytes()
}

fn records() -> impl Strategy<Value = Vec<Sent>> {
    let kind = prop_oneof![
        20 => (0u8..3, 0u8..16, prop_oneof![
            6 => -75 * 60_000i64..5_000,
            2 => -6 * HOUR..0,
            1 => -34 * DAY..0,
            // Times that meet, so that late retries are found at exactly theirs.
            6 => (-300i64..=0).prop_map(|n| n * 1_200_000),
        ]).prop_map(|(tenant, id, at)| (0u8, tenant, id, at)),
        1 => (1u8..5).prop_map(|kind| (kind, 0, 0, 0)),
    ];
    let step = prop_oneof![10 => 0i64..120_000, 2 => 0i64..HOUR, 1 => 0i64..3 * DAY];
    prop::collection::vec((step, 1u64..4, kind, any::<u8>()), 1..250).prop_map(|records| {
        let (mut now, mut offset) = (START, 0);
        let mut sent = Vec::new();
        for (step, gap, (kind, tenant, id, at), extra) in records {
            // In steps of 20 minutes most of the time, so that times meet.
            now = if extra % 8 == 0 { now + step } else { (now + step) / 1_200_000 * 1_200_000 };
            offset += gap;
            let ingestion = Timestamp::from_millis(now);
            let time = ingestion.plus_millis(at);
            let (kind, payload) = match kind {
                0 => (Kind::Event { tenant, id, time }, Some(event_json(tenant, id, time, extra))),
                1 => (Kind::Dead, Some(b"\xff{".to_vec())),
                2 => (Kind::Dead, None),
                3 => (Kind::Quarantine, Some(br#"{"event_id": 7, "tenant_id": "x"}"#.to_vec())),
                _ => (Kind::Quarantine, Some(event_json(1, 1, ingestion.plus_millis(-36 * DAY), 0))),
            };
            sent.push(Sent { offset, ingestion, payload, kind });
        }
        sent
    })
}

fn batch(sent: &[Sent], from: u64) -> RecordBatch {
    let mut batch = RecordBatch::builder(TOPIC.into(), PARTITION, from);
    for record in sent {
        batch.push(record.offset, record.ingestion, None, record.payload.as_deref());
    }
    let to = batch.position();
    batch.finish(to)
}

/// A process: an engine, its store and what it has not committed.
struct Process {
    config: Arc<EngineConfig>,
    store: MemoryStore,
    engine: AdmitEngine,
    pending: Vec<Arc<Admitted>>,
    committed: u64,
}

impl Process {
    fn start(config: Arc<EngineConfig>, store: MemoryStore) -> Self {
        let state = block_on(store.state(TOPIC, &[PARTITION])).unwrap().remove(0);
        let silver = state.table(Table::Silver);
        let count = |counter| silver.counter(counter).unwrap_or(0) as u64;
        let start = AdmitStart {
            position: silver.position,
            counts: Counts {
                read: count(Counter::Read),
                dead_lettered: count(Counter::DeadLettered),
                accepted: count(Counter::Accepted),
                duplicates: count(Counter::Duplicates),
                quarantined: count(Counter::Quarantined),
            },
            watermark: silver.counter(Counter::Watermark).map(Timestamp::from_millis),
            ingestion_time: silver.counter(Counter::IngestionTime).map(Timestamp::from_millis),
        };
        let mut engine = AdmitEngine::new(config.clone(), TOPIC.into(), PARTITION, start);
        let since = start.watermark.unwrap_or(Timestamp::MIN);
        engine.remember(&block_on(store.read_ids(TOPIC, &[(PARTITION, since)])).unwrap()[0]);
        Self { config, store, engine, pending: Vec::new(), committed: start.position }
    }

    /// `commit_between` makes rows visible between the questions and their answers' use.
    fn admit(&mut self, records: RecordBatch, commit_between: bool) {
        let mut prepared = AdmitEngine::prepare(&self.config, records);
        let questions = self.engine.lookups(&mut prepared);
        let answers = block_on(self.store.lookup(TOPIC, &questions)).unwrap();
        if commit_between {
            self.commit();
        }
        let admitted = self.engine.apply(prepared, &answers).unwrap();
        self.pending.push(Arc::new(admitted));
    }

    fn commit(&mut self) {
        let Some(last) = self.pending.last() else { return };
        let (to, counts) = (last.records.to(), last.counts);
        let mut counters = vec![
            (Counter::IngestionTime, self.engine.ingestion_time().unwrap().millis()),
            (Counter::Read, counts.read as i64),
            (Counter::DeadLettered, counts.dead_lettered as i64),
            (Counter::Accepted, counts.accepted as i64),
            (Counter::Duplicates, counts.duplicates as i64),
            (Counter::Quarantined, counts.quarantined as i64),
        ];
        counters.extend(last.watermark.map(|watermark| (Counter::Watermark, watermark.millis())));
        let spans = vec![TableSpan { partition: PARTITION, from: self.committed, to, counters }];
        let tables = [Table::DeadLetter, Table::Bronze, Table::Quarantine, Table::Silver];
        let tables = tables.map(|table| TableCommit { table, spans: spans.clone() }).to_vec();
        let admitted = std::mem::take(&mut self.pending);
        let commit = Commit { topic: TOPIC.into(), tables, admitted, ranges: Vec::new() };
        block_on(self.store.commit(commit.into())).unwrap();
        self.committed = to;
        self.engine.visible(to);
    }
}

#[derive(Debug, Clone, Copy)]
enum After {
    Go,
    Commit,
    CommitBetween,
    Crash,
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    /// The same rows and counts whatever the cut into batches, the commits, the crashes and the limits.
    #[test]
    fn verdicts_are_those_of_the_definition(
        sent in records(),
        steps in prop::collection::vec((1usize..30, prop_oneof![
            3 => Just(After::Go), 3 => Just(After::Commit), 1 => Just(After::CommitBetween), 1 => Just(After::Crash)
        ]), 1..40),
        max_ids in prop_oneof![0usize..40, Just(100_000)],
        max_filter_bytes in prop_oneof![0usize..3_000, Just(1 << 20)],
    ) {
        let limits = AdmitLimits::new(max_ids, max_filter_bytes, 1);
        let config = Arc::new(EngineConfig { limits, ..EngineConfig::default() });
        let mut process = Process::start(config.clone(), MemoryStore::new());
        let mut steps = steps.into_iter().cycle();
        let mut crashes = 0;
        let (verdicts, watermark, behind) = expected(&sent);
        loop {
            let position = process.engine.position();
            let next = sent.partition_point(|record| record.offset < position);
            let (size, mut after) = steps.next().unwrap();
            if next == sent.len() {
                break;
            }
            let end = sent.len().min(next + size);
            if matches!(after, After::Crash) {
                crashes += 1;
                // So that a run without any commit ends.
                if crashes > 10 {
                    after = After::Commit;
                }
            }
            // Of batches that wait for answers those that do not depend on them are known: all that are not late, but for
            // what is beyond the limit of memory.
            if size % 5 == 0 {
                let mut ahead = Ahead::default();
                let waiting = [batch(&sent[next..end], position), batch(&sent[end..], sent[end - 1].offset + 1)];
                let mut sure = Vec::new();
                for records in waiting {
                    let rows = process.engine.ahead(&AdmitEngine::prepare(&config, records), &mut ahead);
                    sure.extend(rows.rows().iter().map(|row| row.offset));
                }
                let rest = sent.iter().zip(&verdicts).skip(next);
                let mut accepted = rest.filter(|(_, verdict)| **verdict == Verdict::Accepted).map(|(record, _)| record.offset);
                if max_ids == 100_000 {
                    prop_assert_eq!(&sure, &accepted.filter(|offset| !behind.contains(offset)).collect::<Vec<_>>());
                } else {
                    prop_assert!(sure.iter().all(|offset| accepted.any(|accepted| accepted == *offset)));
                }
            }
            process.admit(batch(&sent[next..end], position), matches!(after, After::CommitBetween));
            match after {
                After::Commit => process.commit(),
                After::Crash => process = Process::start(config.clone(), process.store.handle()),
                After::Go | After::CommitBetween => {}
            }
        }
        process.commit();

        let count = |verdict| verdicts.iter().filter(|v| **v == verdict).count() as u64;
        let counts = Counts {
            read: sent.len() as u64,
            dead_lettered: count(Verdict::Dead),
            accepted: count(Verdict::Accepted),
            duplicates: count(Verdict::Duplicate),
            quarantined: count(Verdict::Quarantined),
        };
        prop_assert_eq!(process.engine.counts(), counts);
        prop_assert_eq!(process.engine.watermark(), watermark);
        prop_assert_eq!(process.engine.ingestion_time(), sent.iter().map(|record| record.ingestion).max());

        let offsets = |verdicts_wanted: &[Verdict]| -> Vec<u64> {
            let chosen = sent.iter().zip(&verdicts).filter(|(_, verdict)| verdicts_wanted.contains(verdict));
            chosen.map(|(record, _)| record.offset).collect()
        };
        let tables = process.store.tables(TOPIC);
        let silver: Vec<u64> = tables.silver.iter().map(|row| row.offset).collect();
        let bronze: Vec<u64> = tables.bronze.iter().map(|row| row.offset).collect();
        let dead: Vec<u64> = tables.dead_letter.iter().map(|row| row.record.offset).collect();
        let quarantine: Vec<u64> = tables.quarantine.iter().map(|row| row.record.offset).collect();
        prop_assert_eq!(silver, offsets(&[Verdict::Accepted]));
        prop_assert_eq!(bronze, offsets(&[Verdict::Accepted, Verdict::Duplicate, Verdict::Quarantined]));
        prop_assert_eq!(dead, offsets(&[Verdict::Dead]));
        prop_assert_eq!(quarantine, offsets(&[Verdict::Quarantined]));
        for row in &tables.silver {
            let record = sent.iter().find(|record| record.offset == row.offset).unwrap();
            let Judged::Valid(mut event) = judge(record.payload.as_ref().unwrap()) else { panic!("not valid") };
            event.ingestion_timestamp = None;
            prop_assert_eq!(&row.event, &*event);
            prop_assert_eq!(row.ingestion_timestamp, record.ingestion);
            let age = record.ingestion.millis() - event.event_timestamp.millis();
            prop_assert_eq!(row.is_late, age > HOUR);
        }
    }
}

fn engine(config: &Arc<EngineConfig>, position: u64) -> AdmitEngine {
    let start = AdmitStart { position, ..AdmitStart::default() };
    AdmitEngine::new(config.clone(), TOPIC.into(), PARTITION, start)
}

fn one(offset: u64, payload: &[u8]) -> RecordBatch {
    let payload = Some(payload.to_vec());
    batch(&[Sent { offset, ingestion: Timestamp::from_millis(START), payload, kind: Kind::Dead }], offset)
}

#[test]
fn batches_must_not_overlap_but_may_leave_gaps() {
    let config = Arc::new(EngineConfig::default());
    let mut engine = engine(&config, 10);
    let mut apply = |records: RecordBatch| {
        let mut prepared = AdmitEngine::prepare(&config, records);
        engine.lookups(&mut prepared);
        engine.apply(prepared, &[]).map(|admitted| admitted.records.to())
    };
    let error = apply(one(9, b"{}")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Invariant);
    assert!(error.to_string().contains("overlap"), "{error}");
    assert_eq!(apply(one(10, b"{}")).unwrap(), 11);
    assert_eq!(apply(one(20, b"{}")).unwrap(), 21);
    let other = RecordBatch::builder(TOPIC.into(), PARTITION + 1, 21).finish(30);
    assert_eq!(apply(other).unwrap_err().kind(), ErrorKind::Invariant);
}

#[test]
fn answers_must_be_those_asked_for() {
    let config = Arc::new(EngineConfig::default());
    let mut engine = engine(&config, 0);
    let mut prepared = AdmitEngine::prepare(&config, one(0, b"{}"));
    engine.lookups(&mut prepared);
    assert_eq!(engine.apply(prepared, &[vec![]]).unwrap_err().kind(), ErrorKind::Invariant);
    let unasked = AdmitEngine::prepare(&config, one(0, b"{}"));
    assert_eq!(engine.apply(unasked, &[]).unwrap_err().kind(), ErrorKind::Invariant);
}

#[test]
fn long_records_are_dead_letters() {
    let mut records = RecordBatch::builder(TOPIC.into(), PARTITION, 0);
    let start = vec![b' '; 5_000];
    records.push_truncated(0, Timestamp::EPOCH, None, Some(&start), MAX_PAYLOAD_BYTES + 1);
    let longest = [&b"{}"[..], &vec![b' '; MAX_PAYLOAD_BYTES as usize - 2]].concat();
    records.push(1, Timestamp::EPOCH, None, Some(&longest));
    let config = Arc::new(EngineConfig::default());
    let mut engine = engine(&config, 0);
    let mut prepared = AdmitEngine::prepare(&config, records.finish(2));
    engine.lookups(&mut prepared);
    let admitted = engine.apply(prepared, &[]).unwrap();
    assert_eq!((admitted.dead.len(), admitted.dead[0].code), (1, "too_large"));
    assert_eq!(admitted.records.get(0).payload().unwrap().len(), TOO_LARGE_KEPT_BYTES);
    assert_eq!(admitted.quarantined[0].index, 1);
}

#[test]
fn quarantine_keeps_ids_as_given_and_knows_where_tenants_belong() {
    let payload = |id: &str| {
        let event = String::from_utf8(event_json(1, 0, Timestamp::from_millis(START), 0)).unwrap();
        event.replace("00000000-0000-0000-0000-000000001000", id).into_bytes()
    };
    let given = "00000000-0000-0000-0000-00000000ABCD";
    let home = murmur2_partition(b"tenant-1", 8);
    let judged = |partitions: Option<u32>, partition: u32| {
        let routing = partitions.map(Routing::murmur2);
        let config = Arc::new(EngineConfig { routing, ..EngineConfig::default() });
        let mut records = RecordBatch::builder(TOPIC.into(), partition, 0);
        records.push(0, Timestamp::from_millis(START), None, Some(&payload(given)));
        let mut engine = AdmitEngine::new(config.clone(), TOPIC.into(), partition, AdmitStart::default());
        let mut prepared = AdmitEngine::prepare(&config, records.finish(1));
        engine.lookups(&mut prepared);
        engine.apply(prepared, &[]).unwrap().quarantined
    };
    assert!(judged(Some(8), home).is_empty());
    assert!(judged(None, home + 1).is_empty());
    let quarantined = judged(Some(8), home + 1);
    assert_eq!(quarantined[0].errors, ["misrouted:tenant_id"]);
    assert_eq!(quarantined[0].event_id.as_deref(), Some(given));
    assert_eq!(quarantined[0].tenant_id.as_deref(), Some("tenant-1"));
}
