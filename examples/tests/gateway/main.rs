//! The `gateway` binary over HTTP: what clients are answered, what is counted in a real Redis, what is metered.

#[path = "../../../subscription-kafka/tests/it/broker.rs"]
mod broker;
mod http;
mod whole;

use std::io::{BufRead, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use http::{Answer, get, send, upstream};

/// 2026-01-01T00:00:30Z.
const NOW: i64 = 1_767_225_630_000;

const PLANS: &str = r#"
currency = "USD"
currency_digits = 2
[plans.free]
per_minute = 60
per_hour = 1_000
per_month = 10_000
price_per_thousand_units = 0
window = "fixed"
"#;

const KEYS: &str = "[[key]]\nsecret = 's3cret'\nid = 'k1'\ntenant = 'acme'\nplan = 'free'\n";

/// A folder with plans and keys.
struct Bench(TempDir);

impl Bench {
    fn new() -> Self {
        let folder = TempDir::new().expect("a folder");
        std::fs::write(folder.path().join("plans.toml"), PLANS).expect("a file");
        std::fs::write(folder.path().join("keys.toml"), KEYS).expect("a file");
        Self(folder)
    }

    fn gateway(&self, line: &str) -> Gateway {
        let mut child = self
            .command(env!("CARGO_BIN_EXE_gateway"), line)
            .args(["--listen", "127.0.0.1:0", "--plans", "plans.toml", "--keys", "keys.toml"])
            .stdout(Stdio::piped())
            .spawn()
            .expect("the binary");
        let out = BufReader::new(child.stdout.take().expect("a pipe")).lines();
        let listening =
            out.map_while(Result::ok).find_map(|line| line.strip_prefix("listening on ").map(str::to_owned));
        Gateway { child, address: listening.expect("an address") }
    }

    fn command(&self, program: &str, line: &str) -> Command {
        let mut command = Command::new(program);
        command.args(line.split_whitespace()).current_dir(self.0.path()).stdin(Stdio::null());
        command
    }

    /// The lines of events so far.
    fn events(&self) -> Vec<Value> {
        let text = std::fs::read_to_string(self.0.path().join("events.ndjson")).unwrap_or_default();
        text.lines().map(|line| serde_json::from_str(line).expect("an event")).collect()
    }

    fn pipeline(&self, line: &str) -> String {
        let output = self.command(env!("CARGO_BIN_EXE_pipeline"), line).output().expect("the binary");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).expect("text")
    }

    fn rows(&self, table: &str) -> Vec<Value> {
        let shown = self.pipeline(&format!("show {table} --lake lake --format json"));
        shown.lines().map(|line| serde_json::from_str(line).expect("JSON")).collect()
    }
}

struct Gateway {
    child: Child,
    address: String,
}

impl Gateway {
    fn get(&self, path: &str) -> Answer {
        get(&self.address, path, &[("X-Api-Key", "s3cret")])
    }

    fn signal(&self, signal: &str) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args([signal, &pid]).status().expect("kill").success());
    }

    /// Asks it to stop, and waits for that.
    fn stop(mut self) {
        self.signal("-TERM");
        assert!(self.child.wait().expect("the gateway").success());
    }
}

impl Drop for Gateway {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A Redis that ends with the value; `None` where there is none to be had.
struct Redis {
    folder: TempDir,
    url: String,
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../dev/redis.sh")
}

impl Redis {
    fn up() -> Option<Self> {
        let folder = TempDir::new().expect("a folder");
        let servers = folder.path().join("redis");
        let output = Command::new(script()).args(["up", "--port", "random", "--dir"]).arg(servers).output();
        let output = output.expect("dev/redis.sh");
        if output.status.success() {
            let url = String::from_utf8_lossy(&output.stdout).trim().to_owned();
            return Some(Self { folder, url });
        }
        let why = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(3), "{why}");
        assert_ne!(std::env::var("CI").as_deref(), Ok("true"), "no server: {why}");
        println!("skipped: {why}");
        None
    }
}

impl Redis {
    /// Ends the server, and starts it anew, empty, where it was.
    fn restart(&mut self, bench: &Bench) {
        self.cli(bench, "shutdown nosave");
        let port = self.url.rsplit(':').next().expect("a port").to_owned();
        let servers = self.folder.path().join("redis");
        let up =
            Command::new(script()).args(["up", "--port", &port, "--dir"]).arg(servers).output().expect("dev/redis.sh");
        assert!(up.status.success(), "{}", String::from_utf8_lossy(&up.stderr));
    }

    fn cli(&self, bench: &Bench, line: &str) -> String {
        let port = self.url.rsplit(':').next().expect("a port");
        let output = bench.command("redis-cli", &format!("-p {port} {line}")).output().expect("redis-cli");
        String::from_utf8_lossy(&output.stdout).trim().to_owned()
    }
}

