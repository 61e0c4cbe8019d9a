//! What it does.

use std::io::Write;
use std::process::Stdio;

use crate::*;

#[test]
fn the_sample_log_comes_out_in_every_table() {
    let bench = Bench::new();
    let data = concat!(env!("CARGO_MANIFEST_DIR"), "/data");
    let line = format!("run --input {data}/access.log --tenant-plans {data}/tenants.toml --lake lake --json");
    let page = bench.pipeline(&line).ok().json();
    assert_eq!(page["run"]["ended"], true);
    assert_eq!(page["run"]["read"], 1_894, "one of 1,895 lines is blank");
    let expected = Ledger { read: 1_894, dead: 3, accepted: 1_885, duplicates: 0, quarantined: 6 };
    assert_eq!(bench.ledger(), expected);
    // Three scripts over their limit, and somebody who tries passwords.
    let mut over = Vec::new();
    let shown = bench.pipeline("show enforcement_alerts --lake lake --format json").ok();
    for row in shown.out.lines().map(|line| serde_json::from_str::<Value>(line).expect("JSON")) {
        if row["alert_type"] != "approaching_limit" {
            over.push(format!("{} {} {}", row["tenant_id"], row["alert_type"], row["total_requests"]).replace('"', ""));
        }
    }
    over.sort();
    assert_eq!(
        over,
        [
            "198.51.100.77 over_limit 98",
            "2001:db8:77::5 over_limit 72",
            "203.0.113.200 over_limit 85",
            "203.0.113.66 abuse_detected 38"
        ]
    );
    let plans: Vec<_> =
        page["bills"][0]["plans"].as_array().expect("plans").iter().map(|p| p["plan"].clone()).collect();
    assert_eq!(plans, ["enterprise", "free", "pro", "starter"]);
    assert!(bench.column("silver_api_usage", "endpoint").iter().all(|e| !e.as_str().expect("text").contains('?')));
}

#[test]
fn run_again_adds_nothing_and_a_longer_file_what_is_new() {
    let bench = Bench::new();
    bench.write("in", events(0..500));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(500));
    let before = files(&bench.path("lake"));
    let again = bench.pipeline("run --input in --lake lake --json").ok().json();
    assert_eq!(again["run"]["read"], 0);
    assert_eq!(files(&bench.path("lake")), before, "not a byte changes");
    bench.write("in", events(0..700));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(700));
    // The same file goes on in another one, and as another compression.
    bench.write("more.gz", gzip(events(700..800).as_bytes()));
    bench.write("in", zstd::stream::encode_all(events(0..700).as_bytes(), 1).expect("memory"));
    bench.pipeline("run --input in more.gz --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(800));
}

#[test]
fn a_log_read_twice_adds_nothing() {
    let bench = Bench::new();
    let line = |second: u32| format!("192.0.2.1 - - [05/Jan/2026:10:00:{second:02} +0000] \"GET / HTTP/1.1\" 200 1\n");
    // The first two lines are equal, and two requests.
    let log = [line(1), line(1), line(2), line(3)].concat();
    bench.write("access.log.1", &log);
    bench.write("access.log", log + &line(4));
    bench.pipeline("run --input access.log.1 access.log --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger { read: 9, dead: 0, accepted: 5, duplicates: 4, quarantined: 0 });
}

#[test]
fn standard_input_is_an_input() {
    let bench = Bench::new();
    let mut child = bench
        .command("run --input - --lake lake --partitions 3 --commit-interval 100ms --quiet")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary");
    child.stdin.take().expect("a pipe").write_all(events(0..100).as_bytes()).expect("written");
    assert!(child.wait().expect("an end").success());
    assert_eq!(bench.ledger(), Ledger::of(100));
}

#[test]
fn an_interrupted_run_commits_what_it_read_and_is_gone_on_with() {
    let bench = Bench::new();
    for (signal, code, read) in [("-INT", 130, 100), ("-TERM", 143, 200)] {
        let mut child = bench
            .command("run --input - --lake lake --commit-interval 100ms --json")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the binary");
        let mut pipe = child.stdin.take().expect("a pipe");
        pipe.write_all(events(0..read).as_bytes()).expect("written");
        wait_until(|| rows(&bench, "silver_api_usage") == read);
        let sent = Command::new("kill").arg(signal).arg(child.id().to_string()).status().expect("kill");
        assert!(sent.success());
        let ran = Ran::from(child.wait_with_output().expect("an end"));
        assert_eq!(ran.code, Some(code), "{}", ran.err);
        assert_eq!(ran.json()["run"]["ended"], false);
        assert_eq!(bench.ledger(), Ledger::of(read), "Gold too");
        drop(pipe);
    }
    bench.write("in", events(0..250));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(250));
}

