//! File → all layers, by the real binary: events a second, CPU an event, peak memory, by kind of traffic.
//!
//! `cargo build --release --bin pipeline && cargo bench -p subscription-benches --bench end_to_end [-- EVENTS]`

use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use subscription_core::testkit::traffic::{Traffic, TrafficConfig};
use subscription_core::{Clock as _, SystemClock};

struct Measured {
    seconds: f64,
    cpu: f64,
    peak_mib: f64,
}

/// The release binary beside this benchmark, or the one that `PIPELINE_BIN` names.
fn binary() -> PathBuf {
    std::env::var_os("PIPELINE_BIN").map_or_else(
        || {
            let here = std::env::current_exe().expect("a path");
            here.ancestors().nth(2).expect("target/release/deps").join("pipeline")
        },
        PathBuf::from,
    )
}

fn run(input: &Path, lake: &Path, flags: &[&str]) -> Measured {
    let clock = SystemClock::new();
    let mut child = Command::new(binary())
        .args(["run", "--quiet", "--input"])
        .arg(input)
        .arg("--lake")
        .arg(lake)
        .args(flags)
        .stdout(Stdio::null())
        .spawn()
        .unwrap_or_else(|e| {
            panic!("{}: {e}; build it with `cargo build --release --bin pipeline`", binary().display())
        });
    let proc = PathBuf::from(format!("/proc/{}", child.id()));
    let mut last = Measured { seconds: 0.0, cpu: 0.0, peak_mib: 0.0 };
    // What the system told last before the end, to a fiftieth of a second.
    let status = loop {
        if let Some(status) = child.try_wait().expect("a child") {
            break status;
        }
        if let (Ok(stat), Ok(status)) =
            (std::fs::read_to_string(proc.join("stat")), std::fs::read_to_string(proc.join("status")))
        {
            let ticks = stat.rsplit(')').next().unwrap_or_default().split_whitespace().skip(11).take(2);
            last.cpu = ticks.filter_map(|t| t.parse::<f64>().ok()).sum::<f64>() / 100.0;
            let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
            let kib = peak.and_then(|text| text.trim().trim_end_matches(" kB").parse::<f64>().ok());
            last.peak_mib = kib.map_or(last.peak_mib, |kib| kib / 1024.0);
        }
        std::thread::sleep(Duration::from_millis(20));
    };
    assert!(status.success(), "the run failed: {status}");
    last.seconds = clock.monotonic_nanos() as f64 / 1e9;
    last
}

fn main() {
    let events = std::env::args().find_map(|arg| arg.parse().ok()).unwrap_or(2_000_000u64);
    let folder = tempfile::tempdir().expect("a folder");
    let scenarios: [(&str, TrafficConfig, &[&str]); 6] = [
        ("steady, 10,000 tenants", TrafficConfig::steady(1), &["--commit-interval", "10s"]),
        ("the same, --commit-interval 1s", TrafficConfig::steady(1), &["--commit-interval", "1s"]),
        ("20 % late", TrafficConfig::late_heavy(1), &[]),
        ("every event twice", TrafficConfig::twice(1), &[]),
        ("500,000 tenants", TrafficConfig::many_tenants(1), &[]),
        ("one tenant has half", TrafficConfig::hot_tenant(1), &[]),
    ];
    println!("| {events} events | events/s | of the first | CPU µs/event | peak MiB |\n|---|--:|--:|--:|--:|");
    let mut first = None;
    for (name, config, flags) in scenarios {
        let input = folder.path().join("in.ndjson");
        let file = BufWriter::with_capacity(1 << 20, std::fs::File::create(&input).expect("a file"));
        Traffic::new(TrafficConfig { events, ..config }).write_ndjson(&mut { file }).expect("written");
        let lake = folder.path().join("lake");
        let done = run(&input, &lake, flags);
        let rate = events as f64 / done.seconds;
        println!(
            "| {name} | {rate:.0} | {:.0} % | {:.2} | {:.0} |",
            100.0 * rate / *first.get_or_insert(rate),
            done.cpu * 1e6 / events as f64,
            done.peak_mib
        );
        std::fs::remove_dir_all(&lake).expect("removed");
    }
}