impl Drop for Redis {
    fn drop(&mut self) {
        let _ = Command::new(script()).args(["down", "--dir"]).arg(self.folder.path().join("redis")).output();
    }
}

/// What was counted in the minute.
fn used_in_minute(bench: &Bench, redis: &Redis, minute: i64) -> String {
    redis.cli(bench, &format!("hget usage:{{acme}}:1min:{minute} live"))
}

/// The worked example of the semantics, to the digit.
#[test]
fn the_worked_example() {
    let Some(redis) = Redis::up() else { return };
    let bench = Bench::new();
    let start = |now: i64| {
        bench.gateway(&format!(
            "--demo --redis {} --events events.ndjson --deadline 10000 --fixed-time {now}",
            redis.url
        ))
    };
    let gateway = start(NOW);
    let policy = "\"minute\";q=60;w=60, \"hour\";q=1000;w=3600, \"month\";q=10000;w=2678400";
    for request in 1..=60 {
        let answer = gateway.get("/v1/items");
        assert_eq!(answer.status, 200, "request {request}");
        assert_eq!(answer.header("ratelimit"), format!("\"minute\";r={};t=30", 60 - request));
        assert_eq!((answer.header("ratelimit-policy"), answer.header("retry-after")), (policy, ""));
    }
    let denied = gateway.get("/v1/items");
    assert_eq!(denied.status, 429);
    assert_eq!(denied.header("ratelimit"), "\"minute\";r=0;t=30");
    assert_eq!((denied.header("retry-after"), denied.header("content-type")), ("30", "application/problem+json"));
    let problem: Value = serde_json::from_str(&denied.body).expect("JSON");
    assert_eq!(problem["detail"], "the limit of 60 a minute is reached; try again in 30 s");
    assert_eq!(used_in_minute(&bench, &redis, 1_767_225_600), "60");
    gateway.stop();
    let gateway = start(NOW + 30_000);
    assert_eq!(gateway.get("/v1/items").status, 200);
    assert_eq!(used_in_minute(&bench, &redis, 1_767_225_660), "1");
    gateway.stop();

    bench.pipeline("run --quiet --input events.ndjson --lake lake --plans plans.toml");
    let minutes = bench.rows("tenant_usage_1min");
    let minute = minutes.iter().find(|row| row["total_requests"] == 61).expect("the minute");
    assert_eq!((&minute["quota_attempted"], &minute["quota_used"]), (&61.into(), &60.into()));
    let alerts = bench.rows("enforcement_alerts");
    let over: Vec<_> = alerts.iter().filter(|alert| alert["alert_type"] == "over_limit").collect();
    let [alert] = over[..] else { panic!("{alerts:?}") };
    assert_eq!(
        (&alert["quota_attempted"], &alert["plan_limit"], &alert["over_limit_count"]),
        (&61.into(), &60.into(), &1.into())
    );
    bench.pipeline("verify --lake lake");
}

/// In real time, on the server's clock; and what `pipeline usage` shows is what was counted.
#[test]
fn the_servers_clock() {
    let Some(redis) = Redis::up() else { return };
    let bench = Bench::new();
    // An answer that misses its deadline, as on a busy machine, may be counted twice: here none does.
    let gateway = bench.gateway(&format!("--demo --redis {} --events events.ndjson --deadline 10000", redis.url));
    // A minute may end meanwhile.
    let answers: Vec<_> = (0..121).map(|_| gateway.get("/")).collect();
    let denied = answers.iter().find(|answer| answer.status == 429).expect("61 requests in a minute");
    let wait: u64 = denied.header("retry-after").parse().expect("seconds");
    assert!((1..=60).contains(&wait), "{wait}");
    let allowed = answers.iter().filter(|answer| answer.status == 200).count();
    let month = || {
        let usage = bench.pipeline(&format!("usage acme --json --redis {}", redis.url));
        let usage: Value = serde_json::from_str(&usage).expect("JSON");
        (usage["month"]["live"].clone(), usage["month"]["settled"].clone())
    };
    assert_eq!(month(), (allowed.into(), 0.into()));
    assert_eq!(bench.events().len(), 121);

    // What is metered is told to the counters; and again from the lake where they were lost, though nothing is new.
    let run = format!("run --quiet --input events.ndjson --lake lake --plans plans.toml --redis {}", redis.url);
    bench.pipeline(&run);
    assert_eq!(month(), (allowed.into(), allowed.into()));
    redis.cli(&bench, "flushall");
    assert_eq!(month(), (0.into(), 0.into()));
    bench.pipeline(&run);
    assert_eq!(month(), (0.into(), allowed.into()));
}

