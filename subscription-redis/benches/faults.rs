//! What a server's faults do to decisions: how long they take meanwhile, how soon the server decides again, and what was
//! admitted beyond the limit.
//!
//! `cargo bench -p subscription-redis --bench faults -- [local|open|closed] [decisions a second] [case …]`
//!
//! One process at a steady rate (2,000/s) with the default deadline of 5 ms, against real servers of each case's own. Decisions
//! are sent by the clock, in bursts of what is due in a millisecond, and are slow by that timer's granularity besides.

#[path = "../tests/it/server.rs"]
mod server;

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use server::{Servers, connect};
use subscription_core::{
    Check, Clock, CounterStore, DecidedBy, Enforcer, EnforcerConfig, FailurePolicy, Limits, SystemClock,
    WindowAlgorithm, WindowKind,
};
use subscription_redis::RedisConfig;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

const TENANTS: u64 = 50;
/// After how many seconds each tenant is at its limit: in the second after the fault begins.
const SECONDS_TO_LIMIT: u64 = 4;
/// Before and after a fault.
const CALM: Duration = Duration::from_secs(3);

/// A decision.
struct Made {
    /// When it was sent, on the monotonic clock in nanoseconds, and how long it took.
    sent: u64,
    took: u64,
    by_store: bool,
    allowed: bool,
    tenant: u64,
    minute: i64,
}

/// A steady load of decisions.
struct Load {
    enforcer: Arc<Enforcer>,
    made: Arc<Mutex<Vec<Made>>>,
    ending: Arc<AtomicBool>,
    limit: i64,
    clock: SystemClock,
}

impl Load {
    fn start(store: Arc<dyn CounterStore>, policy: FailurePolicy, rate: u64) -> Self {
        let clock = SystemClock::new();
        let enforcer = Enforcer::new(store, Arc::new(clock), EnforcerConfig::default()).expect("an enforcer");
        let limit = (rate / TENANTS * SECONDS_TO_LIMIT) as i64;
        let load = Self { enforcer: Arc::new(enforcer), made: Arc::default(), ending: Arc::default(), limit, clock };
        let limits =
            Limits { per_minute: limit, per_hour: 1 << 40, per_month: 1 << 40, window: WindowAlgorithm::Fixed };
        let (enforcer, made, ending) = (load.enforcer.clone(), load.made.clone(), load.ending.clone());
        tokio::spawn(async move {
            let names: Vec<Arc<str>> = (0..TENANTS).map(|n| format!("tenant-{n}").into()).collect();
            let began = clock.monotonic_nanos();
            for n in 0.. {
                let due = began + n * 1_000_000_000 / rate;
                if let Some(early) = due.checked_sub(clock.monotonic_nanos()).filter(|early| *early > 0) {
                    tokio::time::sleep(Duration::from_nanos(early)).await;
                }
                if ending.load(Ordering::Relaxed) {
                    break;
                }
                let (tenant, enforcer, made) = (n * 31 % TENANTS, enforcer.clone(), made.clone());
                let name = names[tenant as usize].clone();
                tokio::spawn(async move {
                    let sent = clock.monotonic_nanos();
                    let check = Check { tenant: &name, limits, scopes: &[], cost: 1, at: None };
                    let outcome = enforcer.decide(check, policy).await;
                    let took = clock.monotonic_nanos() - sent;
                    let (by_store, allowed) = (outcome.by == DecidedBy::Store, outcome.decision.allowed);
                    let minute = WindowKind::Minute.start(outcome.decision.at).millis();
                    let made = &mut made.lock().unwrap_or_else(PoisonError::into_inner);
                    made.push(Made { sent, took, by_store, allowed, tenant, minute });
                });
            }
        });
        let (enforcer, ending) = (load.enforcer.clone(), load.ending.clone());
        tokio::spawn(async move {
            while !ending.load(Ordering::Relaxed) {
                tokio::time::sleep(enforcer.flush_interval()).await;
                enforcer.flush().await;
            }
        });
        load
    }

