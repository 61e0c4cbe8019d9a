//! Making a topic as it should be, and telling how one that is there differs.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::{Offset, TopicPartitionList};
use serde_json::Value;
use subscription_core::{Error, ErrorKind, OffsetRange, Result};

use crate::client::{ASK, Asker};
use crate::config::KafkaConfig;
use crate::error::Doing;

/// `schemas/topic.json`, the documented configuration.
const DOCUMENTED: &str = include_str!("../schemas/topic.json");

/// How a topic of usage events is to be.
///
/// ```
/// use subscription_kafka::TopicSpec;
/// let spec = TopicSpec::default();
/// assert_eq!((spec.partitions, spec.replication), (64, 3));
/// assert_eq!(spec.config["message.timestamp.type"], "LogAppendTime");
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TopicSpec {
    /// How many partitions. It cannot be changed later: a tenant would be in two of them.
    pub partitions: u32,
    /// On how many brokers each record is kept.
    pub replication: u32,
    /// The topic's configuration, by Kafka's names.
    pub config: BTreeMap<String, String>,
}

impl Default for TopicSpec {
    /// The documented configuration: 64 partitions, 3 copies of which 2 acknowledge, 7 days, snappy, timestamps of the
    /// broker.
    fn default() -> Self {
        let documented: Value = serde_json::from_str(DOCUMENTED).unwrap_or_default();
        let number = |name: &str| documented[name].as_u64().and_then(|n| u32::try_from(n).ok()).unwrap_or(1);
        let config = documented["config"].as_object().into_iter().flatten();
        Self {
            partitions: number("partitions"),
            replication: number("replication_factor"),
            config: config.filter_map(|(name, value)| Some((name.clone(), value.as_str()?.to_owned()))).collect(),
        }
    }
}

impl TopicSpec {
    /// The name of the topic in the documented configuration.
    pub fn documented_topic() -> String {
        let documented: Value = serde_json::from_str(DOCUMENTED).unwrap_or_default();
        documented["topic"].as_str().unwrap_or_default().to_owned()
    }

    /// With so many copies. No more acknowledgements are asked for than there are copies less one, so that a broker may be
    /// away, and no fewer than one.
    pub fn with_replication(mut self, replication: u32) -> Self {
        self.replication = replication;
        let name = "min.insync.replicas";
        let wanted = self.config.get(name).and_then(|n| n.parse::<u32>().ok()).unwrap_or(1);
        self.config.insert(name.to_owned(), wanted.min(replication.saturating_sub(1)).max(1).to_string());
        self
    }
}

/// How a topic is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDescription {
    /// Its name.
    pub topic: String,
    /// How many partitions it has.
    pub partitions: u32,
    /// On how many brokers each record is kept; of partitions that differ, the fewest.
    pub replication: u32,
    /// Its configuration, by Kafka's names.
    pub config: BTreeMap<String, String>,
    /// Partitions that no broker leads: they can be neither read nor written now.
    pub leaderless: Vec<u32>,
}

/// One way in which a topic is not as it should be.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct TopicDifference {
    /// `partitions`, `replication` or the name of a configuration.
    pub name: String,
    /// As it should be.
    pub wanted: String,
    /// As it is.
    pub found: String,
    /// What follows from that.
    pub effect: &'static str,
    /// What to do.
    pub remedy: String,
}

impl TopicDescription {
    /// How the topic differs from `spec`. Partitions and copies come first.
    pub fn differences(&self, spec: &TopicSpec) -> Vec<TopicDifference> {
        let mut differences = Vec::new();
        if self.partitions != spec.partitions {
            differences.push(TopicDifference {
                name: "partitions".to_owned(),
                wanted: spec.partitions.to_string(),
                found: self.partitions.to_string(),
                effect: "fewer limit how many processes can share the work; more cost a little each",
                remedy:
                    "leave them: changing their number would put tenants in two of them. For another number make a new \
                         topic, move the producers, and go on with a new lake once the old topic is read to its end"
                        .to_owned(),
            });
        }
        if self.replication < spec.replication {
            differences.push(TopicDifference {
                name: "replication".to_owned(),
                wanted: spec.replication.to_string(),
                found: self.replication.to_string(),
                effect: "records are lost with fewer brokers",
                remedy: "move its partitions to more brokers: kafka-reassign-partitions.sh".to_owned(),
            });
        }
        for (name, wanted) in &spec.config {
            let found = self.config.get(name).map_or("", String::as_str);
            if found == wanted || enough(name, found, wanted) {
                continue;
            }
            let command = format!("kafka-configs.sh --alter --topic {} --add-config {name}={wanted}", self.topic);
            differences.push(TopicDifference {
                name: name.clone(),
                wanted: wanted.clone(),
                found: if found.is_empty() { "(not known)".to_owned() } else { found.to_owned() },
                effect: effect(name),
                remedy: command,
            });
        }
        differences
    }

