//! kill -9 at random moments and at every named point between two effects: the tables come out as if nothing had been.
//!
//! `KILLS=50 KILL_SEED=7 cargo test -p subscription-examples --test binary kill -- --nocapture` is a campaign.

use std::process::Stdio;
use std::time::Duration;

use subscription_core::testkit::reference::{Comparison, Reference, Snapshot};
use subscription_core::testkit::traffic::{Framing, Traffic, TrafficConfig};
use subscription_core::{Catalog, Rules, Table};
use subscription_delta::{DeltaConfig, DeltaStore, FAILPOINTS};

use super::Bench;

const PARTITIONS: u32 = 8;

/// All of a lake's rows, as lines in order.
fn contents(bench: &Bench, lake: &str) -> Vec<(Table, Vec<String>)> {
    let show = |table: Table, columns: &str| -> Vec<String> {
        let line = format!("show {} --lake {lake} --format json{columns}", table.name());
        let mut lines: Vec<_> = bench.pipeline(&line).ok().out.lines().map(str::to_owned).collect();
        lines.sort_unstable();
        lines
    };
    let mut contents: Vec<_> = Table::ALL.iter().map(|&table| (table, show(table, ""))).collect();
    // What a row needs to take a later event is part of the truth too.
    for table in [Table::UsageMinute, Table::UsageHour, Table::UsageMonth] {
        contents.push((table, show(table, " --columns tenant_id,window_start,state")));
    }
    contents
}

#[track_caller]
fn assert_same(got: &[(Table, Vec<String>)], expected: &[(Table, Vec<String>)], context: &str) {
    for ((table, got), (_, expected)) in got.iter().zip(expected) {
        if let Some((got, expected)) = got.iter().zip(expected).find(|(got, expected)| got != expected) {
            panic!("{context}: {}:\n  got      {got}\n  expected {expected}", table.name());
        }
        assert_eq!(got.len(), expected.len(), "{context}: rows of {}", table.name());
    }
}

/// Every named point, of every table.
fn points() -> Vec<String> {
    FAILPOINTS
        .iter()
        .flat_map(|point| match point.strip_suffix("{table}") {
            Some(point) => Table::ALL.iter().map(|table| format!("{point}{}", table.name())).collect(),
            None => vec![(*point).to_owned()],
        })
        .collect()
}

fn setting(name: &str, default: u64) -> u64 {
    std::env::var(name)
        .map_or(default, |value| value.parse().unwrap_or_else(|_| panic!("{name} is no number: {value}")))
}

#[test]
fn killed_runs_come_to_the_tables_of_one_that_was_not() {
    let (kills, seed) = (setting("KILLS", 12), setting("KILL_SEED", 1));
    println!("KILLS={kills} KILL_SEED={seed}");
    // SplitMix64 (Steele, Lea, Flood 2014).
    let mut state = seed;
    let mut below = |n: u64| {
        state = state.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = state;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % n
    };

    let bench = Bench::new();
    let traffic = || Traffic::new(TrafficConfig { events: 20_000, ..TrafficConfig::trouble(seed) });
    let mut input = Vec::new();
    traffic().write_ndjson(&mut input).expect("memory");
    bench.write("in", &input);
    bench.pipeline("run --input in --lake whole").ok();
    let expected = contents(&bench, "whole");

    // Small commits and little memory: many effects to be killed between.
    let flags = "--commit-interval 10ms --gold-interval 40ms --max-uncommitted-bytes 400KiB --max-dedup-ids 800";
    let points = points();
    let (mut killed, mut at_points, mut round) = (0, 0, 0);
    while killed < kills {
        let lake = format!("lake-{round}");
        round += 1;
        loop {
            let mut command = bench.command(&format!("run --input in --lake {lake} {flags}"));
            command.stdout(Stdio::null()).stderr(Stdio::null());
            let done = killed >= kills;
            let by_point = !done && below(2) == 0;
            if by_point {
                // Each point once at the least, in a campaign that is long enough.
                let point = &points[(at_points as usize) % points.len()];
                command.env("SUBSCRIPTION_FAILPOINT", format!("{point}:{}", 1 + below(4)));
            }
            let mut child = command.spawn().expect("the binary");
            if !by_point && !done {
                std::thread::sleep(Duration::from_millis(20 + below(700)));
                // It may have ended meanwhile.
                let _ = child.kill();
            }
            let status = child.wait().expect("an end");
            match status.code() {
                Some(0) => break,
                Some(code) => panic!("seed {seed}, round {round}: the run ended with {code}"),
                None => killed += 1,
            }
            at_points += u64::from(by_point);
        }
        assert_same(&contents(&bench, &lake), &expected, &format!("seed {seed}, round {round}"));
        bench.pipeline(&format!("verify --lake {lake}")).ok();
    }
    println!("{killed} kills, {at_points} of them at a named point, in {round} lakes");

    // And what was not killed is right.
    let mut records = traffic().to_batches(PARTITIONS, Framing::File, usize::MAX);
    records.sort_by_key(subscription_core::RecordBatch::partition);
    let reference = Reference::of(&records, &Rules::default(), &Catalog::default(), None);
    let partitions: Vec<u32> = (0..PARTITIONS).collect();
    let got = tokio::runtime::Runtime::new().expect("a runtime").block_on(async {
        let path = bench.path("whole");
        let store = DeltaStore::open_existing(DeltaConfig::new(&path.to_string_lossy()).expect("a path"))
            .await
            .expect("a lake");
        Snapshot::read(&store, "file", &partitions).await.expect("rows")
    });
    Comparison::with_reference().compare(&got, &reference.tables).unwrap_or_else(|differences| panic!("{differences}"));
}
