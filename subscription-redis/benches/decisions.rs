//! Decisions against a real server, from several processes at once: how long they take, and that no tenant is admitted more
//! than its limit says, nor denied below it.
//!
//! `cargo bench -p subscription-redis --bench decisions -- [processes] [decisions a second] [seconds] [fixed|sliding|near] [bursts|even]`
//!
//! * `fixed` (default): in no minute more than the limit L.
//! * `sliding`: at no millisecond is what was admitted in its minute, and the share of the minute before that counts then, more
//!   than L.
//! * `near`: fixed, with the near cache of share f in each of n processes: in no minute more than L + n·⌊f·L ÷ n⌋.
//!
//! Each process sends its part by the clock, whether or not earlier ones were answered (no coordinated omission). With `bursts`
//! (default) what is due in a millisecond is sent together, so that a decision also waits for those before it; with `even` each is
//! sent when it is due, as requests of many clients come, by a thread of its own that sleeps in between.

#[path = "../tests/it/server.rs"]
mod server;

use std::collections::{BTreeMap, HashMap};
use std::io::{BufRead, BufReader};
use std::process::{Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use server::Servers;
use subscription_core::{
    Check, Clock, CounterStore, DecidedBy, Decision, Enforcer, EnforcerConfig, FailurePolicy, Limits, NearCacheConfig,
    SystemClock, WindowAlgorithm, WindowKind,
};
use subscription_redis::{RedisConfig, RedisCounters};
use tokio::sync::mpsc;

const TENANTS: usize = 50;
/// Reached within a minute by some and not by others.
const LIMIT: i64 = 10_000;
const DEADLINE: Duration = Duration::from_secs(1);
const MINUTE: i64 = 60_000;

/// By tenant and time, in milliseconds: the minute's start, or where the window slides the decision's time.
type Counts = BTreeMap<(String, i64), i64>;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Fixed,
    Sliding,
    Near,
}

impl Mode {
    fn of(name: &str) -> Self {
        match name {
            "fixed" => Self::Fixed,
            "sliding" => Self::Sliding,
            "near" => Self::Near,
            other => panic!("{other}: fixed, sliding or near"),
        }
    }

    fn limits(self) -> Limits {
        let window = if self == Self::Sliding { WindowAlgorithm::Sliding } else { WindowAlgorithm::Fixed };
        Limits { per_minute: LIMIT, per_hour: 10_000_000, per_month: 100_000_000, window }
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    if let [child, url, processes, rate, seconds, mode, pace] = &arguments[..]
        && child == "child"
    {
        let number = |text: &str| text.parse().expect("a number");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let pace = Pace { rate: number(rate), seconds: number(seconds), even: pace == "even" };
        return runtime.block_on(child_process(url, number(processes), pace, Mode::of(mode)));
    }
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().expect("a number"));
    let word = |at: usize, default| arguments.get(at).map_or(default, String::as_str);
    parent(number(0, 2), number(1, 20_000), number(2, 20), word(3, "fixed"), word(4, "bursts"));
}

fn parent(processes: u64, rate: u64, seconds: u64, mode: &str, pace: &str) {
    let Some(servers) = Servers::up(&[]) else { return };
    let children: Vec<_> = (0..processes)
        .map(|_| {
            Command::new(std::env::current_exe().expect("this program"))
                .args(["child", servers.url(), &processes.to_string(), &(rate / processes).to_string()])
                .args([&seconds.to_string(), mode, pace])
                .stdout(Stdio::piped())
                .spawn()
                .expect("a child")
        })
        .collect();
    let mut times: Vec<(u64, u64)> = Vec::new();
    let (mut admitted, mut denied) = (Counts::new(), Counts::new());
    let (mut decided, mut near, mut failed) = (0, 0, 0);
    for mut child in children {
        let lines = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        for line in lines.map(|line| line.expect("a line")) {
            let words: Vec<&str> = line.split(' ').collect();
            match words[..] {
                ["time", micros, count] => times.push((micros.parse().unwrap(), count.parse().unwrap())),
                [verdict @ ("admitted" | "denied"), tenant, time, count] => {
                    let counts = if verdict == "admitted" { &mut admitted } else { &mut denied };
                    *counts.entry((tenant.to_owned(), time.parse().unwrap())).or_default() +=
                        count.parse::<i64>().unwrap();
                }
                ["decided", count, by_near, failures] => {
                    decided += count.parse::<u64>().unwrap();
                    near += by_near.parse::<u64>().unwrap();
                    failed += failures.parse::<u64>().unwrap();
                }
                _ => panic!("{line}"),
            }
        }
        assert!(child.wait().expect("a child").success());
    }

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
    println!(
        "{mode}, {pace}, {processes} processes, {rate} decisions/s asked, {} made, {near} of all by the near cache, {failed} unanswered",
        decided / seconds
    );
    for (name, p) in [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)] {
        println!("{name:>6} {:>8} µs", percentile(p).unwrap_or_default());
    }
    if mode == "sliding" {
        check_sliding(&admitted, &denied, failed);
    } else {
        check_fixed(&admitted, &denied, failed, if mode == "near" { processes } else { 0 });
    }
}

