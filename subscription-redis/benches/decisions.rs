//! Decisions against a real server, from several processes at once: how long they take, and that no tenant and minute is
//! admitted more than its limit, nor denied below it.
//!
//! `cargo bench -p subscription-redis --bench decisions -- [processes] [decisions a second] [seconds]`
//!
//! Each process sends its part by the clock, whether or not earlier ones were answered (no coordinated omission), in bursts
//! of what is due in a millisecond.

use std::collections::HashMap;
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use subscription_core::{Check, Clock, CounterStore, Limits, SystemClock, WindowAlgorithm, WindowKind};
use subscription_redis::{RedisConfig, RedisCounters};

const TENANTS: usize = 50;
/// Reached within a minute by some and not by others.
const LIMITS: Limits =
    Limits { per_minute: 10_000, per_hour: 10_000_000, per_month: 100_000_000, window: WindowAlgorithm::Fixed };
const DEADLINE: Duration = Duration::from_secs(1);

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, url, rate, seconds] = &arguments[..]
        && child == "child"
    {
        let number = |text: &str| text.parse().expect("a number");
        return child_process(url, number(rate), number(seconds));
    }
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().expect("a number"));
    parent(number(0, 2), number(1, 20_000), number(2, 20));
}

fn parent(processes: u64, rate: u64, seconds: u64) {
    let folder = tempfile::tempdir().expect("a folder");
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/redis.sh");
    let servers = folder.path().join("redis");
    let up =
        Command::new(&script).args(["up", "--port", "random", "--dir"]).arg(&servers).output().expect("dev/redis.sh");
    assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    let url = String::from_utf8_lossy(&up.stdout).trim().to_owned();
    let children: Vec<_> = (0..processes)
        .map(|_| {
            Command::new(std::env::current_exe().expect("this program"))
                .args(["child", &url, &(rate / processes).to_string(), &seconds.to_string()])
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child")
        })
        .collect();
    let mut times: Vec<(u64, u64)> = Vec::new();
    // By tenant and minute.
    let mut admitted: HashMap<(String, i64), i64> = HashMap::new();
    let mut denied: HashMap<(String, i64), i64> = HashMap::new();
    let (mut decided, mut failed) = (0, 0);
    for mut child in children {
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        for line in lines.map(|line| line.expect("a line")) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["time", micros, count] => times.push((micros.parse().unwrap(), count.parse().unwrap())),
                [verdict @ ("admitted" | "denied"), tenant, minute, count] => {
                    let counts = if verdict == "admitted" { &mut admitted } else { &mut denied };
                    *counts.entry((tenant.to_owned(), minute.parse().unwrap())).or_default() +=
                        count.parse::<i64>().unwrap();
                }
                ["decided", count, failures] => {
                    decided += count.parse::<u64>().unwrap();
                    failed += failures.parse::<u64>().unwrap();
                }
                _ => panic!("{line}"),
            }
        }
        assert!(child.wait().expect("a child").success());
    }
    let down = Command::new(&script).args(["down", "--dir"]).arg(&servers).status();
    assert!(down.expect("dev/redis.sh").success());

    times.sort_unstable();
    let total: u64 = times.iter().map(|(_, count)| count).sum();
    let percentile = |p: f64| {
        let mut left = (total as f64 * p).ceil() as u64;
        times.iter().find_map(|(micros, count)| {
            if left <= *count {
                Some(*micros)
            } else {
                left -= count;
                None
            }
        })
    };
    println!("{processes} processes, {rate} decisions/s asked, {} made, {failed} unanswered", decided / seconds);
    for (name, p) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        println!("{name:>6} {:>8} µs", percentile(p).unwrap_or_default());
    }
    let most = admitted.values().max().copied().unwrap_or_default();
    let at_limit = admitted.values().filter(|count| **count == LIMITS.per_minute).count();
    println!(
        "{} tenant minutes, {at_limit} of them exactly at the limit of {}, most {most}",
        admitted.len(),
        LIMITS.per_minute
    );
    let below = |place: &&(String, i64)| admitted.get(*place).is_none_or(|count| *count < LIMITS.per_minute);
    // What was counted and then not answered in time is admitted to nobody.
    let wrongly: i64 = denied.keys().filter(below).map(|place| denied[place]).sum();
    println!("{} denied, {wrongly} of them below the limit", denied.values().sum::<i64>());
    assert!(most <= LIMITS.per_minute, "more than the limit was admitted");
    assert!(failed > 0 || wrongly == 0, "a decision was denied below the limit");
}

fn child_process(url: &str, rate: u64, seconds: u64) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let counters = RedisCounters::connect(RedisConfig::new(url).expect("a URL")).await.expect("a server");
        let counters = Arc::new(counters);
        let names: Vec<Arc<str>> = (0..TENANTS).map(|n| format!("tenant-{n}").into()).collect();
        let clock = SystemClock::new();
        let mut tasks = tokio::task::JoinSet::new();
        let begin = clock.monotonic_nanos();
        for n in 0..rate * seconds {
            let due = begin + n * 1_000_000_000 / rate;
            // The timer's granularity is a millisecond: what is due within it is sent together.
            if let Some(early) = due.checked_sub(clock.monotonic_nanos()).filter(|early| *early > 0) {
                tokio::time::sleep(Duration::from_nanos(early)).await;
            }
            let sent = clock.monotonic_nanos();
            // Tenants differ in how much they ask: the first half three times as much.
            let tenant = names[(n / 2 * 31) as usize % if n % 2 == 0 { TENANTS / 2 } else { TENANTS }].clone();
            let counters = counters.clone();
            tasks.spawn(async move {
                let check = Check { tenant: &tenant, limits: LIMITS, scopes: &[], cost: 1, at: None };
                let decision = counters.check_and_add(check, DEADLINE).await;
                ((clock.monotonic_nanos() - sent) / 1_000, tenant, decision)
            });
        }
        let (mut times, mut verdicts) = (HashMap::<u64, u64>::new(), HashMap::<_, i64>::new());
        let (mut decided, mut failed) = (0, 0);
        while let Some(done) = tasks.join_next().await {
            let (micros, tenant, decision) = done.expect("a decision");
            *times.entry(micros).or_default() += 1;
            match decision {
                Ok(decision) => {
                    decided += 1;
                    let minute = WindowKind::Minute.start(decision.at).millis();
                    *verdicts.entry((decision.allowed, tenant, minute)).or_default() += 1;
                }
                Err(_) => failed += 1,
            }
        }
        times.iter().for_each(|(micros, count)| println!("time {micros} {count}"));
        for ((allowed, tenant, minute), count) in verdicts {
            println!("{} {tenant} {minute} {count}", if allowed { "admitted" } else { "denied" });
        }
        println!("decided {decided} {failed}");
    });
}
