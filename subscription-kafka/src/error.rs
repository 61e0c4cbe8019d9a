//! What librdkafka and the brokers say, told as ours: what went wrong, where, and what can be done.

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use subscription_core::{Error, ErrorKind};

use crate::config::{KafkaConfig, is_secret};

/// What an operation was about, for the error that it may end in.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Doing<'a> {
    /// As in "cannot {what}".
    pub(crate) what: &'static str,
    /// Where.
    pub(crate) config: &'a KafkaConfig,
}

impl Doing<'_> {
    /// An error of the client.
    pub(crate) fn failed(self, error: KafkaError) -> Error {
        match error {
            KafkaError::ClientConfig(_, description, name, _) => self.wrong_property(&name, &description),
            KafkaError::ClientCreation(description) => {
                Error::new(ErrorKind::Configuration, format!("cannot {}: {description}", self.what))
                    .with("brokers", self.config.brokers())
                    .with_help("correct the properties of the Kafka client")
            }
            KafkaError::AdminOp(code) => self.code(code, None),
            other => match other.rdkafka_error_code() {
                Some(code) => self.code(code, None),
                None => self.here(Error::new(ErrorKind::Other, format!("cannot {}: {other}", self.what))),
            },
        }
    }

    /// An error code, with what was said about it where it was said.
    pub(crate) fn code(self, code: RDKafkaErrorCode, said: Option<&str>) -> Error {
        let kind = kind(code);
        let why = match said {
            Some(said) => said.to_owned(),
            // `Display` of a code is its name and the client's text for it.
            None => text(code),
        };
        let error = self.here(Error::new(kind, format!("cannot {}: {why}", self.what)));
        let error = match self.help(code, kind) {
            Some(help) => error.with_help(help),
            None => error,
        };
        if kind == ErrorKind::Unavailable { error.retryable() } else { error }
    }

    fn here(self, error: Error) -> Error {
        error.with("topic", self.config.topic()).with("brokers", self.config.brokers())
    }

    /// The description may quote the value.
    fn wrong_property(self, name: &str, description: &str) -> Error {
        let why = if is_secret(name) { "its value is not accepted" } else { description };
        Error::new(ErrorKind::Configuration, format!("a property of the Kafka client is wrong: {why}"))
            .with("property", name)
            .with_help("names and values are those of librdkafka's CONFIGURATION.md; TLS and SASL need the build features `ssl` or `sasl`")
    }

    fn help(self, code: RDKafkaErrorCode, kind: ErrorKind) -> Option<String> {
        use RDKafkaErrorCode as C;
        let (topic, brokers) = (self.config.topic(), self.config.brokers());
        Some(match (code, kind) {
            (C::TopicAuthorizationFailed, _) => {
                format!("let this principal describe and read (or write) the topic `{topic}` by an ACL")
            }
            (C::GroupAuthorizationFailed, _) => {
                format!("let this principal read the group `{}` by an ACL", self.config.group().unwrap_or_default())
            }
            (C::ClusterAuthorizationFailed, _) => "let this principal alter the cluster by an ACL".to_owned(),
            (C::TransactionalIdAuthorizationFailed, _) => {
                "let this principal write with its transactional id by an ACL".to_owned()
            }
            (C::SSL, _) => "check `security.protocol` and the properties `ssl.*`".to_owned(),
            (_, ErrorKind::PermissionDenied) => {
                "check `security.protocol`, `sasl.mechanisms`, `sasl.username` and `sasl.password`".to_owned()
            }
            (_, ErrorKind::NotFound) => {
                format!("create it: pipeline topic create --kafka {brokers} --topic {topic}")
            }
            (C::Resolve, _) => format!("check the host name: {brokers}"),
            (_, ErrorKind::Unavailable) => {
                format!("check that a broker listens at {brokers}, and that `security.protocol` is the listener's")
            }
            (C::InvalidReplicationFactor, _) => {
                "the cluster has fewer brokers than copies were asked for: give a smaller --replication".to_owned()
            }
            (C::MessageSizeTooLarge, _) => {
                "raise `max.message.bytes` of the topic and `message.max.bytes` of the producer, or lower the producer's \
                 `batch.size`: the topic's limit is that of a whole batch"
                    .to_owned()
            }
            (_, ErrorKind::Fenced) => "another process uses the same id: give each process its own".to_owned(),
            _ => return None,
        })
    }
}

/// The client's text for a code, without its name.
fn text(code: RDKafkaErrorCode) -> String {
    let shown = code.to_string();
    match shown.split_once(" (") {
        Some((_, text)) => text.trim_end_matches(')').to_owned(),
        None => shown,
    }
}

