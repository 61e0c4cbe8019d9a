//! Gateway → Kafka → pipeline → lake and Redis, while each of them is killed.

use std::collections::{BTreeMap, HashMap};
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use serde_json::Value;

use super::broker::Broker;
use super::http::{try_get, upstream};
use super::{Bench, Gateway, Redis};

const PLANS: &str = r#"
currency = "USD"
currency_digits = 2
[plans.free]
per_minute = 60
per_hour = 100_000
per_month = 1_000_000
price_per_thousand_units = 0
[plans.pro]
per_minute = 100_000
per_hour = 1_000_000
per_month = 10_000_000
price_per_thousand_units = 1
"#;

const TENANTS: [(&str, &str); 4] = [("ada", "free"), ("bob", "free"), ("cyd", "pro"), ("dan", "pro")];

/// What clients know of their requests, by id: the status, where the answer came in full.
type Answers = HashMap<String, Option<u16>>;

struct Whole<'a> {
    bench: &'a Bench,
    broker: &'a Broker,
    upstream: String,
}

impl Whole<'_> {
    fn gateway(&self, redis: &Redis) -> Gateway {
        self.bench.gateway(&format!(
            "--upstream http://{} --redis {} --kafka {} --topic usage --spool spool --deadline 20",
            self.upstream,
            redis.url,
            self.broker.address()
        ))
    }

    fn pipeline(&self, redis: &Redis) -> Child {
        let line = format!(
            "run --quiet --kafka {} --topic usage --group whole --lake lake --plans plans.toml --commit-interval 300ms \
             -X session.timeout.ms=6000 --redis {}",
            self.broker.address(),
            redis.url
        );
        let mut command = self.bench.command(env!("CARGO_BIN_EXE_pipeline"), &line);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("the binary")
    }
}

/// Asks as one tenant until told to stop.
fn client(tenant: &str, address: &Mutex<String>, over: &AtomicBool) -> Answers {
    let mut answers = Answers::new();
    while !over.load(Ordering::Relaxed) {
        let id = format!("{tenant}-{}", answers.len());
        let to = address.lock().expect("no panic").clone();
        let answer = try_get(&to, "/v1/items/7", &[("X-Api-Key", tenant), ("X-Request-Id", &id)]);
        answers.insert(id, answer.map(|answer| answer.status));
        thread::sleep(Duration::from_millis(4));
    }
    answers
}

#[test]
fn nothing_is_lost_or_doubled_between_a_request_and_its_bill() {
    let (Some(broker), Some(mut redis)) = (Broker::start(1, &[]), Redis::up()) else { return };
    let bench = Bench::new();
    let keys = TENANTS.map(|(tenant, plan)| {
        format!("[[key]]\nsecret = '{tenant}'\nid = 'key-of-{tenant}'\ntenant = '{tenant}'\nplan = '{plan}'\n")
    });
    std::fs::write(bench.0.path().join("keys.toml"), keys.concat()).expect("a file");
    std::fs::write(bench.0.path().join("plans.toml"), PLANS).expect("a file");
    bench.pipeline(&format!("topic create --kafka {} --topic usage --partitions 8 --replication 1", broker.address()));
    let whole = Whole { bench: &bench, broker: &broker, upstream: upstream() };

    let mut pipeline = whole.pipeline(&redis);
    let mut gateway = whole.gateway(&redis);
    let address = Arc::new(Mutex::new(gateway.address.clone()));
    let over = Arc::new(AtomicBool::new(false));
    let clients = TENANTS.map(|(tenant, _)| {
        let (address, over) = (address.clone(), over.clone());
        thread::spawn(move || client(tenant, &address, &over))
    });
    let go_on = || thread::sleep(Duration::from_secs(4));
    for _ in 0..2 {
        go_on();
        gateway.signal("-KILL");
        // The spool is locked until it is gone.
        let _ = gateway.child.wait();
        gateway = whole.gateway(&redis);
        address.lock().expect("no panic").clone_from(&gateway.address);
        go_on();
        pipeline.kill().expect("killed");
        pipeline.wait().expect("a child");
        pipeline = whole.pipeline(&redis);
        go_on();
        redis.restart(&bench);
        go_on();
        broker.kill(1);
        broker.restart(1);
    }
    go_on();
    over.store(true, Ordering::Relaxed);
    let answers: Answers = clients.into_iter().flat_map(|client| client.join().expect("a client")).collect();
    gateway.stop();
    pipeline.kill().expect("killed");
    pipeline.wait().expect("a child");
    // What the last gateway could not send before it ended, the next one does.
    whole.gateway(&redis).stop();
    bench.pipeline(&format!(
        "run --quiet --until-end --kafka {} --topic usage --group whole --lake lake --plans plans.toml \
         -X session.timeout.ms=6000 --redis {}",
        broker.address(),
        redis.url
    ));

    let events = bench.rows("silver_api_usage --limit 1000000");
    let metered: HashMap<&str, u64> = events
        .iter()
        .map(|event| {
            let status = event["response_status_code"].as_u64().expect("a status");
            (event["request_id"].as_str().expect("an id"), status)
        })
        .collect();
    assert_eq!(metered.len(), events.len(), "a request is metered twice");
    let answered = answers.values().flatten().count();
    println!("{} requests, {answered} answered in full, {} metered", answers.len(), events.len());
    assert!(answered > 2_000, "{answered}");
    for (id, status) in &answers {
        if let Some(status) = status {
            assert_eq!(metered.get(id.as_str()), Some(&u64::from(*status)), "{id}");
        }
    }
    assert!(metered.keys().all(|id| answers.contains_key(*id)), "what nobody asked is metered");

    // Gold's totals are what the clients saw, and the requests that were cut off.
    let mut expected: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for (id, status) in &metered {
        let (total, throttled) = expected.entry(&id[..3]).or_default();
        *total += 1;
        *throttled += u64::from(*status == 429);
    }
    let months = bench.rows("tenant_usage_monthly --limit 1000");
    let mut found: BTreeMap<&str, (u64, u64)> = BTreeMap::new();
    for row in &months {
        let number = |name: &str| row[name].as_u64().expect("a number");
        let (total, throttled) = found.entry(row["tenant_id"].as_str().expect("a tenant")).or_default();
        *total += number("total_requests");
        *throttled += number("throttled_requests");
    }
    assert_eq!(found, expected);
    assert!(expected["ada"].1 > 0 && expected["cyd"].1 == 0, "{expected:?}");

    // Every emitter's numbers are complete.
    let mut sequences: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in &events {
        let number = |value: &Value| value.as_u64().expect("a number");
        sequences.entry(event["emitter_id"].to_string()).or_default().push(number(&event["emitter_sequence"]));
    }
    assert!(sequences.len() >= 3, "each start is an emitter: {:?}", sequences.keys());
    for (emitter, mut numbers) in sequences {
        numbers.sort_unstable();
        assert_eq!(numbers, (0..numbers.len() as u64).collect::<Vec<_>>(), "{emitter}");
    }
    bench.pipeline("verify --lake lake");
}
