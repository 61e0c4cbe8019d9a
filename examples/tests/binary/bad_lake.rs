//! What it says of lakes that it cannot use, and that they stay whole.

use std::io::Write;

use crate::usage::{rows, wait_until};
use crate::*;

#[test]
fn no_lake_here() {
    let bench = Bench::new();
    for command in ["tables", "verify", "show silver_api_usage", "maintain"] {
        bench.pipeline(&format!("{command} --lake lake")).fails(4, &["no lake", "lake"]);
    }
    assert!(!bench.path("lake").exists(), "looking makes none");
}

#[test]
fn a_lake_that_is_a_file() {
    let bench = Bench::new();
    bench.write("in", events(0..1));
    bench.write("lake", "not a folder");
    bench.pipeline("run --input in --lake lake").fails(4, &["file", "lake"]);
    bench.pipeline("tables --lake lake").fails(4, &["file", "lake"]);
    assert_eq!(std::fs::read(bench.path("lake")).expect("the file"), b"not a folder");
}

#[test]
fn other_inputs() {
    let bench = Bench::new();
    bench.write("in", events(0..300));
    bench.write("other", events(1_000..1_400));
    bench.write("shorter", events(0..200));
    bench.pipeline("run --input in --lake lake").ok();
    let before = files(&bench.path("lake"));
    bench.pipeline("run --input other --lake lake").fails(5, &["inputs"]);
    bench.pipeline("run --input shorter --lake lake").fails(5, &["inputs"]);
    assert_eq!(files(&bench.path("lake")), before, "nothing is written");
    bench.pipeline("run --input in other --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(700));
}

#[test]
fn other_settings() {
    let bench = Bench::new();
    bench.write("in", events(0..300));
    bench.write(
        "plans.toml",
        "[plans.free]\nper_minute = 61\nper_hour = 1000\nper_month = 10000\nprice_per_thousand_units = 0\n",
    );
    bench.write("c.toml", "[rules]\nlateness_ms = 60000\n");
    bench.pipeline("run --input in --lake lake --partitions 8").ok();
    bench.write("in", events(0..400));
    bench.pipeline("run --input in --lake lake --partitions 3").fails(5, &["partitions", "lake: 8", "now: 3"]);
    bench.pipeline("run --input in --lake lake --plans plans.toml").fails(5, &["catalog", "difference: plan "]);
    bench.pipeline("run --input in --lake lake --config c.toml").fails(5, &["lateness_ms"]);
    bench.pipeline("run --input in --lake lake --default-plan pro").fails(5, &["log_plans"]);
    assert_eq!(bench.ledger(), Ledger::of(300));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(400));
}

#[test]
fn a_lake_in_use() {
    let bench = Bench::new();
    let mut first = bench
        .command("run --input - --lake lake --commit-interval 50ms")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("the binary");
    let mut pipe = first.stdin.take().expect("a pipe");
    pipe.write_all(events(0..100).as_bytes()).expect("written");
    wait_until(|| rows(&bench, "silver_api_usage") == 100);
    // A second process reads on from there; the first one is then refused.
    bench.write("in", events(0..150));
    bench.pipeline("run --input in --lake lake").ok();
    pipe.write_all(events(100..200).as_bytes()).expect("written");
    drop(pipe);
    Ran::from(first.wait_with_output().expect("an end")).fails(5, &["another process"]);
    assert_eq!(bench.ledger(), Ledger::of(150), "nothing twice");
    bench.write("in", events(0..200));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(200));
}

#[test]
fn a_lake_that_may_only_be_read() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    bench.write("in", events(0..100));
    bench.pipeline("run --input in --lake lake").ok();
    let set = |mode| {
        let chmod = Command::new("chmod").args(["-R", mode]).arg(bench.path("lake")).status().expect("chmod");
        assert!(chmod.success());
    };
    set("a-w,a+rX");
    std::fs::set_permissions(bench.folder.path(), PermissionsExt::from_mode(0o755)).expect("permissions");
    let before = files(&bench.path("lake"));
    bench.write("in", events(0..150));
    bench.as_nobody("run --input in --lake lake").fails(4, &["ermission"]);
    assert_eq!(files(&bench.path("lake")), before);
    bench.as_nobody("verify --lake lake").ok();
    set("u+w");
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(150));
}

/// On a file system of 1 MiB, which then grows.
#[test]
fn a_disk_that_fills() {
    let bench = Bench::new();
    bench.write("in", events(0..30_000));
    std::fs::create_dir(bench.path("small")).expect("a folder");
    let script = format!(
        "mount -t tmpfs -o size=1m none small || exit 99
         {pipeline} run --input in --lake small/lake --commit-interval 50ms --quiet > out 2> err; echo $? > code
         {pipeline} verify --lake small/lake > verified 2>&1; echo $? >> code
         mount -o remount,size=64m small || exit 99
         {pipeline} run --input in --lake small/lake --quiet > again 2>&1; echo $? >> code
         {pipeline} verify --lake small/lake >> verified 2>&1; echo $? >> code
         {pipeline} tables --lake small/lake --json > tables",
        pipeline = env!("CARGO_BIN_EXE_pipeline")
    );
    let ran: Ran = Command::new("unshare")
        .args(["--user", "--map-root-user", "--mount", "sh", "-c", &script])
        .current_dir(bench.folder.path())
        .output()
        .expect("unshare")
        .into();
    if ran.code != Some(0) {
        // Only where the machine lets nobody mount, and never in CI.
        assert!(std::env::var_os("CI").is_none(), "cannot mount a small file system: {}", ran.err);
        eprintln!("skipped: cannot mount a small file system: {}", ran.err);
        return;
    }
    let read = |name: &str| std::fs::read_to_string(bench.path(name)).expect(name);
    let failed = Ran {
        code: read("code").lines().next().and_then(|code| code.parse().ok()),
        out: read("out"),
        err: read("err"),
    };
    failed.fails(4, &["no space left"]);
    assert_eq!(read("code"), "4\n0\n0\n0\n", "{}\n{}\n{}", read("err"), read("again"), read("verified"));
    let page: Value = serde_json::from_str(&read("tables")).expect("JSON");
    assert_eq!(page["ledger"]["accepted"], 30_000);
}

#[test]
fn a_lake_that_is_broken_is_found() {
    let bench = Bench::new();
    bench.write("in", events(0..100));
    bench.pipeline("run --input in --lake lake").ok();
    bench.pipeline("verify --lake lake --json").ok();
    // As if the last commit of Silver had never been.
    let log = bench.path("lake/silver_api_usage/_delta_log");
    let mut entries: Vec<_> =
        files(&log).into_keys().filter(|path| path.extension().is_some_and(|e| e == "json")).collect();
    entries.sort();
    std::fs::remove_file(entries.last().expect("a commit")).expect("removed");
    let ran = bench.pipeline("verify --lake lake");
    assert_eq!(ran.code, Some(1), "{}{}", ran.out, ran.err);
    assert!(ran.out.contains("BROKEN"), "{}", ran.out);
    let verdict = bench.pipeline("verify --lake lake --json").json();
    assert_eq!(verdict["sound"], false);
}