    /// What a pipeline that reads this topic should warn of.
    pub fn warnings(&self) -> Vec<String> {
        let mut warnings = Vec::new();
        if self.config.get("message.timestamp.type").is_some_and(|found| found != "LogAppendTime") {
            warnings.push(format!("message.timestamp.type is CreateTime: {}", effect("message.timestamp.type")));
        }
        if self.config.get("cleanup.policy").is_some_and(|found| found.contains("compact")) {
            warnings.push(format!("cleanup.policy is compact: {}", effect("cleanup.policy")));
        }
        warnings
    }
}

/// More than wanted is no difference.
fn enough(name: &str, found: &str, wanted: &str) -> bool {
    let least = matches!(name, "retention.ms" | "min.insync.replicas");
    match (found.parse::<i64>(), wanted.parse::<i64>()) {
        // -1: for ever.
        (Ok(found), Ok(wanted)) => least && (found == -1 || found >= wanted),
        _ => false,
    }
}

fn effect(name: &str) -> &'static str {
    match name {
        "message.timestamp.type" => {
            "ingestion time is the producer's clock, so one that is wrong makes events late, or refused as of the future"
        }
        "retention.ms" => "records that are gone before a pipeline that was stopped has read them are lost",
        "min.insync.replicas" => "an acknowledged record may be lost with one broker",
        "cleanup.policy" => "compaction removes records that were never read",
        "compression.type" => "records take more room, or are compressed anew by the broker",
        _ => "",
    }
}

/// Makes and describes the topic of a [`KafkaConfig`].
pub struct TopicAdmin {
    client: AdminClient<DefaultClientContext>,
    asker: Asker,
    config: KafkaConfig,
}

impl TopicAdmin {
    /// The cluster is not asked for anything yet.
    ///
    /// # Errors
    /// `Configuration`, where a property is wrong.
    pub fn new(config: KafkaConfig) -> Result<Self> {
        let doing = Doing { what: "make a Kafka client", config: &config };
        let client = config.client(&[], &[])?.create().map_err(|e| doing.failed(e))?;
        Ok(Self { client, asker: Asker::new(&config)?, config })
    }

    /// Makes the topic.
    ///
    /// # Errors
    /// `Mismatch`, where it is there already, with how it differs; `Configuration`, where the cluster has too few brokers
    /// or refuses a setting; what the cluster says otherwise.
    pub async fn create(&self, spec: &TopicSpec) -> Result<()> {
        let doing = Doing { what: "create the topic", config: &self.config };
        let (partitions, replication) = match (i32::try_from(spec.partitions), i32::try_from(spec.replication)) {
            (Ok(partitions @ 1..), Ok(replication @ 1..)) => (partitions, replication),
            _ => {
                return Err(Error::new(ErrorKind::Configuration, "a topic has at least one partition and one copy")
                    .with("topic", self.config.topic())
                    .with_help("give --partitions and --replication from 1 on"));
            }
        };
        let topic = NewTopic::new(self.config.topic(), partitions, TopicReplication::Fixed(replication));
        let topic = spec.config.iter().fold(topic, |topic, (name, value)| topic.set(name, value));
        // Brokers that cannot be reached are told apart by this client, which says why.
        match self.asker.topic_metadata() {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        let created = self.client.create_topics([&topic], &options()).await;
        match created.map_err(|e| doing.failed(e))?.pop() {
            None | Some(Ok(_)) => self.wait_until_known(partitions).await,
            Some(Err((_, RDKafkaErrorCode::TopicAlreadyExists))) => Err(exists(spec, &self.describe().await?)),
            Some(Err((_, code))) => Err(doing.code(code, None)),
        }
    }

    /// How the topic is.
    ///
    /// # Errors
    /// `NotFound`, where there is none; what the cluster says otherwise.
    pub async fn describe(&self) -> Result<TopicDescription> {
        let topic = self.config.topic();
        let metadata = self.asker.topic_metadata()?;
        let partitions = metadata.topics().first().map_or(&[][..], |topic| topic.partitions());
        let resource = ResourceSpecifier::Topic(topic);
        let doing = Doing { what: "ask for the configuration of the topic", config: &self.config };
        let described = self.client.describe_configs([&resource], &options()).await;
        let entries = match described.map_err(|e| doing.failed(e))?.pop() {
            Some(Ok(resource)) => resource.entries,
            Some(Err(code)) => return Err(doing.code(code, None)),
            None => Vec::new(),
        };
        Ok(TopicDescription {
            topic: topic.to_owned(),
            partitions: partitions.len() as u32,
            replication: partitions.iter().map(|p| p.replicas().len() as u32).min().unwrap_or_default(),
            config: entries.into_iter().filter_map(|entry| Some((entry.name, entry.value?))).collect(),
            leaderless: partitions.iter().filter(|p| p.leader() < 0).map(|p| p.id() as u32).collect(),
        })
    }

    /// The offsets that each partition holds for a reader of committed records.
    ///
    /// # Errors
    /// What the cluster says.
    pub fn offsets(&self) -> Result<Vec<OffsetRange>> {
        let metadata = self.asker.topic_metadata()?;
        let partitions = metadata.topics().first().map_or(0, |topic| topic.partitions().len() as u32);
        (0..partitions).map(|partition| self.asker.offsets(partition)).collect()
    }

    /// The offsets that the configuration's group has committed, where it has: how far tools believe it to be.
    ///
    /// # Errors
    /// `Configuration` without a group; what the cluster says.
    pub fn committed(&self, partitions: u32) -> Result<Vec<Option<u64>>> {
        let doing = Doing { what: "ask for the offsets of the group", config: &self.config };
        let Some(group) = self.config.group() else {
            return Err(
                Error::new(ErrorKind::Configuration, "no consumer group is given").with_help("name one: --group")
            );
        };
        let mut client = self.config.client(&[], &[])?;
        let consumer: BaseConsumer = client.set("group.id", group).create().map_err(|e| doing.failed(e))?;
        let mut list = TopicPartitionList::new();
        list.add_partition_range(self.config.topic(), 0, partitions.saturating_sub(1) as i32);
        let committed = consumer.committed_offsets(list, ASK).map_err(|e| doing.failed(e))?;
        let offset = |partition| match committed.find_partition(self.config.topic(), partition as i32)?.offset() {
            Offset::Offset(offset) => u64::try_from(offset).ok(),
            _ => None,
        };
        Ok((0..partitions).map(offset).collect())
    }

    /// A new topic takes a moment to be known to all brokers: whoever is told that it is there may use it.
    async fn wait_until_known(&self, partitions: i32) -> Result<()> {
        let mut tries = 0;
        loop {
            let known = self.asker.topic_metadata();
            let led = |metadata: &rdkafka::metadata::Metadata| {
                let led = metadata.topics().iter().flat_map(|topic| topic.partitions()).filter(|p| p.leader() >= 0);
                led.count() == partitions as usize
            };
            match known {
                Ok(metadata) if led(&metadata) => return Ok(()),
                // It is there; that a partition has no leader yet is for `describe` to tell.
                _ if tries == 100 => return Ok(()),
                _ => tokio::time::sleep(Duration::from_millis(50)).await,
            }
            tries += 1;
        }
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK))
}

