//! The process ends at each named point between two effects; the next one goes on, and the tables are whole.
//!
//! `cargo test -p subscription-delta --features failpoints crash`

use std::process::{Command, Stdio};

use subscription_core::{Settings, Table, TableStore};
use subscription_delta::{DeltaConfig, DeltaStore, FAILPOINTS};

use crate::support::*;

const LAKE: &str = "SUBSCRIPTION_TEST_LAKE";
const ROUNDS: u64 = 5;
const STEP: u64 = 10;

/// Not a test of its own: what the processes do that are ended. It goes on where the tables are.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn process() {
    let Ok(path) = std::env::var(LAKE) else { return };
    let lake = DeltaStore::open(DeltaConfig::new(&path).unwrap().durable(false)).await.unwrap();
    if lake.settings().await.unwrap().is_none() {
        lake.put_settings(Settings { version: 1, json: "{}".into() }).await.unwrap();
    }
    let end = ROUNDS * STEP;
    loop {
        let state = lake.state(TOPIC, &[0]).await.unwrap().remove(0);
        let [quarantine, silver] = SILVER.map(|table| state.position(table));
        if silver < quarantine {
            lake.commit(step(&[Table::Silver], 0, silver, quarantine)).await.unwrap();
        } else if silver < end {
            lake.commit(step(&SILVER, 0, silver, silver + STEP)).await.unwrap();
        }
        let minute = state.position(Table::UsageMinute);
        if minute < end {
            let ids: Vec<_> = state.ranges.iter().map(|range| range.id.clone()).collect();
            let mut gold = commit(&[Table::UsageMinute], &[(0, minute, minute + STEP)], &[]);
            gold.ranges = vec![range(Table::UsageMinute, 0, &[(0, "a"), (0, "b")], (minute + STEP) as i64, &ids)];
            lake.commit(gold.into()).await.unwrap();
        }
        if silver >= end && minute >= end {
            return;
        }
    }
}

fn run(lake: &std::path::Path, failpoint: Option<&str>) -> bool {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", "crash::process"]).env(LAKE, lake).stdout(Stdio::null()).stderr(Stdio::null());
    command.env_remove("SUBSCRIPTION_FAILPOINT");
    if let Some(failpoint) = failpoint {
        command.env("SUBSCRIPTION_FAILPOINT", failpoint);
    }
    command.status().unwrap().success()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn at_every_point() {
    let tables = [Table::Quarantine, Table::Silver, Table::UsageMinute];
    for point in FAILPOINTS {
        let names = match point.strip_suffix("{table}") {
            Some(prefix) => tables.map(|table| format!("{prefix}{}", table.name())).to_vec(),
            None => vec![point.to_owned()],
        };
        for name in names {
            let counts = if name == "delta.after_settings" { 1 } else { 3 };
            for count in 1..=counts {
                let dir = tempfile::tempdir().unwrap();
                let path = dir.path().join("lake");
                assert!(!run(&path, Some(&format!("{name}:{count}"))), "{name}:{count} ends the process");
                assert!(run(&path, None), "the next one goes on after {name}:{count}");

                let lake = DeltaStore::open_existing(config(dir.path())).await.unwrap();
                let rows = lake.read_silver(TOPIC, 0, 0, u64::MAX, usize::MAX).await.unwrap();
                assert_eq!(shown(&rows), shown(&admitted(0, 0, ROUNDS * STEP).accepted), "after {name}:{count}");
                let infos = lake.info().await.unwrap();
                let rows = tables.map(|table| infos[table as usize].rows);
                assert_eq!(rows, [ROUNDS, 7 * ROUNDS, 2], "after {name}:{count}");
                let state = lake.state(TOPIC, &[0]).await.unwrap().remove(0);
                assert_eq!(tables.map(|table| state.position(table)), [ROUNDS * STEP; 3]);
            }
        }
    }
}