fn kind(code: RDKafkaErrorCode) -> ErrorKind {
    use RDKafkaErrorCode as C;
    match code {
        C::UnknownTopic | C::UnknownTopicOrPartition | C::UnknownPartition => ErrorKind::NotFound,
        C::TopicAuthorizationFailed
        | C::GroupAuthorizationFailed
        | C::ClusterAuthorizationFailed
        | C::TransactionalIdAuthorizationFailed
        | C::Authentication
        | C::SaslAuthenticationFailed
        | C::UnsupportedSASLMechanism
        | C::IllegalSASLState
        | C::SSL => ErrorKind::PermissionDenied,
        C::OffsetOutOfRange | C::AutoOffsetReset => ErrorKind::Gap,
        C::Fenced | C::FencedInstanceId | C::ProducerFenced | C::InvalidProducerEpoch => ErrorKind::Fenced,
        C::InvalidReplicationFactor
        | C::InvalidPartitions
        | C::InvalidConfig
        | C::InvalidArgument
        | C::InvalidTopic
        | C::PolicyViolation
        | C::MessageSizeTooLarge
        | C::InconsistentGroupProtocol
        | C::InvalidSessionTimeout
        | C::UnsupportedFeature
        | C::UnsupportedVersion => ErrorKind::Configuration,
        C::TopicAlreadyExists => ErrorKind::Mismatch,
        C::BadMessage | C::BadCompression | C::InvalidMessage => ErrorKind::Corrupt,
        C::AllBrokersDown
        | C::BrokerTransportFailure
        | C::DestroyBroker
        | C::Resolve
        | C::OperationTimedOut
        | C::MessageTimedOut
        | C::RequestTimedOut
        | C::TimedOutQueue
        | C::WaitingForCoordinator
        | C::BrokerNotAvailable
        | C::ReplicaNotAvailable
        | C::LeaderNotAvailable
        | C::NotLeaderForPartition
        | C::CoordinatorNotAvailable
        | C::CoordinatorLoadInProgress
        | C::NotCoordinator
        | C::NetworkException
        | C::NotController
        | C::NotEnoughReplicas
        | C::NotEnoughReplicasAfterAppend
        | C::KafkaStorageError
        | C::FencedLeaderEpoch
        | C::UnknownLeaderEpoch
        | C::QueueFull
        | C::ISRInsufficient
        | C::NodeUpdate
        | C::Retry
        | C::RebalanceInProgress
        | C::IllegalGeneration
        | C::UnknownMemberId
        | C::PollExceeded
        | C::ThrottlingQuotaExceeded
        // A leader that is new does not know yet how far its followers are (KIP-207).
        | C::OffsetNotAvailable
        | C::UnstableOffsetCommit
        | C::ConcurrentTransactions
        | C::FetchSessionIdNotFound
        | C::InvalidFetchSessionEpoch
        | C::EligibleLeadersNotAvailable
        | C::PreferredLeaderNotAvailable => ErrorKind::Unavailable,
        _ => ErrorKind::Other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn told(error: KafkaError) -> Error {
        let config = KafkaConfig::new("localhost:9092", "usage").expect("valid names");
        Doing { what: "read the topic", config: &config }.failed(error)
    }

    #[test]
    fn a_code_decides_kind_retry_and_help() {
        use RDKafkaErrorCode as C;
        for (code, kind, help) in [
            (C::UnknownTopicOrPartition, ErrorKind::NotFound, "pipeline topic create"),
            (C::TopicAuthorizationFailed, ErrorKind::PermissionDenied, "ACL"),
            (C::Authentication, ErrorKind::PermissionDenied, "sasl.password"),
            (C::AllBrokersDown, ErrorKind::Unavailable, "localhost:9092"),
            (C::OffsetOutOfRange, ErrorKind::Gap, ""),
            (C::OffsetNotAvailable, ErrorKind::Unavailable, "localhost:9092"),
        ] {
            let error = told(KafkaError::MetadataFetch(code));
            assert_eq!(error.kind(), kind, "{code:?}");
            assert_eq!(error.is_retryable(), kind == ErrorKind::Unavailable, "{code:?}");
            assert!(error.help().unwrap_or_default().contains(help), "{code:?}: {:?}", error.help());
            assert!(error.to_string().contains("usage"), "{error}");
        }
        assert_eq!(told(KafkaError::AdminOp(C::InvalidPartitions)).kind(), ErrorKind::Configuration);
    }

    #[test]
    fn a_wrong_property_is_named_and_a_secret_is_not_told() {
        let config = KafkaConfig::new("localhost:9092", "usage").expect("valid names");
        let fails = |name: &str, value: &str| {
            let config = config.clone().with_property(name, value).expect("a property");
            let native = config.client(&[], &[]).expect("properties").create_native_config();
            told(native.err().expect("a wrong property"))
        };
        let error = fails("fetch.wait.max.ms", "soon");
        assert!(error.to_string().contains("fetch.wait.max.ms"), "{error}");
        assert_eq!(error.kind(), ErrorKind::Configuration);
        let error = fails("sasl.passwort", "hush");
        assert!(error.to_string().contains("sasl.passwort") && !format!("{error:?}").contains("hush"), "{error:?}");
    }
}