    /// Waits until the store decides again, and then some; tells what happened since the fault began.
    async fn report(self, name: &str, fault: u64, over: u64) {
        let lock = || self.made.lock().unwrap_or_else(PoisonError::into_inner);
        let calm = CALM.as_nanos() as u64;
        let again = loop {
            tokio::time::sleep(CALM / 3).await;
            let again = well_from(&lock(), over);
            if self.clock.monotonic_nanos() > again + calm {
                break again;
            }
        };
        self.ending.store(true, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let made = std::mem::take(&mut *lock());
        let until = again + 1_000_000_000;
        let mut times: Vec<u64> =
            made.iter().filter(|made| (fault..until).contains(&made.sent)).map(|made| made.took).collect();
        times.sort_unstable();
        let at = |share: f64| times[((times.len() as f64 * share).ceil() as usize).max(1) - 1] as f64 / 1e6;
        let mut minutes: HashMap<(u64, i64), i64> = HashMap::new();
        for made in made.iter().filter(|made| made.allowed) {
            *minutes.entry((made.tenant, made.minute)).or_default() += 1;
        }
        let beyond: i64 = minutes.values().map(|admitted| (admitted - self.limit).max(0)).sum();
        let most = minutes.values().max().copied().unwrap_or_default();
        let stats = self.enforcer.stats();
        let again = (again - over) as f64 / 1e6;
        println!(
            "| {name} | {:.1} | {:.2} | {:.2} | {:.2} | {:.2} | {} | {} | {again:.0} | {most} | {beyond} | {} | {} |",
            (over - fault) as f64 / 1e9,
            at(0.5),
            at(0.99),
            at(0.999),
            at(1.0),
            stats.by_policy,
            stats.unavailable,
            stats.added,
            stats.maybe_lost,
        );
    }
}

/// From when on the store decides, in steps of 50 ms after `over`: nearly all, as now and then one misses its deadline on a
/// busy machine.
fn well_from(made: &[Made], over: u64) -> u64 {
    const STEP: u64 = 50_000_000;
    let mut steps: BTreeMap<u64, (u64, u64)> = BTreeMap::new();
    for made in made.iter().filter(|made| made.sent >= over) {
        let (all, others) = steps.entry((made.sent - over) / STEP).or_default();
        *all += 1;
        *others += u64::from(!made.by_store);
    }
    let ill = steps.iter().filter(|(_, (all, others))| others * 10 > *all).map(|(step, _)| step + 1).max();
    over + ill.unwrap_or(0) * STEP
}

/// What stands between client and server and holds up what is asked, without changing the rate.
struct Slow {
    address: String,
    millis: Arc<AtomicU64>,
}

impl Slow {
    async fn start(server: String) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("an address").to_string();
        let millis = Arc::new(AtomicU64::new(0));
        let delay = millis.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let Ok(server) = TcpStream::connect(&server).await else { continue };
                let _ = (client.set_nodelay(true), server.set_nodelay(true));
                let (from_client, to_client) = client.into_split();
                let (from_server, to_server) = server.into_split();
                tokio::spawn(pass(from_client, to_server, delay.clone()));
                tokio::spawn(pass(from_server, to_client, Arc::new(AtomicU64::new(0))));
            }
        });
        Self { address, millis }
    }
}

async fn pass(
    mut from: tokio::net::tcp::OwnedReadHalf,
    mut to: tokio::net::tcp::OwnedWriteHalf,
    delay: Arc<AtomicU64>,
) {
    let (parts, mut arrived) = mpsc::unbounded_channel::<(tokio::time::Instant, Vec<u8>)>();
    tokio::spawn(async move {
        while let Some((due, part)) = arrived.recv().await {
            if due > tokio::time::Instant::now() {
                tokio::time::sleep_until(due).await;
            }
            if to.write_all(&part).await.is_err() {
                break;
            }
        }
    });
    let mut buffer = vec![0; 64 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let due = tokio::time::Instant::now() + Duration::from_millis(delay.load(Ordering::Relaxed));
        if parts.send((due, buffer[..length].to_vec())).is_err() {
            break;
        }
    }
}

