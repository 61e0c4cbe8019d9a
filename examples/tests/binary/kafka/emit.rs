//! `pipeline emit`, and the topic of dead letters.

use std::fs::File;
use std::net::TcpListener;

use subscription_core::testkit::reference::Comparison;

use super::super::{Bench, Ran};
use super::{Kafka, snapshot};

impl Kafka {
    fn emit(&self, files: &str) -> Ran {
        self.bench.pipeline(&format!("emit {files} --kafka {} --topic {}", self.brokers, self.topic))
    }

    /// A file of events, with lines that are none.
    fn events(&self, events: u32) -> usize {
        let generated =
            self.bench.pipeline(&format!("generate --events {events} --tenants 20 --profile late")).ok().out;
        let mut lines: Vec<&str> = generated.lines().collect();
        let half = lines.len() / 2;
        lines.splice(half..half, ["no JSON", "", "[1, 2]", r#"{"tenant_id": "tenant-000001"}"#]);
        self.bench.write("events.ndjson", lines.join("\n"));
        lines.len() - 1
    }
}

/// The records of a file give the same rows through a topic as they do from the file; from standard input too.
#[test]
fn a_file_through_a_topic() {
    let Some(kafka) = Kafka::shared(5) else { return };
    let records = kafka.events(2_000);
    let sent = kafka.emit("events.ndjson").ok();
    assert!(sent.out.starts_with("2,003 records to usage-"), "{}", sent.out);
    kafka.run("topic", "").ok();
    kafka.assert_is_reference("topic", "emitted");

    kafka.bench.pipeline("run --input events.ndjson --lake file").ok();
    let file = snapshot(&kafka.bench.path("file"), "file", 8);
    let through = snapshot(&kafka.bench.path("topic"), &kafka.topic, 5);
    assert_eq!(through.bronze.len(), records - 2, "a row each but for dead letters");
    Comparison::exact()
        .ignoring_coordinates()
        .compare(&through, &file)
        .unwrap_or_else(|differences| panic!("{differences}"));

    let line = format!("emit - --kafka {} --topic {} --rate 100000", kafka.brokers, kafka.topic);
    let mut again = kafka.bench.command(&line);
    let again: Ran = again.stdin(File::open(kafka.bench.path("events.ndjson")).unwrap()).output().unwrap().into();
    assert!(again.ok().out.starts_with("2,003 records"));
    let page = kafka.run("topic", "--json").ok().json();
    assert_eq!(page["ledger"]["duplicates"], 2_000, "every event is known");
}

#[test]
fn a_record_that_is_too_large_is_left_out_and_told() {
    let Some(kafka) = Kafka::shared(1) else { return };
    let large = |len: usize| format!(r#"{{"tenant_id": "acme", "x": "{}"}}"#, "x".repeat(len));
    let lines = [large(10), large(1_500_000), large(17_000_000), large(20)];
    kafka.bench.write("large.ndjson", lines.join("\n"));
    let sent = kafka.emit("large.ndjson");
    assert_eq!(sent.code, Some(3), "{}", sent.err);
    assert!(sent.out.contains("2 records to") && sent.out.contains("2 records left out"), "{}", sent.out);
    let payloads: Vec<_> = kafka.records()[0].iter().map(|record| record.payload_len() as usize).collect();
    assert_eq!(payloads, [lines[0].len(), lines[3].len()]);
}

#[test]
fn what_is_wrong_is_told() {
    let bench = Bench::new();
    bench.write("events.ndjson", "{}");
    let nobody = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    bench.pipeline(&format!("emit events.ndjson --kafka {nobody}")).fails(3, &[&nobody.to_string(), "broker"]);
    bench.pipeline("emit none.ndjson --kafka localhost:1").fails(3, &["none.ndjson"]);
    bench.pipeline("emit events.ndjson --kafka localhost:1 -X linger.ms=soon").fails(2, &["linger.ms"]);
    bench.pipeline("emit events.ndjson --kafka localhost:1 -X acks=1").fails(2, &["acks"]);
    let letters = "run --input events.ndjson --lake lake --dead-letters letters";
    bench.pipeline(letters).fails(2, &["--kafka"]);
    let Some(kafka) = Kafka::shared(1) else { return };
    kafka.bench.write("events.ndjson", "{}");
    let missing = format!("emit events.ndjson --kafka {} --topic none", kafka.brokers);
    kafka.bench.pipeline(&missing).fails(3, &["none", "pipeline topic create"]);
    kafka.run("lake", "--dead-letters none").fails(3, &["none", "pipeline topic create"]);
}

/// Dead letters are in the topic once, however often the pipeline runs, and those of before it was told of the topic too.
#[test]
fn dead_letters_are_in_their_topic_once() {
    let Some(kafka) = Kafka::shared(3) else { return };
    let letters = Kafka::on(&kafka.brokers);
    letters.create(1, 1);
    let messages = || -> Vec<(String, String)> {
        let header = |record: &subscription_core::Record<'_>, name: &str| {
            let value = record.headers().find(|(header, _)| *header == name).and_then(|(_, value)| value);
            String::from_utf8(value.expect("a header").to_vec()).unwrap()
        };
        let records = letters.records();
        let place = |r: &subscription_core::Record<'_>| {
            format!("{}/{}", header(r, "dead_letter.partition"), header(r, "dead_letter.offset"))
        };
        let mut messages: Vec<_> = records[0].iter().map(|r| (place(&r), header(&r, "dead_letter.code"))).collect();
        messages.sort();
        messages
    };
    let more = format!("--dead-letters {}", letters.topic);
    kafka.events(100);
    kafka.emit("events.ndjson").ok();
    kafka.run("lake", "").ok();
    assert_eq!(messages(), []);
    for round in 1..4 {
        kafka.run("lake", &more).ok();
        let got = messages();
        let mut wanted: Vec<_> = snapshot_letters(&kafka);
        wanted.sort();
        assert_eq!(got, wanted);
        assert_eq!(got.len(), 2 * round);
        kafka.run("lake", &more).ok();
        assert_eq!(messages(), got, "nothing is sent twice");
        kafka.emit("events.ndjson").ok();
    }
}

/// Place and code of the rows of `dead_letter`.
fn snapshot_letters(kafka: &Kafka) -> Vec<(String, String)> {
    let shown =
        kafka.bench.pipeline("show dead_letter --lake lake --format json --columns partition,offset,error_code").ok();
    let row = |line: &str| {
        let row: serde_json::Value = serde_json::from_str(line).expect("JSON");
        (format!("{}/{}", row["partition"], row["offset"]), row["error_code"].as_str().expect("a code").to_owned())
    };
    shown.out.lines().map(row).collect()
}
