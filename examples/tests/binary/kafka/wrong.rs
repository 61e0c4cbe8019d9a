//! What an operator can get wrong: each ends within seconds, with what is wrong and what to do.

use std::io::{BufRead, BufReader};
use std::process::Stdio;

use subscription_core::{RecordBatch, Timestamp};

use super::super::{Bench, Ledger};
use super::{Kafka, SHARED};

fn closed_port() -> String {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").to_string()
}

#[test]
fn no_broker_is_retried_where_it_may_come_and_told_where_not() {
    let bench = Bench::new();
    let brokers = closed_port();
    for command in ["topic describe", "topic create"] {
        bench.pipeline(&format!("{command} --kafka {brokers}")).fails(3, &["Connection refused", &brokers]);
    }
    // A pipeline waits for its broker, and says so.
    let mut running = bench
        .command(&format!("run --kafka {brokers} --lake lake"))
        .stderr(Stdio::piped())
        .stdout(Stdio::null())
        .spawn()
        .expect("the binary");
    let mut lines = BufReader::new(running.stderr.take().expect("piped")).lines();
    let line = lines.next().expect("a line").expect("text");
    assert!(line.contains("trying again") && line.contains(&brokers), "{line}");
    running.kill().expect("killed");
    running.wait().expect("an end");
}

#[test]
fn no_such_topic() {
    let Some(broker) = SHARED.as_ref() else { return };
    let kafka = Kafka::on(&broker.address());
    let create = format!("pipeline topic create --kafka {} --topic {}", kafka.brokers, kafka.topic);
    kafka.run("lake", "").fails(3, &["there is no such topic", &create]);
    kafka.topic("describe").fails(3, &["there is no such topic", &create]);
    // The command that it names is one.
    kafka.bench.pipeline(&format!("{} --replication 1", create.trim_start_matches("pipeline "))).ok();
    let described = kafka.topic("describe");
    assert_eq!(described.code, Some(5), "one copy is not as documented: {}", described.err);
    assert!(described.out.contains("replication is 1, documented 3"), "{}", described.out);
    assert!(!described.out.contains("message.timestamp.type is"), "{}", described.out);
    kafka.topic("create --replication 1 --partitions 8").fails(5, &["is there already", "new topic"]);
}

#[test]
fn credentials_and_authorisation() {
    let Some(broker) = SHARED.as_ref() else { return };
    let kafka = Kafka::on(&broker.address());
    kafka.create(1, 1);
    let sasl = |user: &str, password: &str| {
        let line = format!(
            "run --kafka {} --topic {} --lake lake-{user} --until-end -X security.protocol=sasl_plaintext \
             -X sasl.mechanisms=PLAIN -X sasl.username={user}",
            broker.sasl_address(),
            kafka.topic
        );
        let mut command = kafka.bench.command(&line);
        command.env("PIPELINE_KAFKA_PROPERTY_SASL_PASSWORD", password);
        crate::Ran::from(command.output().expect("the binary"))
    };
    sasl("admin", "admin-secret").ok();
    let wrong = sasl("admin", "not-the-secret").fails(3, &["sasl.password"]);
    assert!(!wrong.err.contains("not-the-secret"));
    sasl("alice", "alice-secret").fails(3, &["ACL", &kafka.topic]);
}

#[test]
fn wrong_words() {
    let bench = Bench::new();
    bench.pipeline("run --kafka localhost:9092 --input x --lake lake").fails(2, &["one input"]);
    bench.pipeline("run --kafka localhost:9092 --lake lake -X fetch.wait.max.ms=soon").fails(2, &["fetch.wait.max.ms"]);
    bench
        .pipeline("run --kafka localhost:9092 --lake lake -X isolation.level=read_uncommitted")
        .fails(2, &["isolation.level"]);
    bench.pipeline("run --kafka localhost:9092 --lake lake -X group.id=x").fails(2, &["give the group instead"]);
    bench.pipeline("run --kafka localhost:9092 --topic no/such --lake lake").fails(2, &["cannot have this name"]);
    bench.write("p.toml", "[kafka]\nbroker = \"x\"\n");
    bench.pipeline("run --config p.toml --lake lake").fails(2, &["unknown field `broker`", "line: 2"]);
    for line in
        ["run --kafka x --on-gap ignore --lake l", "run --kafka x --partitioner random --lake l", "topic create"]
    {
        assert_eq!(bench.pipeline(line).code, Some(2), "{line}");
    }
}

#[test]
fn a_message_of_10_mb_is_a_record_like_others() {
    let Some(kafka) = Kafka::shared(1) else { return };
    let long = format!("{{\"padding\":\"{}\"}}", "x".repeat(10_000_000));
    let mut records = RecordBatch::builder("".into(), 0, 0);
    records.push(0, Timestamp::EPOCH, None, Some(long.as_bytes()));
    records.push(1, Timestamp::EPOCH, None, Some(&long.as_bytes()[1..]));
    kafka.produce(&[records.finish(2)]);
    kafka.produce_events(0..5, |_| 0);
    kafka.run("lake", "").ok();
    assert_eq!(kafka.bench.ledger(), Ledger { read: 7, dead: 1, quarantined: 1, ..Ledger::of(5) });
}
