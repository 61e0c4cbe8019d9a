//! Merged files, and files that are deleted.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::TryStreamExt as _;
use subscription_core::testkit::ManualClock;
use subscription_core::{Clock as _, ErrorKind, SystemClock, Table, TableStore};
use subscription_delta::arrow::json::LineDelimitedWriter;
use subscription_delta::{DeltaStore, Scan};

use crate::support::*;

const TARGET: u64 = 1 << 20;
const ROW_TABLES: [Table; 4] = [Table::DeadLetter, Table::Bronze, Table::Quarantine, Table::Silver];

/// A lake on a disk that nobody waits for.
async fn quick(dir: &Path) -> DeltaStore {
    DeltaStore::open(config(dir).durable(false)).await.unwrap()
}

/// Records of a partition in a commit.
const ROWS: u64 = 40;

/// Commits of two partitions, as those of a pipeline.
async fn fill(lake: &DeltaStore, commits: std::ops::Range<u64>) {
    for n in commits {
        let (from, to) = (n * ROWS, n * ROWS + ROWS);
        let rows = [admitted(0, from, to), admitted(1, from, to)];
        for tables in [&BRONZE, &SILVER] {
            lake.commit(commit(tables, &[(0, from, to), (1, from, to)], &rows).into()).await.unwrap();
        }
    }
}

async fn compact(lake: &DeltaStore) -> u64 {
    let mut merged = 0;
    for table in Table::ALL {
        while let Some(done) = lake.compact(table, TARGET).await.unwrap() {
            assert!(done.files > 1 && done.bytes_after > 0 && done.bytes_after < done.bytes_before);
            merged += done.files;
        }
    }
    merged
}

/// The rows of each table as text, sorted.
async fn rows(lake: &DeltaStore) -> BTreeMap<&'static str, Vec<String>> {
    let mut tables = BTreeMap::new();
    for table in ROW_TABLES {
        let batches: Vec<_> = lake.scan(table, Scan::default()).await.unwrap().try_collect().await.unwrap();
        let mut lines = LineDelimitedWriter::new(Vec::new());
        batches.iter().for_each(|batch| lines.write(batch).unwrap());
        lines.finish().unwrap();
        let text = String::from_utf8(lines.into_inner()).unwrap();
        let mut rows: Vec<_> = text.lines().map(str::to_owned).collect();
        rows.sort_unstable();
        tables.insert(table.name(), rows);
    }
    tables
}

async fn files(lake: &DeltaStore) -> Vec<u64> {
    let infos = lake.info().await.unwrap();
    ROW_TABLES.iter().map(|table| infos.iter().find(|info| info.table == *table).unwrap().files).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_small_files_become_one_a_date_with_the_same_rows() {
    let dir = tempfile::tempdir().unwrap();
    let (lake, other) = (quick(dir.path()).await, quick(dir.path()).await);
    fill(&lake, 0..60).await;
    let (before, rows_before) = (files(&lake).await, rows(&lake).await);
    // Half an hour before midnight it begins, and some events are late: rows are of two dates.
    assert!(before.iter().all(|files| *files >= 60), "{before:?}");
    assert!(compact(&lake).await >= before.iter().sum::<u64>());
    assert_eq!(files(&lake).await, [2, 2, 2, 2]);
    assert_eq!(rows(&lake).await, rows_before);
    assert_eq!(rows(&open(dir.path()).await).await, rows_before, "read anew");
    assert_eq!(compact(&lake).await, 0, "nothing is left to merge");

    // Who wrote before goes on, and reads what it reads by offset.
    fill(&other, 60..63).await;
    for partition in [0, 1] {
        let silver = other.read_silver(TOPIC, partition, 0, u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(shown(&silver), shown(&admitted(partition, 0, 63 * ROWS).accepted));
        let bronze = other.read_bronze(TOPIC, partition, 234, usize::MAX).await.unwrap().unwrap();
        assert_eq!(bronze.len() as u64, (234..63 * ROWS).filter(|offset| offset % 10 != 3).count() as u64);
    }
    let reading = DeltaStore::open_existing(config(dir.path())).await.unwrap();
    for refused in
        [reading.compact(Table::Silver, TARGET).await.map(|_| ()), reading.vacuum(Table::Silver).await.map(|_| ())]
    {
        assert_eq!(refused.unwrap_err().kind(), ErrorKind::Configuration, "it was opened to be read");
    }
}

/// Of processes that merge the same files at once, beside one that writes, each is done or refused; rows are there once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn mergers_and_a_writer_lose_and_double_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let writer = quick(dir.path()).await;
    fill(&writer, 0..20).await;
    let merge = async |lake: DeltaStore| {
        let (mut merged, mut refused) = (0, 0);
        for _ in 0..40 {
            for table in ROW_TABLES {
                match lake.compact(table, TARGET).await {
                    Ok(done) => merged += u64::from(done.is_some()),
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
                        refused += 1;
                    }
                }
            }
        }
        (merged, refused)
    };
    let (one, two) = (quick(dir.path()).await, quick(dir.path()).await);
    let ((merged, refused), more, ()) = tokio::join!(merge(one), merge(two), fill(&writer, 20..60));
    println!("merged {merged} and {}, refused {refused} and {}", more.0, more.1);
    assert!(merged + more.0 > 4);
    let lake = open(dir.path()).await;
    for partition in [0, 1] {
        let silver = lake.read_silver(TOPIC, partition, 0, u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(shown(&silver), shown(&admitted(partition, 0, 60 * ROWS).accepted));
    }
    let expected: u64 = (0..60 * ROWS).filter(|offset| ![3, 4, 5].contains(&(offset % 10))).count() as u64 * 2;
    let infos = lake.info().await.unwrap();
    assert_eq!(infos.iter().find(|info| info.table == Table::Silver).unwrap().rows, expected);
}

/// All files below a folder, those of the log or the others.
fn found(folder: &Path, log: bool) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()) {
        if entry.is_dir() {
            found.extend(self::found(&entry, log));
        } else if entry.iter().any(|part| part == "_delta_log") == log {
            found.push(entry);
        }
    }
    found
}