/// A server that dies costs no request its answer: the plan's policy decides.
#[test]
fn a_redis_that_dies() {
    let Some(redis) = Redis::up() else { return };
    let bench = Bench::new();
    let gateway = bench.gateway(&format!("--demo --redis {} --events events.ndjson --replicas 2", redis.url));
    assert_eq!(gateway.get("/").status, 200);
    redis.cli(&bench, "shutdown nosave");
    let statuses: Vec<_> = (0..200).map(|_| gateway.get("/").status).collect();
    assert!(statuses.iter().all(|status| [200, 429].contains(status)), "{statuses:?}");
    let passed = statuses.iter().filter(|status| **status == 200).count();
    // Its share is 30 a minute, of which one is used; a minute may have ended meanwhile.
    assert!([29, 59].contains(&passed), "{passed}");
    assert_eq!(bench.events().len(), 201);
}

#[test]
fn no_redis_at_the_start() {
    let bench = Bench::new();
    let gateway = bench.gateway("--demo --redis redis://127.0.0.1:1 --events events.ndjson");
    let statuses: Vec<_> = (0..121).map(|_| gateway.get("/").status).collect();
    assert!(statuses[..60].iter().all(|status| *status == 200), "its share is the whole: {statuses:?}");
    assert!(statuses.contains(&429), "and no more than that");
}

/// Every request that was answered in full is in the file, however the gateway ended.
#[test]
fn a_gateway_that_is_killed_loses_no_event() {
    let bench = Bench::new();
    for round in 1..=3 {
        let gateway = bench.gateway("--demo --events events.ndjson");
        for _ in 0..10 {
            gateway.get("/v1/items");
        }
        gateway.signal("-KILL");
        drop(gateway);
        assert_eq!(bench.events().len(), 10 * round);
    }
    let mut sequences: Vec<_> = bench
        .events()
        .iter()
        .map(|event| (event["emitter_id"].to_string(), event["emitter_sequence"].as_u64()))
        .collect();
    sequences.sort_unstable();
    sequences.dedup();
    assert_eq!(sequences.len(), 30, "each start has an id of its own, and no number twice");
}

#[test]
fn requests_are_passed_on_as_they_are() {
    let bench = Bench::new();
    let upstream = upstream();
    let gateway = bench.gateway(&format!("--upstream http://{upstream} --events events.ndjson"));
    let answer = gateway.get("/v1/items/42?q=a%20b");
    assert_eq!(answer.status, 200);
    assert!(answer.body.starts_with("GET /v1/items/42?q=a%20b HTTP/1.1\r\n"), "{}", answer.body);
    assert!(answer.body.contains(&format!("host: {upstream}\r\n")), "{}", answer.body);
    assert_eq!(answer.header("x-upstream"), "yes");
    let event = &bench.events()[0];
    assert_eq!(
        (&event["endpoint"], &event["response_size_bytes"]),
        (&"/v1/items/{id}".into(), &answer.body.len().into())
    );

    let unknown = get(&gateway.address, "/", &[("X-Api-Key", "wrong"), ("X-Tenant-Id", "acme")]);
    assert_eq!((unknown.status, unknown.header("www-authenticate")), (401, "Bearer"));
    let long = "x".repeat(64 << 10);
    let answer = get(&gateway.address, "/", &[("X-Api-Key", &long)]);
    assert!([401, 431].contains(&answer.status), "{}", answer.status);
    assert_eq!(bench.events().len(), 1);

    let gateway = bench.gateway("--upstream http://127.0.0.1:1 --events events.ndjson");
    assert_eq!(gateway.get("/").status, 502);
}

/// The service behind learns who asked it for what, and a body is passed on whatever the method.
#[test]
fn what_a_proxy_adds_and_what_it_keeps() {
    let bench = Bench::new();
    let gateway = bench.gateway(&format!("--upstream http://{} --events events.ndjson", upstream()));
    let request = |more: &str| {
        let request =
            format!("GET /v1/items HTTP/1.1\r\nHost: api.example\r\nX-Api-Key: s3cret\r\nConnection: close\r\n{more}");
        send(&gateway.address, &request).expect("a whole answer").body
    };
    let direct = request("\r\n");
    for header in ["x-forwarded-for: 127.0.0.1\r\n", "x-forwarded-host: api.example\r\n", "x-forwarded-proto: http\r\n"]
    {
        assert!(direct.contains(header), "{header}: {direct}");
    }
    let behind = request("X-Forwarded-For: 203.0.113.9\r\nX-Forwarded-Proto: https\r\n\r\n");
    let order =
        ["x-forwarded-for: 203.0.113.9\r\n", "x-forwarded-for: 127.0.0.1\r\n"].map(|header| behind.find(header));
    assert!(order[0].is_some() && order[0] < order[1], "{behind}");
    assert!(behind.contains("x-forwarded-proto: https\r\n") && !behind.contains("proto: http\r\n"), "{behind}");

    let chunked = request("Transfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n");
    assert!(chunked.ends_with("\r\n\r\n3\r\nabc\r\n0\r\n\r\n"), "{chunked}");
}

