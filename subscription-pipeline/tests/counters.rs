//! The counter path: what gateways decide by is what the lake says, also after either side has forgotten it.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use subscription_core::testkit::ManualClock;
use subscription_core::testkit::faults::{Faults, FaultyStore};
use subscription_core::*;
use subscription_pipeline::{Pipeline, PipelineEvent, runtime};

/// 2026-05-31T23:50:30Z.
const NOW: i64 = 1_780_271_430_000;

/// Counters in memory that can be lost, or away.
struct Forgetful {
    counters: Mutex<Arc<MemoryCounters>>,
    away: AtomicBool,
    /// How often they were asked in vain.
    refused: AtomicUsize,
    clock: Arc<ManualClock>,
}

impl Forgetful {
    fn new(clock: &Arc<ManualClock>) -> Arc<Self> {
        let counters = Mutex::new(Arc::new(MemoryCounters::with_clock(clock.clone())));
        let (away, refused) = (AtomicBool::new(false), AtomicUsize::new(0));
        Arc::new(Self { counters, away, refused, clock: clock.clone() })
    }

    fn now(&self) -> Arc<MemoryCounters> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn asked(&self) -> Result<Arc<MemoryCounters>> {
        if self.away.load(Ordering::Relaxed) {
            self.refused.fetch_add(1, Ordering::Relaxed);
            return Err(Error::new(ErrorKind::Unavailable, "nobody is there"));
        }
        Ok(self.now())
    }

    /// Waits until they were asked in vain so often.
    async fn until_refused(&self, times: usize) {
        while self.refused.load(Ordering::Relaxed) < times {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    fn forget(&self) {
        let none = Arc::new(MemoryCounters::with_clock(self.clock.clone()));
        *self.counters.lock().unwrap_or_else(PoisonError::into_inner) = none;
    }

    fn settled(&self, tenant: &str) -> [i64; 4] {
        let counters = self.now().counters(tenant);
        let TenantCounters { minute, previous_minute, hour, month, .. } = counters;
        [minute, previous_minute, hour, month].map(|counter| counter.settled)
    }

    /// Waits until the counters are these.
    async fn until(&self, tenant: &str, expected: [i64; 4]) {
        assert_eq!(self.wait(tenant, expected).await, expected, "{tenant}");
    }

    /// Waits until the counters are these, for a while; answers what they are.
    async fn wait(&self, tenant: &str, expected: [i64; 4]) -> [i64; 4] {
        for _ in 0..3_000 {
            if self.settled(tenant) == expected {
                break;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.settled(tenant)
    }
}

#[async_trait]
impl CounterStore for Forgetful {
    async fn check_and_add(&self, check: Check<'_>, deadline: Duration) -> Result<Decision> {
        self.asked()?.check_and_add(check, deadline).await
    }

    async fn add(&self, additions: &[Addition<'_>], deadline: Duration) -> Result<()> {
        CounterStore::add(&*self.asked()?, additions, deadline).await
    }

    async fn settle(&self, values: &[Settled<'_>], deadline: Duration) -> Result<()> {
        CounterStore::settle(&*self.asked()?, values, deadline).await
    }

    async fn counters(&self, tenant: &str, deadline: Duration) -> Result<TenantCounters> {
        CounterStore::counters(&*self.asked()?, tenant, deadline).await
    }
}

/// A source that has no end.
struct Endless(MemorySource);

#[async_trait]
impl Source for Endless {
    fn topic(&self) -> &str {
        self.0.topic()
    }

    async fn identity(&mut self) -> Result<SourceIdentity> {
        self.0.identity().await
    }

    async fn next(&mut self) -> Result<SourceEvent> {
        match self.0.next().await? {
            SourceEvent::End => std::future::pending().await,
            event => Ok(event),
        }
    }

    async fn start(&mut self, partition: u32, position: u64) -> Result<()> {
        self.0.start(partition, position).await
    }

    async fn acknowledge(&mut self, positions: &[(u32, u64)]) -> Result<()> {
        self.0.acknowledge(positions).await
    }

    async fn release(&mut self, partitions: &[u32]) -> Result<()> {
        self.0.release(partitions).await
    }
}

/// Events of (tenant, seconds before now, status, quota cost).
fn records(events: &[(&str, i64, u16, i64)]) -> RecordBatch {
    let mut batch = RecordBatch::builder("usage".into(), 0, 0);
    for (n, (tenant, ago, status, cost)) in events.iter().enumerate() {
        let at = Timestamp::from_millis(NOW - ago * 1_000);
        let payload = format!(
            r#"{{"event_id":"00000000-0000-4000-8000-{n:012}","event_timestamp":"{at}","tenant_id":"{tenant}",
            "api_key_id":"k","endpoint":"/v1","http_method":"GET","response_status_code":{status},
            "response_time_ms":1,"subscription_plan":"pro","quota_cost":{cost}}}"#
        );
        batch.push(n as u64, Timestamp::from_millis(NOW), Some(tenant.as_bytes()), Some(payload.as_bytes()));
    }
    batch.finish(events.len() as u64)
}

fn pipeline(source: impl Source + 'static, lake: &MemoryStore, counters: &Arc<Forgetful>) -> Pipeline {
    pipeline_with(source, lake.handle(), counters)
}

fn pipeline_with(
    source: impl Source + 'static,
    lake: impl TableStore + 'static,
    counters: &Arc<Forgetful>,
) -> Pipeline {
    Pipeline::builder()
        .source(source)
        .store(Arc::new(lake))
        .counters(counters.clone())
        .clock(counters.clock.clone())
        .build()
        .expect("a pipeline")
}

const EVENTS: [(&str, i64, u16, i64); 8] = [
    ("acme", 1, 200, 3),
    ("acme", 2, 429, 50),
    ("acme", 3, 500, 1),
    ("acme", 40, 200, 7),
    ("acme", 150, 200, 11),
    ("acme", 3 * 3_600, 200, 13),
    ("other", 29, 200, 1),
    ("past", 40 * 24 * 3_600, 200, 5),
];

/// Denied requests count for nothing; windows that are over are not told.
const ACME: [i64; 4] = [4, 7, 22, 35];
const OTHER: [i64; 4] = [1, 0, 1, 1];

#[test]
fn counters_are_the_lakes_without_waiting_for_it_and_come_back() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW)));
    let counters = Forgetful::new(&clock);
    let lake = MemoryStore::new();
    let records = vec![records(&EVENTS)];
    runtime().expect("a runtime").block_on(async {
        // This clock stands still, so nothing is committed before the end: what is told waits for no commit.
        let source = Endless(MemorySource::new("usage", records.clone()));
        let told = counters.clone();
        let store = lake.handle();
        let stop = async move {
            told.until("acme", ACME).await;
            told.until("other", OTHER).await;
            assert_eq!(store.state("usage", &[0]).await.expect("a state")[0].position(Table::UsageMonth), 0);
            told.forget();
            told.until("acme", ACME).await;
            told.until("other", OTHER).await;
        };
        pipeline(source, &lake, &counters).run(stop).await.expect("a run");
        assert_eq!(counters.settled("past"), [0; 4]);

        // Both ends are started anew, and nobody sends anything.
        counters.forget();
        pipeline(MemorySource::new("usage", records), &lake, &counters)
            .run(std::future::pending())
            .await
            .expect("a run");
        assert_eq!((counters.settled("acme"), counters.settled("other")), (ACME, OTHER));
    });
}

