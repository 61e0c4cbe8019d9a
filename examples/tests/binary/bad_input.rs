//! What it says of inputs and settings that are wrong.

use crate::*;

#[test]
fn no_such_file() {
    let bench = Bench::new();
    bench.pipeline("run --input gone.log --lake lake").fails(3, &["gone.log", "no such input"]);
    assert!(!bench.path("lake").exists(), "no lake is made for nothing");
}

#[test]
fn a_folder() {
    let bench = Bench::new();
    std::fs::create_dir(bench.path("logs")).expect("a folder");
    bench.pipeline("run --input logs --lake lake").fails(3, &["input is a folder", "logs", "--input logs/*"]);
}

#[test]
fn no_permission() {
    use std::os::unix::fs::PermissionsExt;
    let bench = Bench::new();
    let path = bench.write("secret.log", events(0..3));
    std::fs::set_permissions(path, PermissionsExt::from_mode(0o000)).expect("permissions");
    bench.as_nobody("run --input secret.log --lake lake").fails(3, &["input may not be read", "secret.log"]);
}

#[test]
fn a_truncated_gzip_file() {
    let bench = Bench::new();
    let whole = gzip(events(0..5_000).as_bytes());
    bench.write("in.gz", &whole[..whole.len() / 2]);
    let ran =
        bench.pipeline("run --input in.gz --lake lake").fails(3, &["input is truncated", "in.gz", "lines read: "]);
    let read: u64 =
        ran.err.split("lines read: ").nth(1).and_then(|rest| rest.split(')').next()?.parse().ok()).expect("a number");
    assert!((1..5_000).contains(&read));
    assert_eq!(bench.ledger(), Ledger::of(read), "what was read before is committed, and whole");
    bench.write("in.gz", whole);
    bench.pipeline("run --input in.gz --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(5_000));
}

#[test]
fn a_compression_that_is_not_read() {
    let bench = Bench::new();
    bench.write("in.xz", b"\xfd7zXZ\0\0\x04\xe6");
    bench.pipeline("run --input in.xz --lake lake").fails(3, &["in.xz", "compressed with xz"]);
}

#[test]
fn binary_bytes() {
    let bench = Bench::new();
    let noise: Vec<u8> = (0..100_000u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
    bench.write("noise", &noise);
    bench.write("good", events(0..10));
    bench.pipeline("run --input noise good --lake lake").ok();
    let ledger = bench.ledger();
    assert!(ledger.dead > 100, "{ledger:?}");
    assert_eq!((ledger.accepted, ledger.read), (10, ledger.dead + 10));
}

#[test]
fn a_line_of_50_megabytes() {
    let bench = Bench::new();
    let long = format!("{{\"tenant_id\":\"tenant-1\",\"x\":\"{}\"}}", "x".repeat(50_000_000));
    bench.write("in", format!("{}\n{long}\n{}\n", event(1), event(2)));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger { read: 3, dead: 1, accepted: 2, duplicates: 0, quarantined: 0 });
    assert_eq!(bench.column("dead_letter", "error_code"), ["too_large"]);
    assert_eq!(bench.column("dead_letter", "payload_length"), [long.len()]);
    assert_eq!(bench.column("dead_letter", "payload"), [&long[..4096]]);
}

#[test]
fn an_empty_file() {
    let bench = Bench::new();
    bench.write("in", "");
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(0));
    bench.write("in", events(0..5));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(5));
}

#[test]
fn windows_line_ends_and_blank_lines() {
    let bench = Bench::new();
    bench.write("in", format!("\r\n{}\r\n\r\n{}", event(1), event(2)));
    bench.pipeline("run --input in --lake lake").ok();
    assert_eq!(bench.ledger(), Ledger::of(2));
    let mut offsets = bench.column("silver_api_usage", "offset");
    offsets.sort_by_key(Value::as_u64);
    assert_eq!(offsets, [1, 3]);
    let payloads = bench.column("bronze_api_usage", "payload");
    assert!(payloads.contains(&event(1).into()), "no CR in it: {payloads:?}");
}

#[test]
fn a_plan_file_with_an_error_on_line_7() {
    let bench = Bench::new();
    bench.write("in", events(0..1));
    let plan = "[plans.free]\nper_minute = 60\nper_hour = 1000\nper_month = 10000\nprice_per_thousand_units = 0\n\n";
    bench.write("plans.toml", format!("{plan}per_minuet = 3\n"));
    bench.pipeline("run --input in --lake lake --plans plans.toml").fails(2, &["plans.toml:7", "per_minuet"]);
    assert!(!bench.path("lake").exists());
    bench.pipeline("run --input in --lake lake --plans gone.toml").fails(2, &["gone.toml"]);
}

#[test]
fn an_unknown_key_of_the_configuration() {
    let bench = Bench::new();
    bench.write("in", events(0..1));
    bench.write("c.toml", "lake = \"lake\"\n\ncommit_intervall = \"1s\"\n");
    bench.pipeline("run --input in --config c.toml").fails(2, &["commit_intervall", "c.toml", "line: 3"]);
    bench.pipeline("run --input in --config gone.toml").fails(2, &["gone.toml"]);
    bench.write("c.toml", b"\xff\xfe");
    bench.pipeline("run --input in --config c.toml").fails(2, &["c.toml", "not UTF-8"]);
}

#[test]
fn a_mapping_of_plans_that_is_wrong() {
    let bench = Bench::new();
    bench.write("in", events(0..1));
    bench.write("t.toml", "acme = \"pro\"\nglobex = 3\n");
    let run = "run --input in --lake lake --format access-log --tenant-plans t.toml";
    bench.pipeline(run).fails(2, &["t.toml", "line: 2"]);
    bench.write("t.toml", "acme = \"gold\"\n");
    bench.pipeline(run).fails(2, &["unknown plan `gold`", "acme"]);
}

#[test]
fn flags_and_variables_that_are_wrong() {
    let bench = Bench::new();
    bench.write("in", events(0..1));
    for flags in
        ["--format csv", "--partitions 0", "--partitions x", "--commit-interval 0s", "--tenant-by path:0", "--colour"]
    {
        let ran = bench.pipeline(&format!("run --input in --lake lake {flags}"));
        assert_eq!(ran.code, Some(2), "{flags}: {}", ran.err);
    }
    bench.pipeline("run --lake lake").fails(2, &["no input", "--input"]);
    bench.pipeline("run --input in").fails(2, &["no lake", "--lake"]);
    bench.pipeline("run --input - - --lake lake").fails(2, &["standard input"]);
    bench.pipeline("run --input in --lake lake --workers 0").fails(2, &["workers"]);
    let ran: Ran =
        bench.command("run --input in --lake lake").env("PIPELINE_FORMAT", "csv").output().expect("the binary").into();
    assert_eq!(ran.code, Some(2), "{}", ran.err);
    assert!(ran.err.contains("csv"), "{}", ran.err);
    assert!(!bench.path("lake").exists());
}
