//! The `gateway` binary over HTTP, against a real Redis.
//!
//! `cargo build --release --bins && cargo bench -p subscription-benches --bench gateway -- limits|overhead …`
//!
//! * `limits [processes] [requests a second] [seconds]` (8, 3,000, 120): gateways that share the counters. No tenant and minute
//!   is admitted more than its limit, nor denied below it. The plan's policy is `closed`, so that a decision that missed its
//!   deadline is an answer of its own and told apart. Requests are sent by the clock, and times are from when they were due.
//! * `overhead [requests]` (20,000): one request after the other, the ways taking turns: the bare service, the same with
//!   the layer around it, and both through the binary as a proxy. Then all that again with processors that are kept awake, as
//!   those of a server under load are: one that has gone to sleep takes longer to wake than most of what is measured.
//!
//! Without any, both.

#[path = "../../subscription-redis/tests/it/server.rs"]
mod server;

use std::collections::HashMap;
use std::convert::Infallible;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo};
use hyper_util::server::conn::auto::Builder;
use hyper_util::service::TowerToHyperService;
use server::Servers;
use subscription_benches::{Times, gateway, heading};
use subscription_core::{
    Catalog, Clock, CounterStore, Enforcer, EnforcerConfig, FileEmitter, Judged, MemoryCounters, SystemClock,
    WindowKind, judge,
};
use subscription_gateway::{ApiKeys, GatewayLayer};
use subscription_redis::{RedisConfig, RedisCounters};
use tower::{Layer, service_fn};

const TENANTS: u64 = 50;
const CONNECTIONS: u64 = 64;

fn plans(per_minute: u64) -> String {
    format!(
        "currency = 'USD'\ncurrency_digits = 2\n[plans.bench]\nper_minute = {per_minute}\nper_hour = 100_000_000\n\
         per_month = 1_000_000_000\nprice_per_thousand_units = 0\nwindow = 'fixed'\nfailure_policy = 'closed'\n"
    )
}

fn keys() -> String {
    (0..TENANTS)
        .map(|n| format!("[[key]]\nsecret = 's{n}'\nid = 'k{n}'\ntenant = 'tenant-{n}'\nplan = 'bench'\n"))
        .collect()
}

/// A gateway that ends with the value.
struct Gateway {
    child: Child,
    address: String,
}

impl Gateway {
    fn start(folder: &Path, arguments: &[&str]) -> Self {
        let mut child = gateway()
            .args(["--listen", "127.0.0.1:0", "--plans", "plans.toml", "--keys", "keys.toml"])
            .args(arguments)
            .current_dir(folder)
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary");
        let out = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let address = out.map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
        Self { child, address: address.expect("an address") }
    }