/// `near`: how many near caches there are.
fn check_fixed(admitted: &Counts, denied: &Counts, failed: u64, near: u64) {
    let bound = match near as i64 {
        0 => LIMIT,
        n => LIMIT + n * ((NearCacheConfig::default().share * LIMIT as f64) as i64 / n),
    };
    let most = admitted.values().max().copied().unwrap_or_default();
    let at_limit = admitted.values().filter(|count| **count == LIMIT).count();
    let beyond = admitted.values().filter(|count| **count > LIMIT).count();
    println!(
        "{} tenant minutes, {at_limit} of them exactly at the limit of {LIMIT}, {beyond} beyond, most {most} (bound {bound})",
        admitted.len()
    );
    let below = |place: &&(String, i64)| admitted.get(*place).is_none_or(|count| *count < LIMIT);
    // What was counted and then not answered in time is admitted to nobody.
    let wrongly: i64 = denied.keys().filter(below).map(|place| denied[place]).sum();
    println!("{} denied, {wrongly} of them below the limit", denied.values().sum::<i64>());
    assert!(most <= bound, "more than the bound was admitted");
    assert!(failed > 0 || wrongly == 0, "a decision was denied below the limit");
}

/// Within a millisecond the order of decisions is not known: what was used at its end is what the last one left.
fn check_sliding(admitted: &Counts, denied: &Counts, failed: u64) {
    let mut minutes = Counts::new();
    for ((tenant, at), count) in admitted {
        *minutes.entry((tenant.clone(), at.div_euclid(MINUTE))).or_default() += count;
    }
    let before = |tenant: &String, at: i64| {
        let previous = minutes.get(&(tenant.clone(), at.div_euclid(MINUTE) - 1)).copied().unwrap_or_default();
        previous * (MINUTE - at.rem_euclid(MINUTE)) / MINUTE
    };
    let mut used: BTreeMap<&String, BTreeMap<i64, i64>> = BTreeMap::new();
    let mut most = 0;
    for ((tenant, at), count) in admitted {
        let of_tenant = used.entry(tenant).or_default();
        let same = of_tenant.last_key_value().filter(|(last, _)| last.div_euclid(MINUTE) == at.div_euclid(MINUTE));
        let current = same.map_or(0, |(_, current)| *current) + count;
        of_tenant.insert(*at, current);
        most = most.max(current + before(tenant, *at));
    }
    let wrongly: i64 = denied
        .iter()
        .filter(|((tenant, at), _)| {
            let last = used.get(tenant).and_then(|used| used.range(..=at).next_back());
            let current = last.filter(|(last, _)| last.div_euclid(MINUTE) == at.div_euclid(MINUTE));
            current.map_or(0, |(_, current)| *current) + before(tenant, *at) < LIMIT
        })
        .map(|(_, count)| count)
        .sum();
    let full = minutes.values().max().copied().unwrap_or_default();
    println!(
        "{} tenant minutes, most admitted in one {full}; used by the formula at most {most} of {LIMIT} at any millisecond",
        minutes.len()
    );
    println!("{} denied, {wrongly} of them below the limit", denied.values().sum::<i64>());
    assert!(most <= LIMIT, "more than the formula allows was admitted");
    assert!(failed > 0 || wrongly == 0, "a decision was denied below the limit");
}

/// When decisions are made.
#[derive(Clone, Copy)]
struct Pace {
    rate: u64,
    seconds: u64,
    even: bool,
}