#[test]
fn a_lake_is_maintained_beside_the_run_that_fills_it() {
    let bench = Bench::new();
    let mut child = bench
        .command("run --input - --lake lake --commit-interval 1ms --quiet")
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary");
    let mut pipe = child.stdin.take().expect("a pipe");
    for n in 0..10 {
        pipe.write_all(events(n * 10..n * 10 + 10).as_bytes()).expect("written");
        wait_until(|| rows(&bench, "silver_api_usage") == n * 10 + 10);
    }
    let files = |bench: &Bench| {
        let tables = bench.pipeline("tables --lake lake --json").ok().json()["tables"].clone();
        let of = |name: &str| {
            tables.as_array().expect("tables").iter().find(|t| t["table"] == name).expect("a table")["files"].as_u64()
        };
        ["bronze_api_usage", "silver_api_usage"].map(|name| of(name).expect("a number"))
    };
    assert!(files(&bench).iter().all(|files| *files >= 10));
    let page = bench.pipeline("maintain --lake lake").ok().out;
    assert!(page.contains("\n  bronze_api_usage "), "{page}");
    assert_eq!(files(&bench), [1, 1], "{page}");
    pipe.write_all(events(100..150).as_bytes()).expect("written");
    drop(pipe);
    assert!(child.wait().expect("an end").success());
    assert_eq!(bench.ledger(), Ledger::of(150));
    bench.pipeline("verify --lake lake").ok();
}

/// Rows of a table, 0 while there is no lake.
pub(crate) fn rows(bench: &Bench, table: &str) -> u64 {
    let ran = bench.pipeline("tables --lake lake --json");
    if ran.code != Some(0) {
        return 0;
    }
    let tables = ran.json()["tables"].as_array().expect("tables").clone();
    tables.iter().find(|t| t["table"] == table).and_then(|t| t["rows"].as_u64()).expect("a table")
}

/// Waits for something that is bound to happen.
pub(crate) fn wait_until(mut happened: impl FnMut() -> bool) {
    while !happened() {
        std::thread::sleep(std::time::Duration::from_millis(50));
    }
}

#[test]
fn rows_are_shown_in_every_format() {
    let bench = Bench::new();
    bench.write("in", events(0..40));
    bench.pipeline("run --input in --lake lake").ok();
    let table = bench.pipeline("show silver_api_usage --lake lake --columns tenant_id,offset").ok();
    assert!(table.out.starts_with("  tenant_id  offset\n"), "{}", table.out);
    assert_eq!(table.out.lines().count(), 21);
    assert!(table.err.contains("--limit"), "{}", table.err);
    let csv = bench.pipeline("show silver_api_usage --lake lake --tenant tenant-3 --format csv --columns offset").ok();
    let mut offsets: Vec<_> = csv.out.lines().collect();
    offsets[1..].sort_unstable();
    assert_eq!(offsets, ["offset", "20", "3", "37"]);
    let json = bench.pipeline("show tenant_usage_monthly --lake lake --format json --limit 2").ok();
    assert_eq!(json.out.lines().count(), 2);
    assert!(!json.out.contains("\"state\""), "what nobody can read is not shown");
    let none = bench.pipeline("show dead_letter --lake lake").ok();
    assert_eq!(none.err, "no rows\n");
    bench.pipeline("show silver --lake lake").fails(2, &["there is no table `silver`", "silver_api_usage"]);
    bench.pipeline("show dead_letter --lake lake --columns x").fails(2, &["no column `x`"]);
    bench.pipeline("show dead_letter --lake lake --tenant x").fails(2, &["tenant_id"]);
}

#[test]
fn made_up_events_are_generated_and_may_be_read_in_part() {
    let bench = Bench::new();
    let lines = bench.pipeline("generate --events 300 --tenants 5 --seed 3").ok().out;
    assert_eq!(lines.lines().count(), 300);
    bench.write("in", lines);
    bench.pipeline("run --input in --lake lake --format events").ok();
    assert_eq!(bench.ledger(), Ledger::of(300));
    // The reader leaves after a line.
    let mut child = bench
        .command("generate --events 1000000")
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut first = String::new();
    let mut reader = std::io::BufReader::new(child.stdout.take().expect("a pipe"));
    std::io::BufRead::read_line(&mut reader, &mut first).expect("a line");
    drop(reader);
    let ran = Ran::from(child.wait_with_output().expect("an end")).ok();
    assert_eq!(ran.err, "");
}

#[test]
fn the_demo_shows_every_section() {
    let bench = Bench::new();
    let page = bench.pipeline("demo --events 5000 --dir .").ok().out;
    for section in [
        "Read to the end",
        "Ledger (closed)",
        "Dead letters",
        "Quarantine",
        "Top tenants",
        "Alerts",
        "Bill of",
        "Look further",
    ] {
        assert!(page.contains(section), "no {section} in {page}");
    }
    bench.pipeline("verify --lake lake").ok();
}

#[test]
fn settings_come_from_flags_then_environment_then_file() {
    let bench = Bench::new();
    bench.write("in", events(0..50));
    bench.write("c.toml", "lake = \"from-file\"\npartitions = 2\ninput = [\"in\"]\n");
    let positions = |lake: &str| {
        let page = bench.pipeline(&format!("tables --lake {lake} --json")).ok().json();
        page["tables"][1]["positions"].as_array().expect("positions").len()
    };
    bench.pipeline("run --config c.toml").ok();
    assert_eq!(positions("from-file"), 2);
    let ran: Ran = bench
        .command("run --partitions 4")
        .envs([("PIPELINE_CONFIG", "c.toml"), ("PIPELINE_PARTITIONS", "3"), ("PIPELINE_LAKE", "from-variable")])
        .output()
        .expect("the binary")
        .into();
    ran.ok();
    assert_eq!(positions("from-variable"), 4);
}

#[test]
fn help_tells_the_exit_codes() {
    let help = Bench::new().pipeline("--help").ok().out;
    for word in ["demo", "generate", "run", "tables", "show", "verify", "query", "Exit codes:", "130"] {
        assert!(help.contains(word), "no {word} in {help}");
    }
}