/// What the lake is asked about late events holds up neither the others of their batch nor the batches after it, and
/// what is told meanwhile is never too much.
#[test]
fn lookups_hold_up_no_counter() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW)));
    let late = ("acme", 2 * 3_600, 200, 100);
    let more = [late, ("acme", 4, 200, 1), ("acme", 5, 429, 9), ("acme", 41, 200, 2), ("other", 7, 200, 2)];
    let events = [&EVENTS[..], &more, &[("acme", 6, 200, 1), ("new", 8, 200, 5)]].concat();
    // All of them once more, so all of them duplicates, and a new one behind.
    let (all, last) = (records(&events), records(&[&events[..], &[("acme", 9, 200, 1)]].concat()));
    let mut batch = RecordBatch::builder("usage".into(), 0, 0);
    let last = last.iter().filter(|record| record.offset() == all.to());
    for record in all.iter().chain(all.iter()).chain(last) {
        batch.push(batch.position(), record.timestamp(), record.key(), record.payload());
    }
    let to = batch.position();
    let batch = batch.finish(to);
    let expected = |late: i64| [7, 9, 27, 40 + late];

    // The first load is that of the open windows at the start.
    for (held, number) in [("lookup", 0), ("load", 1)] {
        println!("{held} is held");
        let (counters, lake) = (Forgetful::new(&clock), MemoryStore::new());
        runtime().expect("a runtime").block_on(async {
            let before = MemorySource::new("usage", vec![records(&EVENTS)]);
            pipeline(before, &lake, &counters).run(std::future::pending()).await.expect("a run");
            counters.forget();

            let faults = Faults::new().hold(held, number);
            let source = MemorySource::new("usage", vec![batch.clone()]).with_cuts(|| 4);
            let store = FaultyStore::new(lake.handle(), faults.clone());
            let stop = async {
                let told = [("acme", expected(0)), ("other", [3, 0, 3, 3]), ("new", [5, 0, 5, 5])];
                let mut found = Vec::new();
                for (tenant, expected) in told {
                    found.push((tenant, counters.wait(tenant, expected).await));
                }
                let calls = faults.calls();
                // Before anything fails, or the worker would wait for ever.
                faults.release();
                assert_eq!(found, told);
                assert!(calls.iter().filter(|call| **call == held).count() as u64 > number, "{calls:?}");
                counters.until("acme", expected(100)).await;
            };
            pipeline_with(Endless(source), store, &counters).run(stop).await.expect("a run");
        });
    }
}

/// Counters that are away are tried several times a second, and said to be away once in ten.
#[test]
fn counters_that_are_away_are_not_told_of_at_every_try() {
    let clock = Arc::new(ManualClock::new(Timestamp::from_millis(NOW)));
    let counters = Forgetful::new(&clock);
    counters.away.store(true, Ordering::Relaxed);
    runtime().expect("a runtime").block_on(async {
        let source = Endless(MemorySource::new("usage", vec![records(&EVENTS)]));
        let pipeline = pipeline(source, &MemoryStore::new(), &counters);
        let mut events = pipeline.events();
        let stop = async {
            counters.until_refused(5).await;
            clock.advance_millis(10_000);
            counters.until_refused(10).await;
            counters.away.store(false, Ordering::Relaxed);
            counters.until("acme", ACME).await;
        };
        pipeline.run(stop).await.expect("a run");
        let mut said = 0;
        while let Some(event) = events.next().await {
            said += usize::from(matches!(event, PipelineEvent::Retrying { what: "settle counters", .. }));
        }
        assert_eq!(said, 2);
    });
}