fn exists(spec: &TopicSpec, found: &TopicDescription) -> Error {
    let error = Error::new(ErrorKind::Mismatch, "the topic is there already")
        .with("topic", &found.topic)
        .with("partitions", found.partitions)
        .with("replication", found.replication);
    let differences = found.differences(spec);
    match differences.first() {
        None => error.with_help("nothing is to be done: it is as it should be"),
        Some(first) if first.name == "partitions" => error.with("wanted partitions", spec.partitions).with_help(
            "the number of partitions of a topic in use stays as it is: fewer are not possible, and more would put tenants \
             in two of them. For another number make a new topic",
        ),
        Some(_) => {
            let names: Vec<_> = differences.iter().map(|d| format!("{}={} ({})", d.name, d.found, d.wanted)).collect();
            error.with("differs", names.join(", ")).with_help("`pipeline topic describe` tells what to do")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_configuration_is_read() {
        let spec = TopicSpec::default();
        assert_eq!(TopicSpec::documented_topic(), "api-usage-events.v1");
        assert_eq!(spec.config["retention.ms"], (7 * 24 * 3_600_000).to_string());
        assert_eq!(spec.config["compression.type"], "snappy");
        assert_eq!(spec.clone().with_replication(1).config["min.insync.replicas"], "1");
        assert_eq!(spec.with_replication(5).config["min.insync.replicas"], "2");
    }

    #[test]
    fn a_topic_is_told_apart_from_what_it_should_be() {
        let spec = TopicSpec::default();
        let mut topic = TopicDescription {
            topic: "usage".to_owned(),
            partitions: spec.partitions,
            replication: spec.replication,
            config: spec.config.clone(),
            leaderless: Vec::new(),
        };
        assert_eq!(topic.differences(&spec), []);
        assert!(topic.warnings().is_empty());
        // Longer than wanted, or for ever, is no difference; shorter is.
        for (retention, differs) in [("864000000", false), ("-1", false), ("3600000", true)] {
            topic.config.insert("retention.ms".to_owned(), retention.to_owned());
            assert_eq!(!topic.differences(&spec).is_empty(), differs, "{retention}");
        }
        topic.config.insert("message.timestamp.type".to_owned(), "CreateTime".to_owned());
        topic.partitions = 8;
        let names: Vec<_> = topic.differences(&spec).into_iter().map(|difference| difference.name).collect();
        assert_eq!(names, ["partitions", "message.timestamp.type", "retention.ms"]);
        assert_eq!(topic.warnings().len(), 1);
    }
}