    /// Asks it to end, and waits for that.
    fn stop(&mut self) {
        let asked = Command::new("kill").args(["-TERM", &self.child.id().to_string()]).status();
        assert!(asked.expect("kill").success());
        assert!(self.child.wait().expect("the gateway").success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A connection that is kept.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(address: &str) -> Self {
        let stream = TcpStream::connect(address).expect("a connection");
        stream.set_nodelay(true).expect("a socket");
        Self(BufReader::new(stream))
    }

    /// The status and the body.
    fn get(&mut self, key: &str) -> (u16, Vec<u8>) {
        let request = format!("GET /v1/items HTTP/1.1\r\nHost: bench\r\nX-Api-Key: {key}\r\n\r\n");
        self.0.get_mut().write_all(request.as_bytes()).expect("to send");
        let (mut line, mut status, mut length) = (String::new(), 0, 0);
        loop {
            line.clear();
            self.0.read_line(&mut line).expect("an answer");
            let text = line.trim_end().to_ascii_lowercase();
            if text.is_empty() {
                break;
            } else if let Some(rest) = text.strip_prefix("http/1.1 ") {
                status = rest[..3].parse().expect("a status");
            } else if let Some(rest) = text.strip_prefix("content-length: ") {
                length = rest.parse().expect("a length");
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (status, body)
    }
}

/// What the clients of one connection saw.
#[derive(Default)]
struct Seen {
    times: Times,
    allowed: u64,
    denied: u64,
    /// By tenant: denied as the counters did not answer in time.
    missed: HashMap<u64, i64>,
}

fn limits(processes: u64, rate: u64, seconds: u64) {
    let Some(redis) = Servers::up(&[]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    // The first half of the tenants asks for three quarters, which is above; the rest stays below.
    let limit = rate * 60 / TENANTS * 5 / 6;
    std::fs::write(folder.path().join("plans.toml"), plans(limit)).expect("a file");
    std::fs::write(folder.path().join("keys.toml"), keys()).expect("a file");
    let replicas = processes.to_string();
    let mut gateways: Vec<Gateway> = (0..processes)
        .map(|n| {
            let (name, events) = (format!("gateway-{n}"), format!("events-{n}.ndjson"));
            let arguments =
                ["--demo", "--redis", redis.url(), "--events", &events, "--replicas", &replicas, "--name", &name];
            Gateway::start(folder.path(), &arguments)
        })
        .collect();

    let clock = SystemClock::new();
    let began = clock.monotonic_nanos() + 200_000_000;
    let client = |connection: u64| {
        let mut client = Client::connect(&gateways[(connection % processes) as usize].address);
        move || {
            let mut seen = Seen::default();
            for n in (connection..rate * seconds).step_by(CONNECTIONS as usize) {
                let due = began + n * 1_000_000_000 / rate;
                if let Some(early) = due.checked_sub(clock.monotonic_nanos()) {
                    std::thread::sleep(Duration::from_nanos(early));
                }
                let tenant = n / 2 * 31 % if n % 2 == 0 { TENANTS / 2 } else { TENANTS };
                let (status, body) = client.get(&format!("s{tenant}"));
                seen.times.add(clock.monotonic_nanos() - due);
                match status {
                    200 => seen.allowed += 1,
                    429 if body.windows(17).any(|part| part == b"cannot be checked") => {
                        *seen.missed.entry(tenant).or_default() += 1;
                    }
                    429 => seen.denied += 1,
                    _ => panic!("{status}: {}", String::from_utf8_lossy(&body)),
                }
            }
            seen
        }
    };
    let clients: Vec<_> = (0..CONNECTIONS).map(|n| std::thread::spawn(client(n))).collect();
    let mut all = Seen::default();
    for client in clients {
        let Seen { times, allowed, denied, missed } = client.join().expect("a client");
        all.times.extend(times);
        all.allowed += allowed;
        all.denied += denied;
        missed.into_iter().for_each(|(tenant, count)| *all.missed.entry(tenant).or_default() += count);
    }
    let took = (clock.monotonic_nanos() - began) as f64 / 1e9;
    gateways.iter_mut().for_each(Gateway::stop);

    // Which minute a request belongs to is in its event: the time of the decision.
    let mut minutes: HashMap<(String, i64), (i64, i64)> = HashMap::new();
    let mut events = 0;
    for n in 0..processes {
        let text = std::fs::read(folder.path().join(format!("events-{n}.ndjson"))).expect("events");
        for line in text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
            let Judged::Valid(event) = judge(line) else { panic!("{}", String::from_utf8_lossy(line)) };
            let minute = WindowKind::Minute.start(event.event_timestamp).millis();
            let counts = minutes.entry((event.tenant_id.into_owned(), minute)).or_default();
            if event.response_status_code == 200 {
                counts.0 += 1
            } else {
                counts.1 += 1
            }
            events += 1;
        }
    }
    let missed: i64 = all.missed.values().sum();
    let limit = limit as i64;
    let most = minutes.values().map(|(admitted, _)| *admitted).max().unwrap_or_default();
    let at_limit = minutes.values().filter(|(admitted, _)| *admitted == limit).count();
    // One that missed its deadline may have been counted all the same.
    let wrongly = minutes.iter().map(|((tenant, _), (admitted, denied))| {
        let number = tenant.trim_start_matches("tenant-").parse().expect("a tenant");
        let missed = all.missed.get(&number).copied().unwrap_or_default();
        if admitted + missed < limit { (denied - missed).max(0) } else { 0 }
    });
    let wrongly: i64 = wrongly.sum();

    println!(
        "{processes} processes, {rate} requests/s asked for {seconds} s, {:.0} answered: {} allowed, {} denied, {missed} missed \
         their deadline of 5 ms; {events} events",
        all.times.len() as f64 / took,
        all.allowed,
        all.denied
    );
    println!(
        "p50 {:.2} ms, p90 {:.2}, p99 {:.2}, p99.9 {:.2}, at most {:.2}",
        all.times.at(0.5),
        all.times.at(0.9),
        all.times.at(0.99),
        all.times.at(0.999),
        all.times.at(1.0)
    );
    println!(
        "{} tenant minutes, {at_limit} of them exactly at the limit of {limit}, most {most}; wrongly denied {wrongly}",
        minutes.len()
    );
    assert_eq!(events, all.times.len(), "each request is reported");
    assert!(most <= limit, "more than the limit was admitted");
    assert_eq!(wrongly, 0, "denied below the limit");
}

/// Serves the toy service, with the layer around it or bare; answers the address.
async fn serve(layer: Option<GatewayLayer>) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address").to_string();
    let toy = service_fn(|_: Request<Incoming>| async {
        Ok::<_, Infallible>(Response::new(Full::new(Bytes::from_static(b"{\"items\":[]}"))))
    });
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let _ = stream.set_nodelay(true);
            let (stream, layer, server) = (TokioIo::new(stream), layer.clone(), Builder::new(TokioExecutor::new()));
            tokio::spawn(async move {
                match layer {
                    Some(layer) => {
                        drop(server.serve_connection(stream, TowerToHyperService::new(layer.layer(toy))).await);
                    }
                    None => drop(server.serve_connection(stream, TowerToHyperService::new(toy)).await),
                }
            });
        }
    });
    address
}