/// A gateway that is asked to stop answers and reports what is under way; of who went away it reports that too.
#[test]
fn what_is_under_way_is_answered_and_reported() {
    let bench = Bench::new();
    let gateway = bench.gateway(&format!("--upstream http://{} --events events.ndjson", upstream()));
    let gone = std::net::TcpStream::connect(&gateway.address).expect("a connection");
    (&gone).write_all(b"GET /slow HTTP/1.1\r\nHost: x\r\nX-Api-Key: s3cret\r\n\r\n").expect("sent");
    let address = gateway.address.clone();
    let waiting = std::thread::spawn(move || get(&address, "/slow", &[("X-Api-Key", "s3cret")]).status);
    std::thread::sleep(std::time::Duration::from_millis(300));
    drop(gone);
    gateway.stop();
    assert_eq!(waiting.join().expect("an answer"), 200);
    let mut statuses: Vec<_> =
        bench.events().iter().map(|event| event["response_status_code"].as_u64().expect("a status")).collect();
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 499]);
}

/// Who asks from where, and how often.
#[test]
fn an_event_says_all_that_is_known() {
    let bench = Bench::new();
    let gateway = bench.gateway("--demo --events events.ndjson");
    for request in 1..=3 {
        get(&gateway.address, "/v1/items/9", &[("X-Api-Key", "s3cret"), ("X-Forwarded-For", "203.0.113.9")]);
        let event = &bench.events()[request - 1];
        assert_eq!(event["ip_address"], "127.0.0.1", "nobody vouches for the header");
        for velocity in ["velocity_last_1min", "velocity_last_5min", "velocity_last_1hour"] {
            assert_eq!(event[velocity], request);
        }
    }
}

/// Keys and plans are taken over while the gateway runs; wrong ones are not.
#[test]
fn keys_and_plans_change() {
    let bench = Bench::new();
    let gateway = bench.gateway("--demo --events events.ndjson");
    let write = |file: &str, text: &str| std::fs::write(bench.0.path().join(file), text).expect("a file");
    let until = |what: &str, holds: &dyn Fn() -> bool| {
        let tries = std::iter::repeat_n((), 200);
        let mut tries = tries.inspect(|()| std::thread::sleep(std::time::Duration::from_millis(50)));
        assert!(tries.any(|()| holds()), "{what}");
    };
    let status = |secret: &str| get(&gateway.address, "/", &[("X-Api-Key", secret)]).status;
    assert_eq!((status("s3cret"), status("new")), (200, 401));
    write("keys.toml", &KEYS.replace("s3cret", "new"));
    until("the new key is known", &|| status("new") == 200);
    assert_eq!(status("s3cret"), 401);
    write("keys.toml", "[[key]]");
    write("plans.toml", &PLANS.replace("per_minute = 60", "per_minute = 5000"));
    let policy =
        || get(&gateway.address, "/", &[("X-Api-Key", "new")]).header("ratelimit-policy").contains("q=5000;w=60");
    until("the new plan holds, and the key of before", &policy);
    write("plans.toml", "nonsense");
    std::thread::sleep(std::time::Duration::from_millis(1_500));
    assert!(policy());
}

#[test]
fn what_is_wrong_is_told() {
    let bench = Bench::new();
    let run = |line: &str| {
        let output = bench.command(env!("CARGO_BIN_EXE_gateway"), line).output().expect("the binary");
        (output.status.code(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    std::fs::write(bench.0.path().join("bad.toml"), "[[key]]\nsecret = 'hush'\nid = 'k'\n").expect("a file");
    for (line, says) in [
        ("--demo --keys bad.toml", "bad.toml:1: missing field `tenant`"),
        ("--demo --keys none.toml", "none.toml"),
        ("--demo --plans none.toml", "none.toml"),
        ("--demo --redis http://localhost", "redis://host:port"),
        ("--upstream ftp://localhost --keys keys.toml", "http://host:port"),
        ("--demo --replicas 0", "replicas"),
    ] {
        let (code, error) = run(line);
        assert_eq!(code, Some(2), "{line}: {error}");
        assert!(error.contains(says) && !error.contains("hush") && !error.contains("panicked"), "{line}: {error}");
    }
}
