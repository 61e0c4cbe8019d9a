//! Any sequence of commits, reads and restarts answers as the store in memory does.

use proptest::prelude::*;
use subscription_core::{IdLookup, MemoryStore, Table, TableStore, Timestamp};
use subscription_delta::DeltaStore;

use crate::support::*;

#[derive(Debug, Clone)]
enum Step {
    /// Rows of a stage, of partitions 0 and 1: so many each, from `back` below the position (0: as it should be).
    Commit {
        silver: bool,
        rows: [u64; 2],
        back: u64,
    },
    /// The range of minutes of a partition is replaced by this many.
    Gold {
        partition: u32,
        ranges: usize,
    },
    Bronze {
        partition: u32,
        from: u64,
        bytes: usize,
    },
    Silver {
        partition: u32,
        from: u64,
        to: u64,
        rows: usize,
    },
    Last {
        partition: u32,
        before: u64,
    },
    Ids {
        partition: u32,
        since: u64,
    },
    Lookup {
        partition: u32,
        offset: u64,
        before: i64,
        after: i64,
    },
    Restart,
    /// All that can be merged to files of this size.
    Compact {
        target_bytes: u64,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let partition = || 0..3u32;
    let offset = || 0..120u64;
    let step = prop_oneof![
        4 => (any::<bool>(), [0..30u64, 0..30u64], prop_oneof![9 => Just(0), 1 => 1..20u64])
            .prop_map(|(silver, rows, back)| Step::Commit { silver, rows, back }),
        1 => (partition(), 0..4usize).prop_map(|(partition, ranges)| Step::Gold { partition, ranges }),
        1 => (partition(), offset(), 1..4_000usize)
            .prop_map(|(partition, from, bytes)| Step::Bronze { partition, from, bytes }),
        1 => (partition(), offset(), offset(), 0..40usize)
            .prop_map(|(partition, from, to, rows)| Step::Silver { partition, from, to, rows }),
        1 => (partition(), offset()).prop_map(|(partition, before)| Step::Last { partition, before }),
        1 => (partition(), offset()).prop_map(|(partition, since)| Step::Ids { partition, since }),
        1 => (partition(), offset(), 0..90_000i64, 0..90_000i64)
            .prop_map(|(partition, offset, before, after)| Step::Lookup { partition, offset, before, after }),
        1 => Just(Step::Restart),
        1 => prop_oneof![1 => 10_000..40_000u64, 2 => Just(1 << 20)].prop_map(|target_bytes| Step::Compact { target_bytes }),
    ];
    prop::collection::vec(step, 1..40)
}

async fn same(steps: Vec<Step>) {
    let dir = tempfile::tempdir().unwrap();
    let config = || config(dir.path()).durable(false).checkpoint_interval(3);
    let (mut memory, mut delta) = (MemoryStore::new(), DeltaStore::open(config()).await.unwrap());
    for step in steps {
        match &step {
            Step::Commit { silver, rows, back } => {
                let tables = if *silver { &SILVER } else { &BRONZE };
                let states = memory.state(TOPIC, &[0, 1]).await.unwrap();
                let spans = [0, 1].map(|partition| {
                    let from = states[partition].position(tables[1]).saturating_sub(*back);
                    (partition as u32, from, from + rows[partition])
                });
                let batches = spans.map(|(partition, from, to)| admitted(partition, from, to));
                let commit = std::sync::Arc::new(commit(tables, &spans, &batches));
                let expected = memory.commit(commit.clone()).await.map(|_| ()).map_err(|error| error.kind());
                let found = delta.commit(commit).await.map(|_| ()).map_err(|error| error.kind());
                assert_eq!(found, expected, "{step:?}");
            }
            Step::Gold { partition, ranges } => {
                let names = ["a", "b", "c"];
                let mut states = Vec::new();
                for store in [&memory as &dyn TableStore, &delta] {
                    let state = store.state(TOPIC, &[*partition]).await.unwrap().remove(0);
                    let position = state.position(Table::UsageMinute);
                    let old: Vec<_> = state.ranges.iter().map(|range| range.id.clone()).collect();
                    let mut gold = commit(&[Table::UsageMinute], &[(*partition, position, position + 1)], &[]);
                    gold.ranges = (0..*ranges)
                        .map(|at| {
                            range(Table::UsageMinute, *partition, &[(0, names[at.min(2)])], position as i64, &old)
                        })
                        .take(3)
                        .collect();
                    store.commit(gold.into()).await.unwrap();
                    let mut state = store.state(TOPIC, &[*partition]).await.unwrap().remove(0);
                    state.ranges.sort_by(|a, b| a.first.cmp(&b.first));
                    let rows = store.load(TOPIC, &state.ranges).await.unwrap();
                    states.push((state.position(Table::UsageMinute), rows));
                }
                assert_eq!(states[1], states[0], "{step:?}");
            }
            Step::Bronze { partition, from, bytes } => {
                // How much "about so many bytes" is, is the store's; the rows are not.
                let found = delta.read_bronze(TOPIC, *partition, *from, *bytes).await.unwrap();
                let expected = memory.read_bronze(TOPIC, *partition, *from, usize::MAX).await.unwrap();
                let expected = expected.map(|batch| shown_records(&batch)).unwrap_or_default();
                let found = found.map(|batch| shown_records(&batch)).unwrap_or_default();
                assert_eq!(found[..], expected[..found.len()], "{step:?}");
                assert_eq!(found.is_empty(), expected.is_empty(), "{step:?}");
            }
            Step::Silver { partition, from, to, rows } => {
                let found = delta.read_silver(TOPIC, *partition, *from, *to, *rows).await.unwrap();
                let expected = memory.read_silver(TOPIC, *partition, *from, *to, *rows).await.unwrap();
                assert_eq!(shown(&found), shown(&expected), "{step:?}");
            }
            Step::Last { partition, before } => {
                let found = delta.last_record(TOPIC, *partition, *before).await.unwrap();
                let expected = memory.last_record(TOPIC, *partition, *before).await.unwrap();
                let shown = |batch: Option<_>| batch.map(|batch| shown_records(&batch));
                assert_eq!(shown(found), shown(expected), "{step:?}");
            }
            Step::Ids { partition, since } => {
                let mut sorted = Vec::new();
                for store in [&memory as &dyn TableStore, &delta] {
                    let since = [(*partition, event_time(*since)), (partition + 1, Timestamp::MIN)];
                    let mut ids = store.read_ids(TOPIC, &since).await.unwrap();
                    ids.iter_mut().for_each(|ids| ids.sort_by_key(|key| (key.event_timestamp, key.event_id)));
                    sorted.push(ids);
                }
                assert_eq!(sorted[1], sorted[0], "{step:?}");
            }
            Step::Lookup { partition, offset, before, after } => {
                let question = |offset: u64| IdLookup {
                    partition: *partition,
                    tenant_id: tenant(offset).into(),
                    event_id: id(*partition, offset),
                    from: event_time(offset).plus_millis(-before),
                    to: event_time(offset).plus_millis(*after - 10_000),
                };
                let questions = [*offset, offset + 1, offset / 2].map(question);
                let found = delta.lookup(TOPIC, &questions).await.unwrap();
                assert_eq!(found, memory.lookup(TOPIC, &questions).await.unwrap(), "{step:?}");
            }
            Step::Compact { target_bytes } => {
                for table in Table::ALL {
                    while delta.compact(table, *target_bytes).await.unwrap().is_some() {}
                }
            }
            Step::Restart => (memory, delta) = (memory.handle(), DeltaStore::open(config()).await.unwrap()),
        }
        let partitions = [0, 1, 2];
        let (found, expected) =
            (delta.state(TOPIC, &partitions).await.unwrap(), memory.state(TOPIC, &partitions).await.unwrap());
        for (found, expected) in found.iter().zip(&expected) {
            assert_eq!(found.tables, expected.tables, "{step:?}");
        }
        assert_eq!(delta.partitions(TOPIC).await.unwrap(), memory.partitions(TOPIC).await.unwrap());
    }
    let since = [(0, Timestamp::MIN), (1, Timestamp::MIN)];
    let (found, expected) =
        (delta.read_ids(TOPIC, &since).await.unwrap(), memory.read_ids(TOPIC, &since).await.unwrap());
    let count = |ids: &[Vec<_>]| ids.iter().map(Vec::len).collect::<Vec<_>>();
    assert_eq!(count(&found), count(&expected));
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]
    #[test]
    fn answers_as_the_store_in_memory_does(steps in steps()) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        runtime.block_on(same(steps));
    }
}
