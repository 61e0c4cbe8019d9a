//! How a topic is reached. Every property of librdkafka passes through under its own name.

use std::collections::BTreeMap;
use std::fmt;

use rdkafka::ClientConfig;
use subscription_core::{Error, ErrorKind, Result};

/// A cluster, a topic on it and, for who reads, a consumer group.
///
/// ```
/// use subscription_kafka::KafkaConfig;
/// # fn main() -> subscription_core::Result<()> {
/// let config = KafkaConfig::new("localhost:9092", "api-usage-events.v1")?
///     .with_group("metering")?
///     .with_property("security.protocol", "sasl_ssl")?
///     .with_property("sasl.password", "hush")?;
/// assert!(!format!("{config:?}").contains("hush"));
/// # Ok(())
/// # }
/// ```
#[derive(Clone, PartialEq, Eq)]
pub struct KafkaConfig {
    brokers: String,
    topic: String,
    group: Option<String>,
    properties: BTreeMap<String, String>,
}

/// Properties that have a place of their own, and which.
const OWN_PLACE: [(&str, &str); 3] =
    [("bootstrap.servers", "the brokers"), ("metadata.broker.list", "the brokers"), ("group.id", "the group")];

impl KafkaConfig {
    /// A topic on the cluster that `brokers` (`host:port,host:port`) lead to.
    ///
    /// # Errors
    /// `Configuration`, where a name is empty or the topic's is none that Kafka allows.
    pub fn new(brokers: impl Into<String>, topic: impl Into<String>) -> Result<Self> {
        let (brokers, topic) = (brokers.into(), topic.into());
        if brokers.trim().is_empty() {
            return Err(Error::new(ErrorKind::Configuration, "no broker is given")
                .with_help("name one or more: `localhost:9092` or `a:9092,b:9092`"));
        }
        let allowed = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        if topic.is_empty() || topic.len() > 249 || !topic.chars().all(allowed) || matches!(&*topic, "." | "..") {
            return Err(Error::new(ErrorKind::Configuration, "a topic cannot have this name")
                .with("topic", &topic)
                .with_help("a name has 1 to 249 of the characters A-Z a-z 0-9 . _ -"));
        }
        Ok(Self { brokers, topic, group: None, properties: BTreeMap::new() })
    }

    /// Reads as a member of this consumer group: each partition is one member's at a time.
    ///
    /// # Errors
    /// `Configuration`, where the name is empty.
    pub fn with_group(mut self, group: impl Into<String>) -> Result<Self> {
        let group = group.into();
        if group.trim().is_empty() {
            return Err(Error::new(ErrorKind::Configuration, "no consumer group is given")
                .with_help("name the group that the processes of this pipeline share"));
        }
        self.group = Some(group);
        Ok(self)
    }

    /// Sets a property of librdkafka by its own name, such as `client.id` or `security.protocol`.
    ///
    /// Names and values are checked when a client is made.
    ///
    /// # Errors
    /// `Configuration`, where the property is one of those with a place of their own here.
    pub fn with_property(mut self, name: impl Into<String>, value: impl Into<String>) -> Result<Self> {
        let name = name.into();
        if let Some((_, place)) = OWN_PLACE.iter().find(|(own, _)| *own == name) {
            return Err(Error::new(ErrorKind::Configuration, "this property is not set by its name")
                .with("property", name)
                .with_help(format!("give {place} instead")));
        }
        self.properties.insert(name, value.into());
        Ok(self)
    }

    /// The brokers to begin with, as given.
    pub fn brokers(&self) -> &str {
        &self.brokers
    }

    /// The topic.
    pub fn topic(&self) -> &str {
        &self.topic
    }

    /// The consumer group, where one was given.
    pub fn group(&self) -> Option<&str> {
        self.group.as_deref()
    }

    /// A property that was set.
    pub fn property(&self, name: &str) -> Option<&str> {
        self.properties.get(name).map(String::as_str)
    }

    /// The properties for a client: `defaults` under those that were set, `fixed` over them. A property that was set
    /// to something else than what is fixed is refused: what we promise rests on it.
    pub(crate) fn client(&self, defaults: &[(&str, &str)], fixed: &[(&str, &str)]) -> Result<ClientConfig> {
        let mut client = ClientConfig::new();
        for (name, value) in defaults {
            client.set(*name, *value);
        }
        for (name, value) in &self.properties {
            if let Some((_, needed)) = fixed.iter().find(|(fixed, needed)| fixed == name && needed != value) {
                return Err(Error::new(ErrorKind::Configuration, "this property cannot be changed")
                    .with("property", name)
                    .with("needed", needed)
                    .with_help("leave it out: exactly-once rests on it"));
            }
            client.set(name, value);
        }
        for (name, value) in fixed {
            client.set(*name, *value);
        }
        client.set("bootstrap.servers", &self.brokers);
        Ok(client)
    }
}

impl fmt::Debug for KafkaConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let shown = |(name, value): (&String, &String)| {
            (name.clone(), if is_secret(name) { "(hidden)".to_owned() } else { value.clone() })
        };
        let properties: BTreeMap<_, _> = self.properties.iter().map(shown).collect();
        f.debug_struct("KafkaConfig")
            .field("brokers", &self.brokers)
            .field("topic", &self.topic)
            .field("group", &self.group)
            .field("properties", &properties)
            .finish()
    }
}

/// Whether a property's value is never to be shown.
pub(crate) fn is_secret(property: &str) -> bool {
    ["password", "secret", "pem", "oauthbearer.config", "jaas", "token", "assertion"]
        .iter()
        .any(|part| property.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn config() -> KafkaConfig {
        KafkaConfig::new("localhost:9092", "usage").expect("valid names")
    }

    #[test]
    fn secrets_are_never_shown() {
        for name in [
            "sasl.password",
            "ssl.key.password",
            "ssl.key.pem",
            "ssl.keystore.password",
            "sasl.oauthbearer.config",
            "sasl.oauthbearer.client.secret",
        ] {
            let config = config().with_property(name, "hush").expect("a property");
            assert!(!format!("{config:?} {config:#?}").contains("hush"), "{name}");
            let client = config.client(&[], &[]).expect("properties");
            assert_eq!(client.get(name), Some("hush"));
        }
        let config = config().with_property("client.id", "gateway-7").expect("a property");
        assert!(format!("{config:?}").contains("gateway-7"));
    }

    #[test]
    fn what_is_set_is_over_defaults_and_under_what_is_fixed() {
        let config = config().with_property("fetch.wait.max.ms", "7").expect("a property");
        let client = config.client(&[("fetch.wait.max.ms", "500"), ("a", "b")], &[("c", "d")]).expect("properties");
        assert_eq!(
            (client.get("fetch.wait.max.ms"), client.get("a"), client.get("c")),
            (Some("7"), Some("b"), Some("d"))
        );
        let error = config.client(&[], &[("fetch.wait.max.ms", "5")]).expect_err("fixed");
        assert!(error.to_string().contains("fetch.wait.max.ms") && error.help().is_some(), "{error}");
        config.client(&[], &[("fetch.wait.max.ms", "7")]).expect("the same value is no change");
    }

    #[test]
    fn names_are_checked() {
        for topic in ["", ".", "..", "a b", "ü", &"x".repeat(250)] {
            assert!(KafkaConfig::new("localhost:9092", topic).is_err(), "{topic}");
        }
        assert!(KafkaConfig::new(" ", "usage").is_err());
        assert!(config().with_group("").is_err());
        for (name, _) in OWN_PLACE {
            assert!(config().with_property(name, "x").is_err(), "{name}");
        }
    }
}
