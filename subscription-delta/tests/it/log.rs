//! The log, as other readers see it, and what long lives do to it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};

use subscription_core::{Clock, ErrorKind, Table, TableStore, Timestamp};
use subscription_delta::DeltaStore;

use crate::support::*;

/// What delta-rs itself sees of a table: its files with their tags, and the transaction of an application.
async fn seen_by_delta_rs(
    dir: &std::path::Path,
    table: Table,
    app: &str,
) -> (u64, BTreeMap<String, bool>, Option<i64>) {
    let url = url::Url::from_directory_path(dir.join("lake").join(table.name())).unwrap();
    let opened = deltalake::open_table(url).await.unwrap();
    let snapshot = opened.snapshot().unwrap();
    #[allow(deprecated, reason = "the tags are in no other form")]
    let files = snapshot
        .snapshot()
        .log_data()
        .iter()
        .map(|file| (file.path().to_string(), file.add_action().tags.is_some_and(|tags| tags.len() >= 2)))
        .collect();
    let txn = snapshot.snapshot().transaction_version(opened.log_store().as_ref(), app).await.unwrap();
    (snapshot.version(), files, txn)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn delta_rs_agrees_before_and_after_checkpoints() {
    let dir = tempfile::tempdir().unwrap();
    let lake = DeltaStore::open(config(dir.path()).checkpoint_interval(7).durable(false)).await.unwrap();
    let mut minutes = Vec::new();
    for round in 0..20u64 {
        let (from, to) = (round * 10, round * 10 + 10);
        lake.commit(step(&SILVER, 4, from, to)).await.unwrap();
        let mut gold = commit(&[Table::UsageMinute], &[(4, from, to)], &[]);
        gold.ranges = vec![range(Table::UsageMinute, 4, &[(0, "a"), (0, "b")], round as i64, &minutes)];
        minutes = lake.commit(gold.into()).await.unwrap().ranges;
        // Checkpoints are written beside the commits: give them the time to be part of the test.
        if round == 8 || round == 16 {
            let log = dir.path().join("lake/silver_api_usage/_delta_log");
            while !log.join("_last_checkpoint").exists() {
                tokio::task::yield_now().await;
            }
        }
    }
    // Silver in one file a date, the quarantine as it is.
    while lake.compact(Table::Silver, 1 << 20).await.unwrap().is_some() {}
    for table in [Table::Quarantine, Table::Silver, Table::UsageMinute] {
        let info = lake.info().await.unwrap().remove(table as usize);
        let (version, files, txn) = seen_by_delta_rs(dir.path(), table, &format!("pipeline/{TOPIC}/4")).await;
        assert_eq!((version, files.len() as u64, txn), (info.version, info.files, Some(200)));
        assert!(files.values().all(|tagged| *tagged), "tags survive checkpoints");
    }
    let log = dir.path().join("lake/silver_api_usage/_delta_log");
    let checkpoint = std::fs::read_dir(&log)
        .unwrap()
        .filter_map(|entry| entry.unwrap().file_name().into_string().ok())
        .filter(|name| name.ends_with(".checkpoint.parquet"))
        .max()
        .expect("a checkpoint");

    // What is below the newest checkpoint may be cleaned away.
    for entry in std::fs::read_dir(&log).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".json") && name[..20] <= checkpoint[..20] {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    let other = open(dir.path()).await;
    assert_eq!(other.info().await.unwrap(), lake.info().await.unwrap());
    let (mine, theirs) = (lake.state(TOPIC, &[4]).await.unwrap(), other.state(TOPIC, &[4]).await.unwrap());
    assert_eq!(mine, theirs);
    other.commit(step(&SILVER, 4, 200, 210)).await.unwrap();
    assert_eq!(lake.state(TOPIC, &[4]).await.unwrap()[0].position(Table::Silver), 210);

    // A hint that misleads costs a listing, not the table.
    std::fs::write(log.join("_last_checkpoint"), r#"{"version":999,"size":1}"#).unwrap();
    assert_eq!(open(dir.path()).await.state(TOPIC, &[4]).await.unwrap()[0].position(Table::Silver), 210);
    std::fs::write(log.join("_last_checkpoint"), "not json").unwrap();
    assert_eq!(open(dir.path()).await.state(TOPIC, &[4]).await.unwrap()[0].position(Table::Silver), 210);

    // A checkpoint that cannot be read is named.
    std::fs::write(log.join(&checkpoint), "PAR1").unwrap();
    let error = DeltaStore::open(config(dir.path())).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Corrupt, "{error:?}");
    assert!(error.to_string().contains(&checkpoint), "{error}");
}

struct HandClock(AtomicI64);

impl Clock for HandClock {
    fn now(&self) -> Timestamp {
        Timestamp::from_millis(self.0.load(Ordering::Relaxed))
    }

    fn monotonic_nanos(&self) -> u64 {
        0
    }
}

/// The log of a process that slept was cleaned behind its back: its next entry would lie below the checkpoint, unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_whose_log_was_cleaned_reads_it_anew() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(HandClock(AtomicI64::new(START)));
    let sleeper = DeltaStore::open(config(dir.path()).clock(clock.clone())).await.unwrap();
    sleeper.commit(step(&[Table::Silver], 0, 0, 10)).await.unwrap();
    let owner = DeltaStore::open(config(dir.path()).checkpoint_interval(2).durable(false)).await.unwrap();
    for at in 1..6 {
        owner.commit(step(&[Table::Silver], 0, at * 10, at * 10 + 10)).await.unwrap();
    }
    let log = dir.path().join("lake/silver_api_usage/_delta_log");
    let checkpoint = loop {
        let names = std::fs::read_dir(&log).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        if let Some(name) = names.filter(|name| name.ends_with(".checkpoint.parquet")).max() {
            break name;
        }
        tokio::task::yield_now().await;
    };
    for entry in std::fs::read_dir(&log).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".json") && name[..20] < checkpoint[..20] {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    clock.0.fetch_add(2 * 3_600_000, Ordering::Relaxed);
    let error = sleeper.commit(step(&[Table::Silver], 0, 10, 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    assert_eq!(sleeper.state(TOPIC, &[0]).await.unwrap()[0].position(Table::Silver), 60);
}

/// The same, asleep at the worst moment: between the look at the log and the put.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sleeper_that_puts_below_the_checkpoint_learns_of_it() {
    let dir = tempfile::tempdir().unwrap();
    let (store, clock) = (Faulty::new(), Arc::new(HandClock(AtomicI64::new(START))));
    let config_of_sleeper = config(dir.path()).clock(clock.clone()).object_store(store.clone());
    let sleeper = DeltaStore::open(config_of_sleeper).await.unwrap();
    sleeper.commit(step(&[Table::Silver], 0, 0, 10)).await.unwrap();
    store.plan("silver_api_usage/_delta_log", 1, Fault::Wait);
    let late = tokio::spawn(async move { sleeper.commit(step(&[Table::Silver], 0, 10, 20)).await });
    store.reached.acquire().await.unwrap().forget();
    let owner = DeltaStore::open(config(dir.path()).checkpoint_interval(5).durable(false)).await.unwrap();
    for at in 1..6 {
        owner.commit(step(&[Table::Silver], 0, at * 10, at * 10 + 10)).await.unwrap();
    }
    let log = dir.path().join("lake/silver_api_usage/_delta_log");
    let checkpoint = loop {
        let names = std::fs::read_dir(&log).unwrap().filter_map(|entry| entry.unwrap().file_name().into_string().ok());
        if let Some(name) = names.filter(|name| name.ends_with(".checkpoint.parquet")).max() {
            break name;
        }
        tokio::task::yield_now().await;
    };
    for entry in std::fs::read_dir(&log).unwrap() {
        let entry = entry.unwrap();
        let name = entry.file_name().into_string().unwrap();
        if name.ends_with(".json") && name[..20] < checkpoint[..20] {
            std::fs::remove_file(entry.path()).unwrap();
        }
    }
    clock.0.fetch_add(2 * 3_600_000, Ordering::Relaxed);
    store.go.add_permits(1);
    let error = late.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
    let rows = open(dir.path()).await.read_silver(TOPIC, 0, 0, u64::MAX, usize::MAX).await.unwrap();
    assert_eq!(rows.rows().len(), 42, "its rows are in nobody's table");
}