const CASES: [&str; 8] = ["none", "kill", "flushall", "stop", "slow", "sentinel", "slots", "node"];

async fn case(name: &str, policy: FailurePolicy, rate: u64) {
    let options: &[&str] = match name {
        "sentinel" => &["--sentinel"],
        "slots" => &["--cluster"],
        "node" => &["--cluster", "--replicas", "1"],
        _ => &[],
    };
    let Some(servers) = Servers::up(options) else { return };
    let ports = servers.ports();
    let slow = Slow::start(format!("127.0.0.1:{}", ports[0])).await;
    let config = match name {
        "slow" => RedisConfig::new(&format!("redis://{}", slow.address)),
        _ => RedisConfig::new(servers.url()),
    };
    let store = Arc::new(connect(config.expect("a URL")).await);
    let load = Load::start(store, policy, rate);
    let clock = load.clock;
    tokio::time::sleep(CALM).await;
    let fault = clock.monotonic_nanos();
    let title = match name {
        "none" => {
            tokio::time::sleep(CALM).await;
            "none"
        }
        "kill" => {
            servers.kill(ports[0]);
            tokio::time::sleep(Duration::from_secs(2)).await;
            servers.start(ports[0]);
            "kill -9, started again after 2 s"
        }
        "flushall" => {
            servers.cli(ports[0], &["flushall"]);
            "FLUSHALL"
        }
        "stop" => {
            servers.signal(ports[0], "STOP");
            tokio::time::sleep(Duration::from_secs(10)).await;
            servers.signal(ports[0], "CONT");
            "SIGSTOP for 10 s"
        }
        "slow" => {
            slow.millis.store(50, Ordering::Relaxed);
            tokio::time::sleep(Duration::from_secs(5)).await;
            slow.millis.store(0, Ordering::Relaxed);
            "50 ms a call for 5 s"
        }
        "sentinel" => {
            servers.kill(ports[0]);
            "the primary dies, Sentinel fails over"
        }
        "slots" => {
            for n in 0..TENANTS {
                servers.move_slot(&format!("tenant-{n}"), (n % 3) as usize).await;
            }
            "the slots of 50 tenants move"
        }
        "node" => {
            let primary = ports.iter().copied().find(|&port| servers.cli(port, &["role"]).starts_with("master"));
            servers.kill(primary.expect("a primary"));
            "a node of a cluster dies, its replica takes over"
        }
        other => panic!("{other}: one of {CASES:?}"),
    };
    let over = clock.monotonic_nanos();
    load.report(title, fault, over).await;
}

fn main() {
    let mut arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let mut policy = FailurePolicy::Local;
    let mut rate = 2_000;
    arguments.retain(|argument| {
        match argument.as_str() {
            "local" => policy = FailurePolicy::Local,
            "open" => policy = FailurePolicy::Open,
            "closed" => policy = FailurePolicy::Closed,
            other => match other.parse() {
                Ok(number) => rate = number,
                Err(_) => return true,
            },
        }
        false
    });
    let cases: Vec<&str> =
        if arguments.is_empty() { CASES.to_vec() } else { arguments.iter().map(String::as_str).collect() };
    println!(
        "policy {}, {rate} decisions/s of {TENANTS} tenants, a limit of {} a minute, deadline 5 ms; times in ms, from the fault until a \
         second after the store decides again\n",
        policy.as_str(),
        rate / TENANTS * SECONDS_TO_LIMIT
    );
    println!(
        "| fault | lasts s | p50 | p99 | p99.9 | most | by policy | unanswered | the store again after | most admitted | beyond | \
         added | maybe lost |\n|---|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|--:|"
    );
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().expect("a runtime");
    for name in cases {
        runtime.block_on(case(name, policy, rate));
    }
}
