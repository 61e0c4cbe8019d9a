//! Where reading begins: gaps, sources that are not what they were, and placement that has to be found out first.

use std::sync::Arc;

use subscription_core::{
    Counter, Error, ErrorKind, MemorySource, MemoryStore, Partitioner, Placement, RecordBatch, Routing, Survey, Table,
    TableStore, Timestamp,
};
use subscription_pipeline::{OnGap, Pipeline, PipelineConfig, PipelineEvent, RunReport};

/// Events of one tenant at these offsets.
fn records(tenant: &str, offsets: std::ops::Range<u64>) -> RecordBatch {
    let mut batch = RecordBatch::builder("usage".into(), 0, 0);
    for n in offsets.clone() {
        let payload = format!(
            r#"{{"event_id":"00000000-0000-4000-8000-{n:012}","event_timestamp":"2026-01-05T08:00:00Z","tenant_id":"{tenant}","api_key_id":"k","endpoint":"/v1/x","http_method":"GET","response_status_code":200,"response_time_ms":1.5,"subscription_plan":"free"}}"#
        );
        let time = Timestamp::from_millis(1_767_600_000_000);
        batch.push(n, time, Some(tenant.as_bytes()), Some(payload.as_bytes()));
    }
    batch.finish(offsets.end)
}

fn run(store: &Arc<MemoryStore>, source: MemorySource, on_gap: OnGap) -> Result<RunReport, Error> {
    let mut config = PipelineConfig::default();
    config.on_gap = on_gap;
    let pipeline = Pipeline::builder().source(source).store(store.clone()).config(config).build().unwrap();
    subscription_pipeline::runtime().unwrap().block_on(pipeline.run(std::future::pending()))
}

fn skipped(store: &MemoryStore) -> Option<i64> {
    let states = subscription_pipeline::runtime().unwrap().block_on(store.state("usage", &[0])).unwrap();
    states[0].table(Table::Bronze).counter(Counter::Skipped)
}

#[test]
fn a_gap_is_an_error_unless_it_is_to_be_skipped_and_is_then_counted_once() {
    let store = Arc::new(MemoryStore::new());
    let source = |to, first| MemorySource::new("usage", vec![records("acme", 0..to)]).forgetting(&[first]);
    run(&store, source(100, 0), OnGap::Fail).unwrap();
    // What is gone was read: no gap, also where nothing is left to compare with.
    for first in [50, 99, 100] {
        run(&store, source(100, first), OnGap::Fail).unwrap();
    }
    let error = run(&store, source(150, 120), OnGap::Fail).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Gap);
    assert!(error.to_string().starts_with("20 records are gone"), "{error}");
    assert_eq!(skipped(&store), None);

    let report = run(&store, source(150, 120), OnGap::Skip).unwrap();
    assert_eq!((report.progress.read, report.positions), (30, vec![(0, 150)]));
    assert_eq!(skipped(&store), Some(20));
    run(&store, source(160, 130), OnGap::Fail).unwrap();
    // All that is left is gone too.
    run(&store, source(200, 200), OnGap::Skip).unwrap();
    assert_eq!(skipped(&store), Some(60));
    let counts = run(&store, source(200, 200), OnGap::Fail).unwrap().progress.counts;
    assert!(counts.balanced());
    assert_eq!(store.tables("usage").bronze.len(), 140);
}

#[test]
fn where_a_new_lake_begins_is_kept() {
    let store = Arc::new(MemoryStore::new());
    let survey = Survey { placement: Some(Placement::Unchecked), starts: vec![(0, 30)] };
    let source = |to, first| {
        MemorySource::new("usage", vec![records("acme", 0..to)]).forgetting(&[first]).surveyed([survey.clone()])
    };
    // Nothing is there yet, so nothing is read; what goes missing after that is known to be missing.
    run(&store, source(30, 30), OnGap::Fail).unwrap();
    let error = run(&store, source(60, 40), OnGap::Fail).unwrap_err();
    assert!(error.to_string().starts_with("10 records are gone"), "{error}");
    run(&store, source(60, 40), OnGap::Skip).unwrap();
    assert_eq!(skipped(&store), Some(10));
}

#[test]
fn a_source_that_ends_before_the_position_is_another() {
    let store = Arc::new(MemoryStore::new());
    run(&store, MemorySource::new("usage", vec![records("acme", 0..100)]).forgetting(&[0]), OnGap::Fail).unwrap();
    for on_gap in [OnGap::Fail, OnGap::Skip] {
        for first in [0, 80] {
            let source = MemorySource::new("usage", vec![records("acme", 0..90)]).forgetting(&[first]);
            let error = run(&store, source, on_gap).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::Mismatch, "{error}");
            assert!(error.to_string().contains("ends before"), "{error}");
        }
        let source = MemorySource::new("usage", vec![records("other", 0..200)]).forgetting(&[0]);
        assert_eq!(run(&store, source, on_gap).unwrap_err().kind(), ErrorKind::Mismatch);
    }
}

/// The first look finds nothing to tell by. No record is judged before there is.
#[test]
fn records_wait_until_it_is_known_where_they_belong() {
    let routing = Routing { partitioner: Partitioner::Crc32, partitions: 2 };
    let tenants: Vec<String> = (0..100).map(|n| format!("tenant-{n}")).collect();
    let of = |partition: u32| tenants.iter().find(|tenant| routing.partition(tenant) == partition).unwrap();
    let known = Survey { placement: Some(Placement::ByKey(Partitioner::Crc32)), starts: Vec::new() };
    let store = Arc::new(MemoryStore::new());
    // Both tenants are where they belong; then the second is in the first one's partition.
    let source = |first: &str, to: u64| MemorySource::new("usage", vec![records(first, 0..to), records(of(1), 0..10)]);
    let unknown = Survey::default();
    let report = run(&store, source(of(0), 10).surveyed([unknown, known]), OnGap::Fail).unwrap();
    assert_eq!((report.progress.counts.accepted, report.progress.counts.quarantined), (20, 0));

    // Kept, and never found out again: this source would say something else.
    let other = Survey { placement: Some(Placement::ByKey(Partitioner::Fnv1a)), starts: Vec::new() };
    let mut astray = RecordBatch::builder("usage".into(), 0, 0);
    records(of(0), 0..10).iter().chain(records(of(1), 10..13).iter()).for_each(|record| astray.push_record(&record));
    let source = MemorySource::new("usage", vec![astray.finish(13), records(of(1), 0..10)]).surveyed([other]);
    let pipeline = Pipeline::builder().source(source).store(store.clone()).build().unwrap();
    let mut events = pipeline.events();
    let runtime = subscription_pipeline::runtime().unwrap();
    let report = runtime.block_on(pipeline.run(std::future::pending())).unwrap();
    assert_eq!(report.progress.counts.quarantined, 3);
    let told = runtime.block_on(async {
        while let Some(event) = events.next().await {
            if let PipelineEvent::Misrouted { partition, records, tenant_id, belongs_to, partitioner } = event {
                return Some((partition, records, tenant_id, belongs_to, partitioner));
            }
        }
        None
    });
    assert_eq!(told, Some((0, 3, of(1).clone(), 1, Partitioner::Crc32)));
}