fn age(file: &Path, by: Duration) {
    let file = std::fs::File::options().append(true).open(file).unwrap();
    let modified = file.metadata().unwrap().modified().unwrap();
    file.set_modified(modified - by).unwrap();
}

const HOUR: Duration = Duration::from_secs(3_600);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_merged_or_never_named_is_deleted_once_it_is_old() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now().plus_millis(-4 * HOUR.as_millis() as i64)));
    let lake = DeltaStore::open(config(dir.path()).durable(false).clock(clock.clone())).await.unwrap();
    let folder = dir.path().join("lake").join(Table::Bronze.name());
    fill(&lake, 0..10).await;
    compact(&lake).await;
    let kept = files(&lake).await[1] as usize;
    clock.advance_millis(4 * HOUR.as_millis() as u64);
    fill(&lake, 10..20).await;
    let merged_lately = compact(&lake).await;
    assert!(merged_lately > 0);
    let rows_before = rows(&lake).await;

    let of_date = found(&folder, false)[0].parent().unwrap().to_owned();
    let [stray, young] = ["part-stray.parquet", "part-young.parquet"].map(|name| of_date.join(name));
    for file in [&stray, &young] {
        std::fs::write(file, "no log entry names it").unwrap();
    }
    age(&stray, 4 * HOUR);
    let before = found(&folder, false).len();
    let done = lake.vacuum(Table::Bronze).await.unwrap();
    // The first ten commits' files were replaced four hours ago.
    assert!(done.files > 10 && !stray.exists() && young.exists(), "{done:?}");
    assert_eq!(found(&folder, false).len(), before - done.files as usize);
    assert!(found(&folder, false).len() > kept + 10, "what was merged lately stays for who still reads it");
    assert_eq!(rows(&lake).await, rows_before);
    assert_eq!(lake.vacuum(Table::Bronze).await.unwrap().files, 0, "all is deleted that was to be");
}

/// A process that sleeps between putting its files and naming them, so long that they are deleted as litter, has them there when it
/// wakes: those of a commit, and one that it merged.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_files_of_a_sleeper_are_there_when_the_log_names_them() {
    let dir = tempfile::tempdir().unwrap();
    let clock = Arc::new(ManualClock::new(SystemClock::new().now()));
    let store = Faulty::new();
    let config = config(dir.path()).object_store(store.clone()).clock(clock.clone());
    let lake = Arc::new(DeltaStore::open(config).await.unwrap());
    fill(&lake, 0..3).await;
    let folder = dir.path().join("lake").join(Table::Silver.name());
    for merges in [false, true] {
        let before = found(&folder, false);
        store.plan("silver_api_usage/_delta_log", 1, Fault::Wait);
        let sleeper = lake.clone();
        let asleep = tokio::spawn(async move {
            if merges {
                sleeper.compact(Table::Silver, TARGET).await.unwrap().unwrap();
            } else {
                fill(&sleeper, 3..4).await;
            }
        });
        store.reached.acquire().await.unwrap().forget();
        clock.advance_millis(4 * HOUR.as_millis() as u64);
        let unnamed: Vec<_> = found(&folder, false).into_iter().filter(|file| !before.contains(file)).collect();
        assert!(!unnamed.is_empty());
        unnamed.iter().for_each(|file| age(file, 4 * HOUR));
        assert_eq!(quick(dir.path()).await.vacuum(Table::Silver).await.unwrap().files, unnamed.len() as u64);
        store.go.add_permits(1);
        asleep.await.unwrap();
        let silver = quick(dir.path()).await.read_silver(TOPIC, 0, 0, u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(shown(&silver), shown(&admitted(0, 0, 4 * ROWS).accepted));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn old_log_entries_are_deleted_behind_a_checkpoint() {
    let dir = tempfile::tempdir().unwrap();
    let config = || config(dir.path()).durable(false).checkpoint_interval(5);
    let (lake, writer) = (DeltaStore::open(config()).await.unwrap(), DeltaStore::open(config()).await.unwrap());
    let folder = dir.path().join("lake").join(Table::Silver.name());
    fill(&writer, 0..12).await;
    let summed_up = |file: &PathBuf| file.to_string_lossy().contains("checkpoint.parquet");
    while !found(&folder, true).iter().any(summed_up) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    let log = found(&folder, true);
    assert_eq!(lake.vacuum(Table::Silver).await.unwrap().log_files, 0, "nothing is old");
    log.iter().for_each(|file| age(file, 8 * 24 * HOUR));
    fill(&writer, 12..13).await;
    let done = lake.vacuum(Table::Silver).await.unwrap();
    assert!(done.log_files >= 5, "{done:?}");
    assert_eq!(log.iter().filter(|file| !file.exists()).count() as u64, done.log_files);

    fill(&writer, 13..15).await;
    for lake in [lake, DeltaStore::open(config()).await.unwrap()] {
        let silver = lake.read_silver(TOPIC, 1, 0, u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(shown(&silver), shown(&admitted(1, 0, 15 * ROWS).accepted));
    }
}
