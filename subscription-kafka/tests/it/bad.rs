//! Each thing that an operator can get wrong ends within seconds, with what is wrong and what to do.

use std::net::TcpListener;

use subscription_core::{Error, ErrorKind, Source, SourceEvent};
use subscription_kafka::{KafkaConfig, KafkaSource, SourceOptions};

use crate::support::{next, open, runtime, shared, topic};

async fn identity(config: &KafkaConfig) -> Error {
    open(config, false).identity().await.expect_err("nothing to read")
}

fn config(brokers: &str, topic: &str) -> KafkaConfig {
    KafkaConfig::new(brokers, topic).unwrap().with_group("metering").unwrap()
}

#[test]
fn no_broker() {
    runtime().block_on(async {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let brokers = format!("127.0.0.1:{port}");
        let error = identity(&config(&brokers, "usage")).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.is_retryable(), "a broker may come back");
        assert!(error.to_string().contains("Connection refused") && error.to_string().contains(&brokers), "{error}");
        assert!(error.help().unwrap().contains(&brokers));
    });
}

#[test]
fn something_else_listens_there() {
    runtime().block_on(async {
        // Takes the connection and never answers.
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let brokers = listener.local_addr().unwrap().to_string();
        let error = identity(&config(&brokers, "usage")).await;
        assert_eq!(error.kind(), ErrorKind::Unavailable);
        assert!(error.help().unwrap().contains("security.protocol"), "{error}: {:?}", error.help());
    });
}

#[test]
fn no_such_host() {
    runtime().block_on(async {
        let error = identity(&config("no-such-host.invalid:9092", "usage")).await;
        assert!(error.help().unwrap().contains("no-such-host.invalid"), "{error}: {:?}", error.help());
    });
}

#[test]
fn no_such_topic() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let error = identity(&config(&broker.address(), "no-such-topic")).await;
        assert_eq!(error.kind(), ErrorKind::NotFound);
        let command = format!("pipeline topic create --kafka {} --topic no-such-topic", broker.address());
        assert!(error.help().unwrap().contains(&command), "{:?}", error.help());
    });
}

#[test]
fn no_group_and_wrong_properties() {
    let config = KafkaConfig::new("localhost:9092", "usage").unwrap();
    let open = |config: &KafkaConfig| {
        KafkaSource::open(config.clone(), SourceOptions::default()).err().expect("a wrong configuration")
    };
    let error = open(&config);
    assert!(error.help().unwrap().contains("--group"), "{error}");
    let config = config.with_group("metering").unwrap();
    for (name, value) in [
        ("fetch.wait.max.ms", "soon"),
        ("no.such.property", "1"),
        ("enable.auto.commit", "true"),
        ("isolation.level", "read_uncommitted"),
        ("auto.offset.reset", "latest"),
        ("partition.assignment.strategy", "range"),
    ] {
        let error = open(&config.clone().with_property(name, value).unwrap());
        assert_eq!(error.kind(), ErrorKind::Configuration, "{name}");
        assert!(error.to_string().contains(name) && error.help().is_some(), "{error}");
    }
}

fn sasl(config: KafkaConfig, user: &str, password: &str) -> KafkaConfig {
    [("security.protocol", "sasl_plaintext"), ("sasl.mechanisms", "PLAIN"), ("sasl.username", user)]
        .into_iter()
        .chain([("sasl.password", password)])
        .fold(config, |config, (name, value)| config.with_property(name, value).unwrap())
}

#[test]
fn wrong_credentials() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let error = identity(&sasl(config(&broker.sasl_address(), "usage"), "admin", "not-it")).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert!(!error.is_retryable());
        assert!(error.help().unwrap().contains("sasl.password"), "{:?}", error.help());
        assert!(!format!("{error:?}").contains("not-it"));
    });
}

#[test]
fn no_authorisation() {
    let Some(broker) = shared() else { return };
    runtime().block_on(async {
        let config = topic(&broker.address(), "private", 1).await;
        let there = KafkaConfig::new(broker.sasl_address(), config.topic()).unwrap().with_group("private").unwrap();
        // May do all: the same topic, through the same listener.
        let admin = sasl(there.clone(), "admin", "admin-secret");
        assert_eq!(open(&admin, false).identity().await.unwrap().partitions, 1);
        let mut source = open(&admin, false);
        assert!(matches!(next(&mut source).await.unwrap(), SourceEvent::Assigned(_)));
        let error = identity(&sasl(there, "alice", "alice-secret")).await;
        assert_eq!(error.kind(), ErrorKind::PermissionDenied, "{error:?}");
        assert!(error.help().unwrap().contains("ACL"), "{:?}", error.help());
    });
}