impl Pace {
    /// The numbers of decisions, each when it is due.
    fn start(self, clock: SystemClock) -> mpsc::UnboundedReceiver<u64> {
        let Self { rate, seconds, even } = self;
        let (sender, due) = mpsc::unbounded_channel();
        std::thread::spawn(move || {
            let begin = clock.monotonic_nanos();
            for n in 0..rate * seconds {
                let early = (begin + n * 1_000_000_000 / rate).saturating_sub(clock.monotonic_nanos());
                if early > 0 {
                    std::thread::sleep(Duration::from_nanos(if even { early } else { 1_000_000 }));
                }
                let _ = sender.send(n);
            }
        });
        due
    }
}

/// What came of decisions.
#[derive(Default)]
struct Seen {
    /// How many took so many microseconds.
    times: HashMap<u64, u64>,
    /// How many were allowed or denied, by tenant and time as [`Counts`] have them.
    verdicts: HashMap<(bool, Arc<str>, i64), i64>,
    decided: u64,
    near: u64,
    failed: u64,
}

impl Seen {
    fn add(&mut self, mode: Mode, (micros, tenant, decision): (u64, Arc<str>, Option<(Decision, bool)>)) {
        *self.times.entry(micros).or_default() += 1;
        let Some((decision, by_near)) = decision else {
            self.failed += 1;
            return;
        };
        self.decided += 1;
        self.near += u64::from(by_near);
        let at = if mode == Mode::Sliding { decision.at } else { WindowKind::Minute.start(decision.at) };
        *self.verdicts.entry((decision.allowed, tenant, at.millis())).or_default() += 1;
    }
}

async fn child_process(url: &str, processes: u64, pace: Pace, mode: Mode) {
    let counters = Arc::new(RedisCounters::connect(RedisConfig::new(url).expect("a URL")).await.expect("a server"));
    let clock = SystemClock::new();
    let mut config = EnforcerConfig::default();
    config.deadline = DEADLINE;
    config.replicas = processes as u32;
    config.near_cache = Some(NearCacheConfig::default());
    let enforcer = Arc::new(Enforcer::new(counters.clone(), Arc::new(clock), config).expect("an enforcer"));
    let flushing = tokio::spawn({
        let enforcer = enforcer.clone();
        async move {
            loop {
                tokio::time::sleep(enforcer.flush_interval()).await;
                enforcer.flush().await;
            }
        }
    });
    let names: Vec<Arc<str>> = (0..TENANTS).map(|n| format!("tenant-{n}").into()).collect();
    let mut tasks = tokio::task::JoinSet::new();
    let mut seen = Seen::default();
    let mut due = pace.start(clock);
    while let Some(n) = due.recv().await {
        let sent = clock.monotonic_nanos();
        // Tenants differ in how much they ask: the first half three times as much.
        let tenant = names[(n / 2 * 31) as usize % if n % 2 == 0 { TENANTS / 2 } else { TENANTS }].clone();
        let (counters, enforcer) = (counters.clone(), enforcer.clone());
        tasks.spawn(async move {
            let check = Check { tenant: &tenant, limits: mode.limits(), scopes: &[], cost: 1, at: None };
            let decision = if mode == Mode::Near {
                let outcome = enforcer.decide(check, FailurePolicy::Closed).await;
                match outcome.by {
                    DecidedBy::Policy(_) => None,
                    by => Some((outcome.decision, by == DecidedBy::NearCache)),
                }
            } else {
                counters.check_and_add(check, DEADLINE).await.ok().map(|decision| (decision, false))
            };
            ((clock.monotonic_nanos() - sent) / 1_000, tenant, decision)
        });
        // Now, not in the end: a server does not keep them either.
        while let Some(done) = tasks.try_join_next() {
            seen.add(mode, done.expect("a decision"));
        }
    }
    while let Some(done) = tasks.join_next().await {
        seen.add(mode, done.expect("a decision"));
    }
    flushing.abort();
    enforcer.flush().await;
    let Seen { times, verdicts, decided, near, failed } = seen;
    times.iter().for_each(|(micros, count)| println!("time {micros} {count}"));
    for ((allowed, tenant, at), count) in verdicts {
        println!("{} {tenant} {at} {count}", if allowed { "admitted" } else { "denied" });
    }
    println!("decided {decided} {near} {failed}");
}