fn layer(counters: Arc<dyn CounterStore>, events: &Path) -> GatewayLayer {
    let keys = ApiKeys::from_toml(&keys(), "keys").expect("keys");
    let catalog = Catalog::from_toml(&plans(1_000_000_000), "plans").expect("plans");
    let mut config = EnforcerConfig::default();
    config.deadline = Duration::from_secs(1);
    let enforcer = Enforcer::new(counters, Arc::new(SystemClock::new()), config).expect("an enforcer");
    let emitter = FileEmitter::open(events, "bench").expect("a file");
    GatewayLayer::builder(Arc::new(enforcer), keys, Arc::new(catalog)).emitter(Arc::new(emitter)).build()
}

/// Requests of one way before it is the next one's turn: few, so that all ways see the same machine, and enough for a way to run as
/// it does under load. Turns of one request measured five cold caches.
const TURN: u64 = 100;

/// Loops that run where nothing else wants to, and end with the value.
struct Awake(Vec<Child>);

impl Awake {
    /// One a processor; `None` where there is no `chrt` (util-linux).
    fn keep() -> Option<Self> {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        let mut awake = Self(Vec::new());
        for _ in 0..processors {
            let mut looping = Command::new("chrt");
            awake.0.push(looping.args(["--idle", "0", "sh", "-c", "while :; do :; done"]).spawn().ok()?);
        }
        Some(awake)
    }
}

impl Drop for Awake {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn overhead(requests: u64) {
    println!("## processors as they are\n");
    measure_overhead(requests);
    println!("\n## processors kept awake\n");
    match Awake::keep() {
        Some(_awake) => measure_overhead(requests),
        None => println!("not measured: it takes `chrt`, of util-linux"),
    }
}

fn measure_overhead(requests: u64) {
    let Some(redis) = Servers::up(&[]) else { return };
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("plans.toml"), plans(1_000_000_000)).expect("a file");
    std::fs::write(folder.path().join("keys.toml"), keys()).expect("a file");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let events = |name: &str| folder.path().join(name);
    let (bare, by_memory, by_redis) = runtime.block_on(async {
        let counters = RedisCounters::connect(RedisConfig::new(redis.url()).expect("a URL")).await.expect("a server");
        (
            serve(None).await,
            serve(Some(layer(Arc::new(MemoryCounters::new()), &events("memory.ndjson")))).await,
            serve(Some(layer(Arc::new(counters), &events("redis.ndjson")))).await,
        )
    });
    let upstream = format!("http://{bare}");
    let proxy = |name: &str, more: &[&str]| {
        let events = format!("{name}.ndjson");
        let arguments = [&["--upstream", &upstream, "--events", &events, "--deadline", "1000"], more].concat();
        Gateway::start(folder.path(), &arguments)
    };
    let proxies = [
        proxy("proxy-memory", &[]),
        proxy("proxy-near", &["--redis", redis.url(), "--near-cache"]),
        proxy("proxy-redis", &["--redis", redis.url()]),
    ];
    let mut ways = [
        ("the bare service", &bare),
        ("layer, counters in memory", &by_memory),
        ("layer, Redis", &by_redis),
        ("proxy, counters in memory", &proxies[0].address),
        ("proxy, Redis with the near cache", &proxies[1].address),
        ("proxy, Redis", &proxies[2].address),
    ]
    .map(|(name, address)| (name, Client::connect(address), Times::default()));
    let clock = SystemClock::new();
    for n in 0..(requests + requests / 10) / TURN {
        for (name, client, times) in &mut ways {
            for tenant in (n * TURN..).map(|n| n % TENANTS).take(TURN as usize) {
                let began = clock.monotonic_nanos();
                let (status, _) = client.get(&format!("s{tenant}"));
                let took = clock.monotonic_nanos() - began;
                assert_eq!(status, 200, "{name}");
                // The first tenth is to warm up.
                if n >= requests / 10 / TURN {
                    times.add(took);
                }
            }
        }
    }
    println!(
        "| {requests} requests each, in turn | p50 ms | p99 ms | p50 above bare | p99 above bare |\n|---|--:|--:|--:|--:|"
    );
    let (p50, p99) = (ways[0].2.at(0.5), ways[0].2.at(0.99));
    for (name, _, times) in &mut ways {
        let (a, b) = (times.at(0.5), times.at(0.99));
        println!("| {name} | {a:.3} | {b:.3} | {:.3} | {:.3} |", a - p50, b - p99);
    }
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|argument| argument != "--bench").collect();
    let number = |at: usize, default| arguments.get(at).map_or(default, |text| text.parse().expect("a number"));
    heading();
    match arguments.first().map(String::as_str) {
        Some("limits") => limits(number(1, 8), number(2, 3_000), number(3, 120)),
        Some("overhead") => overhead(number(1, 20_000)),
        None => {
            overhead(20_000);
            limits(8, 3_000, 120);
        }
        Some(other) => panic!("{other}: limits or overhead"),
    }
}
