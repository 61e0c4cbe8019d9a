//! What fails, and when; nothing is lost, nothing is doubled.

use std::sync::Arc;

use subscription_core::{Error, ErrorKind, Table, TableStore};
use subscription_delta::DeltaStore;

use crate::support::*;

async fn faulty(dir: &std::path::Path) -> (Arc<Faulty>, DeltaStore) {
    let store = Faulty::new();
    let lake = DeltaStore::open(config(dir).object_store(store.clone())).await.unwrap();
    (store, lake)
}

async fn silver_offsets(lake: &DeltaStore, partition: u32) -> Vec<u64> {
    let rows = lake.read_silver(TOPIC, partition, 0, u64::MAX, usize::MAX).await.unwrap();
    rows.rows().iter().map(|row| row.offset).collect()
}

fn expected(from: u64, to: u64) -> Vec<u64> {
    (from..to).filter(|offset| ![3, 4, 5].contains(&(offset % 10))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_whose_answer_was_lost_is_done() {
    let dir = tempfile::tempdir().unwrap();
    let (store, lake) = faulty(dir.path()).await;
    store.plan("silver_api_usage/_delta_log", 1, Fault::After);
    lake.commit(step(&SILVER, 0, 0, 30)).await.unwrap();
    assert_eq!(silver_offsets(&lake, 0).await, expected(0, 30));
    lake.commit(step(&SILVER, 0, 30, 60)).await.unwrap();
    assert_eq!(silver_offsets(&lake, 0).await, expected(0, 60));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_put_may_fail_and_the_same_commit_be_made_again() {
    for fault in [Fault::Before, Fault::After, Fault::Phantom] {
        for nth in 1.. {
            let dir = tempfile::tempdir().unwrap();
            let (store, lake) = faulty(dir.path()).await;
            lake.commit(step(&SILVER, 0, 0, 30)).await.unwrap();
            store.puts.store(0, std::sync::atomic::Ordering::Relaxed);
            store.plan("/", nth, fault);
            let first = lake.commit(step(&SILVER, 0, 30, 60)).await;
            if store.puts.load(std::sync::atomic::Ordering::Relaxed) < nth {
                assert!(nth > 3, "files and log entries are put");
                break;
            }
            if let Err(error) = first {
                assert_eq!(error.kind(), ErrorKind::Unavailable, "{error:?}");
                assert!(error.is_retryable());
                lake.commit(step(&SILVER, 0, 30, 60)).await.unwrap();
            }
            // As another process sees it.
            let other = open(dir.path()).await;
            assert_eq!(silver_offsets(&other, 0).await, expected(0, 60), "{fault:?} at put {nth}");
            for table in SILVER {
                assert_eq!(other.state(TOPIC, &[0]).await.unwrap()[0].position(table), 60);
            }
            let infos = other.info().await.unwrap();
            assert_eq!(infos[Table::Quarantine as usize].rows, 6);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_crash_between_data_file_and_log_entry_leaves_litter_only() {
    let dir = tempfile::tempdir().unwrap();
    let (store, lake) = faulty(dir.path()).await;
    store.plan("silver_api_usage/_delta_log", 1, Fault::Before);
    lake.commit(step(&SILVER, 0, 0, 30)).await.unwrap_err();
    drop(lake);
    // A new process: quarantine has the span, Silver has not, and takes it alone.
    let lake = open(dir.path()).await;
    let state = lake.state(TOPIC, &[0]).await.unwrap().remove(0);
    assert_eq!((state.position(Table::Quarantine), state.position(Table::Silver)), (30, 0));
    assert_eq!(lake.commit(step(&SILVER, 0, 0, 30)).await.unwrap_err().kind(), ErrorKind::Fenced);
    lake.commit(step(&[Table::Silver], 0, 0, 30)).await.unwrap();
    assert_eq!(silver_offsets(&lake, 0).await, expected(0, 30));
}

/// A process stopped between its look at the log and its put, and woken when another has taken over.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_zombie_is_refused() {
    for steps in [1, 3] {
        let dir = tempfile::tempdir().unwrap();
        let (store, zombie) = faulty(dir.path()).await;
        zombie.commit(step(&[Table::Silver], 0, 0, 10)).await.unwrap();
        store.plan("silver_api_usage/_delta_log", 1, Fault::Wait);
        let late = tokio::spawn(async move { zombie.commit(step(&[Table::Silver], 0, 10, 40)).await });
        store.reached.acquire().await.unwrap().forget();
        let owner = open(dir.path()).await;
        for at in 0..steps {
            owner.commit(step(&[Table::Silver], 0, 10 + at * 10, 20 + at * 10)).await.unwrap();
        }
        store.go.add_permits(1);
        let error: Error = late.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
        assert_eq!(silver_offsets(&owner, 0).await, expected(0, 10 + steps * 10));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancelled_commit_is_whole_or_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let (store, lake) = faulty(dir.path()).await;
    for fault in ["silver_api_usage/event_date", "silver_api_usage/_delta_log"] {
        let position = lake.state(TOPIC, &[0]).await.unwrap()[0].position(Table::Silver);
        store.plan(fault, 1, Fault::Wait);
        {
            let mut commit = Box::pin(lake.commit(step(&[Table::Silver], 0, position, position + 20)));
            tokio::select! {
                biased;
                _ = &mut commit => panic!("it waits"),
                permit = store.reached.acquire() => permit.unwrap().forget(),
            }
        }
        store.go.add_permits(1);
        lake.commit(step(&[Table::Silver], 0, position, position + 20)).await.unwrap();
        store.go.forget_permits(1);
        assert_eq!(silver_offsets(&lake, 0).await, expected(0, position + 20));
    }
}

/// Each task is a process of its own, as far as the lake can tell: nothing is shared but the files.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_write_the_same_tables_lose_and_double_nothing() {
    const ROUNDS: u64 = 25;
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await;
    let writers = (0..3u32).map(|writer| {
        let config = config(dir.path()).checkpoint_interval(10).durable(false);
        tokio::spawn(async move {
            let lake = DeltaStore::open(config).await.unwrap();
            let mut minutes = Vec::new();
            for round in 0..ROUNDS {
                let (from, to) = (round * 10, round * 10 + 10);
                lake.commit(step(&SILVER, writer, from, to)).await.unwrap();
                let mut gold = commit(&[Table::UsageMinute], &[(writer, from, to)], &[]);
                gold.ranges = vec![range(Table::UsageMinute, writer, &[(0, "a"), (0, "b")], round as i64, &minutes)];
                minutes = lake.commit(gold).await.unwrap().ranges;
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    let lake = open(dir.path()).await;
    let states = lake.state(TOPIC, &[0, 1, 2]).await.unwrap();
    for (writer, state) in states.iter().enumerate() {
        assert_eq!(silver_offsets(&lake, writer as u32).await, expected(0, ROUNDS * 10));
        assert_eq!(state.position(Table::Silver), ROUNDS * 10);
        assert_eq!(state.ranges.len(), 1, "each range was replaced");
    }
    let info = lake.info().await.unwrap().remove(Table::Silver as usize);
    assert_eq!(info.version, 3 * ROUNDS);
}

/// Two processes that believe to own the same partition: of each span one lands, the other is told.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn of_two_owners_one_is_fenced_at_every_step() {
    let dir = tempfile::tempdir().unwrap();
    open(dir.path()).await;
    let writers = (0..3).map(|_| {
        let config = config(dir.path()).durable(false);
        tokio::spawn(async move {
            let lake = DeltaStore::open(config).await.unwrap();
            let (mut done, mut fenced) = (0u64, 0);
            while fenced < 20 {
                let from = lake.state(TOPIC, &[0]).await.unwrap()[0].position(Table::Silver);
                match lake.commit(step(&[Table::Silver], 0, from, from + 10)).await {
                    Ok(_) => done += 1,
                    Err(error) => {
                        assert_eq!(error.kind(), ErrorKind::Fenced, "{error:?}");
                        fenced += 1;
                    }
                }
                if done > 60 {
                    break;
                }
            }
            done
        })
    });
    let mut done = 0;
    for writer in writers.collect::<Vec<_>>() {
        done += writer.await.unwrap();
    }
    let lake = open(dir.path()).await;
    assert_eq!(lake.state(TOPIC, &[0]).await.unwrap()[0].position(Table::Silver), done * 10);
    assert_eq!(silver_offsets(&lake, 0).await, expected(0, done * 10));
}
