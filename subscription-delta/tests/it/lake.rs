//! Commits and what they leave.

use subscription_core::{Counter, ErrorKind, GoldRows, Settings, Table, TableStore};
use subscription_delta::DeltaStore;

use crate::support::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn keeps_the_contract_of_a_table_store() {
    subscription_core::testkit::conformance::table_store(async || {
        let dir = tempfile::tempdir().unwrap();
        async move || DeltaStore::open(config(dir.path()).durable(false)).await.unwrap()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_column_comes_back() {
    let dir = tempfile::tempdir().unwrap();
    let lake = open(dir.path()).await;
    let rows = [admitted(0, 0, 2_000), admitted(3, 100, 400)];
    for tables in [&BRONZE, &SILVER] {
        let done = lake.commit(commit(tables, &[(0, 0, 2_000), (3, 100, 400)], &rows).into()).await;
        // Partition 3 begins at 100 in the batch, and at 0 in the lake.
        assert_eq!(done.unwrap_err().kind(), ErrorKind::Fenced);
        lake.commit(commit(tables, &[(0, 0, 2_000), (3, 0, 400)], &rows).into()).await.unwrap();
    }

    // Another process reads.
    let lake = open(dir.path()).await;
    for admitted in &rows {
        let partition = admitted.records.partition();
        let from = admitted.records.from();
        let bronze = lake.read_bronze(TOPIC, partition, 0, usize::MAX).await.unwrap().unwrap();
        let expected: Vec<_> =
            shown_records(&admitted.records).into_iter().filter(|(offset, ..)| offset % 10 != 3).collect();
        assert_eq!(shown_records(&bronze), expected);
        assert_eq!((bronze.from(), bronze.to()), (0, expected.last().unwrap().0 + 1));
        let silver = lake.read_silver(TOPIC, partition, from, u64::MAX, usize::MAX).await.unwrap();
        assert_eq!(shown(&silver), shown(&admitted.accepted));

        let all = shown_records(&admitted.records);
        for (offset, ..) in &all {
            let last = lake.last_record(TOPIC, partition, offset + 1).await.unwrap().unwrap();
            assert_eq!(shown_records(&last), [all[(offset - from) as usize].clone()]);
            if offset - from > 30 {
                break;
            }
        }
    }
    assert!(lake.last_record(TOPIC, 3, 100).await.unwrap().is_none());
    assert!(lake.read_bronze(TOPIC, 0, 2_000, 1).await.unwrap().is_none());
    assert!(lake.read_bronze("other", 0, 0, 1).await.unwrap().is_none());

    let states = lake.state(TOPIC, &[3, 0, 9]).await.unwrap();
    assert_eq!(states.iter().map(|state| state.position(Table::Silver)).collect::<Vec<_>>(), [400, 2_000, 0]);
    assert_eq!(states[0].table(Table::Bronze).counter(Counter::Watermark), Some(START + 400));
    assert_eq!(states[0].table(Table::Bronze).counter(Counter::Accepted), None);
    assert!(states[2].table(Table::Bronze).counters.is_empty());
    assert_eq!(lake.partitions(TOPIC).await.unwrap(), [0, 3]);
    assert!(lake.partitions("usa").await.unwrap().is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn gold_rows_come_back_and_ranges_are_replaced() {
    let dir = tempfile::tempdir().unwrap();
    let lake = open(dir.path()).await;
    let mut first = commit(&Table::GOLD, &[(1, 0, 10)], &[]);
    first.ranges = Table::GOLD
        .into_iter()
        .flat_map(|table| {
            [range(table, 1, &[(0, "a"), (0, "b/c"), (1, "a")], 1, &[]), range(table, 1, &[(2, "a"), (2, "z")], 9, &[])]
        })
        .collect();
    let written = lake.commit(first.clone().into()).await.unwrap();
    assert_eq!((written.ranges.len(), written.files), (10, 10));

    let other = open(dir.path()).await;
    let state = other.state(TOPIC, &[1]).await.unwrap().remove(0);
    assert_eq!(state.ranges.len(), 10);
    for (write, id) in first.ranges.iter().zip(&written.ranges) {
        let found = state.ranges.iter().find(|range| range.id == *id).unwrap();
        assert_eq!((&found.first, &found.last, found.rows), (&write.first, &write.last, write.rows.len() as u32));
        let rows = other.load(TOPIC, std::slice::from_ref(found)).await.unwrap().remove(0);
        assert_eq!(rows, write.rows);
    }

    // The first range of minutes is split, the second stays.
    let mut second = commit(&[Table::UsageMinute], &[(1, 10, 20)], &[]);
    let old = written.ranges[0].clone();
    second.ranges = vec![
        range(Table::UsageMinute, 1, &[(0, "a")], 50, std::slice::from_ref(&old)),
        range(Table::UsageMinute, 1, &[(0, "b/c"), (1, "a")], 60, std::slice::from_ref(&old)),
    ];
    let replaced = other.commit(second.clone().into()).await.unwrap();
    let state = lake.state(TOPIC, &[1]).await.unwrap().remove(0);
    let mut minutes: Vec<_> = state.ranges.iter().filter(|range| range.table == Table::UsageMinute).collect();
    minutes.sort_by(|a, b| a.first.cmp(&b.first));
    assert_eq!(
        minutes.iter().map(|range| &range.id).collect::<Vec<_>>(),
        [&replaced.ranges[0], &replaced.ranges[1], &written.ranges[1]]
    );
    let GoldRows::Usage(rows) = lake.load(TOPIC, &[minutes[1].clone()]).await.unwrap().remove(0) else { panic!() };
    assert_eq!(rows.iter().map(|row| row.total_requests).collect::<Vec<_>>(), [60, 61]);

    // Made again, as after a lost answer, it is done already and has the same names.
    assert_eq!(other.commit(second.clone().into()).await.unwrap().ranges, replaced.ranges);
    // Another process is told that it is not its own.
    assert_eq!(lake.commit(second.into()).await.unwrap_err().kind(), ErrorKind::Fenced);
    // A range that is gone cannot be loaded, nor replaced.
    let gone = subscription_core::RangeRef { id: old.clone(), ..minutes[1].clone() };
    assert_eq!(lake.load(TOPIC, &[gone]).await.unwrap_err().kind(), ErrorKind::Fenced);
    let mut third = commit(&[Table::UsageMinute], &[(1, 20, 30)], &[]);
    third.ranges = vec![range(Table::UsageMinute, 1, &[(0, "a")], 50, &[old])];
    assert_eq!(lake.commit(third.into()).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(lake.state(TOPIC, &[1]).await.unwrap()[0].position(Table::UsageMinute), 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_without_rows_moves_the_position_and_writes_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let lake = open(dir.path()).await;
    let done = lake.commit(commit(&BRONZE, &[(0, 0, 5)], &[]).into()).await.unwrap();
    assert_eq!((done.files, done.bytes), (0, 0));
    assert_eq!(open(dir.path()).await.state(TOPIC, &[0]).await.unwrap()[0].position(Table::Bronze), 5);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_span_that_begins_within_a_batch_takes_its_rows_only() {
    let dir = tempfile::tempdir().unwrap();
    let lake = open(dir.path()).await;
    lake.commit(step(&SILVER, 0, 0, 50)).await.unwrap();
    lake.commit(commit(&SILVER, &[(0, 50, 80)], &[admitted(0, 0, 100)]).into()).await.unwrap();
    let rows = lake.read_silver(TOPIC, 0, 0, u64::MAX, usize::MAX).await.unwrap();
    assert_eq!(shown(&rows), shown(&admitted(0, 0, 80).accepted));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_become_visible_in_order_and_a_fence_stops_the_rest() {
    let dir = tempfile::tempdir().unwrap();
    let (lake, other) = (open(dir.path()).await, open(dir.path()).await);
    other.commit(step(&[Table::Silver], 0, 0, 10)).await.unwrap();
    let error = lake.commit(step(&SILVER, 0, 0, 20)).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Fenced);
    let text = error.to_string();
    for part in ["table: silver_api_usage", "partition: 0", "expected: 0", "found: 10"] {
        assert!(text.contains(part), "{text}");
    }
    assert!(error.help().unwrap().contains("another process"));
    let state = lake.state(TOPIC, &[0]).await.unwrap().remove(0);
    assert_eq!(state.position(Table::Silver), 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_are_kept_once_a_version() {
    let dir = tempfile::tempdir().unwrap();
    let (lake, other) = (open(dir.path()).await, open(dir.path()).await);
    assert_eq!(lake.settings().await.unwrap(), None);
    let settings = |version, json: &str| Settings { version, json: json.to_owned() };
    lake.put_settings(settings(1, r#"{"a":1}"#)).await.unwrap();
    assert_eq!(other.put_settings(settings(1, "{}")).await.unwrap_err().kind(), ErrorKind::Fenced);
    other.put_settings(settings(2, r#"{"a":2}"#)).await.unwrap();
    assert_eq!(lake.put_settings(settings(2, "{}")).await.unwrap_err().kind(), ErrorKind::Fenced);
    assert_eq!(lake.settings().await.unwrap(), Some(settings(2, r#"{"a":2}"#)));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn processes_that_open_an_empty_lake_at_once_share_it() {
    let dir = tempfile::tempdir().unwrap();
    let lakes = futures::future::join_all((0..6).map(|_| {
        let config = config(dir.path());
        tokio::spawn(subscription_delta::DeltaStore::open(config))
    }))
    .await;
    for (partition, lake) in lakes.into_iter().enumerate() {
        lake.unwrap().unwrap().commit(step(&BRONZE, partition as u32, 0, 20)).await.unwrap();
    }
    assert_eq!(open(dir.path()).await.partitions(TOPIC).await.unwrap(), [0, 1, 2, 3, 4, 5]);
}
