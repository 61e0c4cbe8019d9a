//! Reading back: spans, ids, lookups, scans.

use std::collections::BTreeMap;

use futures::TryStreamExt as _;
use subscription_core::{ErrorKind, IdLookup, Table, TableStore, Timestamp};
use subscription_delta::arrow::array::{Array as _, AsArray as _};
use subscription_delta::arrow::datatypes::Int64Type;
use subscription_delta::{DeltaStore, Scan};

use crate::support::*;

/// 40 commits of three partitions, each of ten or so records.
async fn filled(dir: &std::path::Path) -> DeltaStore {
    let lake = DeltaStore::open(config(dir).durable(false).checkpoint_interval(16)).await.unwrap();
    for round in 0..40u64 {
        let spans = [0, 1, 2].map(|partition| (partition, round * 11, round * 11 + 11));
        let rows = spans.map(|(partition, from, to)| admitted(partition, from, to));
        lake.commit(commit(&BRONZE, &spans, &rows).into()).await.unwrap();
        lake.commit(commit(&SILVER, &spans, &rows).into()).await.unwrap();
    }
    lake
}

fn accepted(from: u64, to: u64) -> Vec<u64> {
    (from..to).filter(|offset| ![3, 4, 5].contains(&(offset % 10))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn spans_come_in_offset_order_whatever_the_cut() {
    let dir = tempfile::tempdir().unwrap();
    let lake = filled(dir.path()).await;
    let (all, end) = (admitted(1, 0, 440), 440);
    let (records, events) = (shown_records(&all.records), shown(&all.accepted));
    for cut in [1, 7, 100, 100_000] {
        let (mut at, mut found) = (0, Vec::new());
        while let Some(batch) = lake.read_bronze(TOPIC, 1, at, cut * 70).await.unwrap() {
            assert_eq!(batch.from(), at);
            found.extend(shown_records(&batch));
            at = batch.to();
        }
        let bronze: Vec<_> = records.iter().filter(|(offset, ..)| offset % 10 != 3).cloned().collect();
        assert_eq!(found, bronze);

        let (mut at, mut found) = (0, Vec::new());
        loop {
            let batch = lake.read_silver(TOPIC, 1, at, end, cut).await.unwrap();
            assert!(batch.rows().len() <= cut);
            let Some(last) = batch.rows().last() else { break };
            at = last.offset + 1;
            found.extend(shown(&batch));
        }
        assert_eq!(found, events);
    }
    let some = lake.read_silver(TOPIC, 2, 100, 200, usize::MAX).await.unwrap();
    assert_eq!(some.rows().iter().map(|row| row.offset).collect::<Vec<_>>(), accepted(100, 200));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ids_are_those_of_the_partition_since_the_time() {
    let dir = tempfile::tempdir().unwrap();
    let lake = filled(dir.path()).await;
    for since in
        [Timestamp::MIN, Timestamp::from_millis(START), Timestamp::from_millis(START + 400_000), Timestamp::MAX]
    {
        let found = lake.read_ids(TOPIC, &[(1, Timestamp::MAX), (2, since)]).await.unwrap();
        assert_eq!((found.len(), found[0].len()), (2, 0));
        let mut found: Vec<_> =
            found[1].iter().map(|key| (key.event_timestamp, key.event_id, key.tenant_id.to_string())).collect();
        let mut expected: Vec<_> = accepted(0, 440)
            .into_iter()
            .map(|offset| (event_time(offset), id(2, offset), tenant(offset)))
            .filter(|(time, ..)| *time >= since)
            .collect();
        found.sort();
        expected.sort();
        assert_eq!(found, expected);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thousands_of_questions_are_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let lake = filled(dir.path()).await;
    let question = |partition, offset, tenant: String, from, to| IdLookup {
        partition,
        tenant_id: tenant.into(),
        event_id: id(partition, offset),
        from,
        to,
    };
    let (mut questions, mut expected) = (Vec::new(), Vec::new());
    for partition in 0..3 {
        for offset in 0..440 {
            let time = event_time(offset);
            let known = ![3, 4, 5].contains(&(offset % 10));
            // At its time; around it; beside it; another tenant; another partition's id.
            questions.push(question(partition, offset, tenant(offset), time, time));
            expected.push(if known { vec![time] } else { vec![] });
            questions.push(question(partition, offset, tenant(offset), time.plus_millis(-5_000), time.plus_millis(9)));
            expected.push(if known { vec![time] } else { vec![] });
            questions.push(question(partition, offset, tenant(offset), time.plus_millis(1), time.plus_millis(1_000)));
            expected.push(vec![]);
            questions.push(question(partition, offset, tenant(offset + 1), time, time));
            expected.push(vec![]);
            let mut other = question(partition, offset, tenant(offset), time, time);
            other.partition = (partition + 1) % 3;
            questions.push(other);
            expected.push(vec![]);
        }
    }
    questions.push(question(0, 0, tenant(0), Timestamp::MIN, Timestamp::MAX));
    expected.push(vec![event_time(0)]);
    let answers = lake.lookup(TOPIC, &questions).await.unwrap();
    assert_eq!(answers.len(), expected.len());
    for ((question, answer), expected) in questions.iter().zip(&answers).zip(&expected) {
        assert_eq!(answer, expected, "{question:?}");
    }
    assert_eq!(lake.lookup(TOPIC, &[]).await.unwrap(), Vec::<Vec<Timestamp>>::new());
    assert!(lake.lookup("other", &questions[..1]).await.unwrap()[0].is_empty());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn scans_answer_columns_tenants_and_limits() {
    let dir = tempfile::tempdir().unwrap();
    let lake = filled(dir.path()).await;
    let collect = async |scan| lake.scan(Table::Silver, scan).await.unwrap().try_collect::<Vec<_>>().await.unwrap();
    let all = collect(Scan::default()).await;
    let rows: usize = all.iter().map(|batch| batch.num_rows()).sum();
    assert_eq!(rows, 3 * accepted(0, 440).len());
    assert_eq!(all[0].schema(), DeltaStore::schema(Table::Silver));
    let dates: BTreeMap<i32, usize> = all.iter().fold(BTreeMap::new(), |mut dates, batch| {
        let column = batch.column_by_name("event_date").unwrap();
        let days = column.as_primitive::<subscription_delta::arrow::datatypes::Date32Type>();
        days.values().iter().for_each(|day| *dates.entry(*day).or_default() += 1);
        dates
    });
    assert_eq!(dates.keys().copied().collect::<Vec<_>>(), [Timestamp::from_millis(START).days()]);

    let some = collect(Scan {
        columns: Some(vec!["offset".into(), "event_date".into()]),
        tenant: Some(tenant(2)),
        limit: Some(7),
    })
    .await;
    assert_eq!(some.iter().map(|batch| batch.num_rows()).sum::<usize>(), 7);
    for batch in &some {
        assert_eq!(batch.num_columns(), 2);
        assert!(batch.column(0).as_primitive::<Int64Type>().values().iter().all(|offset| offset % 5 == 2));
        assert_eq!(batch.column(1).null_count(), 0);
    }
    assert!(collect(Scan { limit: Some(0), ..Scan::default() }).await.is_empty());
    let error = lake.scan(Table::Silver, Scan { columns: Some(vec!["nope".into()]), ..Scan::default() }).await;
    let error = error.err().unwrap();
    assert_eq!(error.kind(), ErrorKind::Configuration);
    assert!(error.to_string().contains("`nope`") && error.help().unwrap().contains("event_id"));
    let error = lake.scan(Table::Bronze, Scan { tenant: Some("a".into()), ..Scan::default() }).await;
    assert_eq!(error.err().unwrap().kind(), ErrorKind::Configuration);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn info_adds_up() {
    let dir = tempfile::tempdir().unwrap();
    let lake = filled(dir.path()).await;
    let infos = lake.info().await.unwrap();
    let rows: Vec<u64> = infos.iter().map(|info| info.rows).collect();
    assert_eq!(rows[..4], [3 * 44, 3 * 396, 3 * 44, 3 * accepted(0, 440).len() as u64]);
    let bronze = &infos[Table::Bronze as usize];
    assert_eq!((bronze.version, bronze.files), (40, 40));
    assert!(bronze.bytes > 0);
    assert_eq!(bronze.positions.len(), 3);
    assert_eq!((bronze.positions[2].topic.as_str(), bronze.positions[2].partition), (TOPIC, 2));
    assert_eq!(bronze.positions[2].position, 440);
}
