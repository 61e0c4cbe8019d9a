//! Topics on the command line: how a cluster is reached, what is read of it, and what it looks like.

use std::collections::BTreeMap;
use std::str::FromStr;

use clap::{Args, Subcommand};
use serde::{Deserialize, Serialize};
use subscription_core::{Counter, Error, ErrorKind, Placement, Result, Table};
use subscription_kafka::{KafkaConfig, SourceOptions, TopicAdmin, TopicDescription, TopicSpec};
use subscription_pipeline::OnGap;

use crate::config::Named;
use crate::exit::{At, Exit, Outcome};
use crate::lake;
use crate::text::{Align, columns, count};

/// A property of librdkafka on the command line: `name=value`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Property(pub String, pub String);

impl FromStr for Property {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.split_once('=') {
            Some((name, value)) if !name.trim().is_empty() => Ok(Self(name.trim().to_owned(), value.to_owned())),
            _ => Err("expected NAME=VALUE, such as client.id=gateway".to_owned()),
        }
    }
}

/// Variables of this prefix are properties: what follows it, in small letters and with dots for underscores.
const PROPERTY_VARIABLES: &str = "PIPELINE_KAFKA_PROPERTY_";

/// A cluster and a topic on it.
#[derive(Debug, Clone, Args)]
pub struct Cluster {
    /// Brokers to begin with
    #[arg(long, value_name = "HOST:PORT,...", env = "PIPELINE_KAFKA")]
    pub kafka: String,

    /// The topic [default: api-usage-events.v1]
    #[arg(long, value_name = "TOPIC", env = "PIPELINE_TOPIC")]
    pub topic: Option<String>,

    /// A property of librdkafka by its own name; may be repeated
    #[arg(long = "kafka-property", short = 'X', value_name = "NAME=VALUE")]
    pub properties: Vec<Property>,
}

impl Cluster {
    /// What the client is told: properties of the file, over them those of the environment, over them the flags.
    ///
    /// # Errors
    /// `Configuration`.
    pub fn config(&self, file: &BTreeMap<String, toml::Value>) -> Result<KafkaConfig> {
        let topic = self.topic.clone().unwrap_or_else(TopicSpec::documented_topic);
        let mut config = KafkaConfig::new(&self.kafka, topic)?;
        for (name, value) in file {
            let value = match value {
                toml::Value::String(text) => text.clone(),
                other => other.to_string(),
            };
            config = config.with_property(name, value)?;
        }
        for (name, value) in std::env::vars() {
            if let Some(name) = name.strip_prefix(PROPERTY_VARIABLES) {
                config = config.with_property(name.to_ascii_lowercase().replace('_', "."), value)?;
            }
        }
        for Property(name, value) in &self.properties {
            config = config.with_property(name, value)?;
        }
        Ok(config)
    }
}

/// What can be set of reading a topic; in the file under `[kafka]`.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct KafkaSettings {
    /// Read a topic instead of files: brokers to begin with
    #[arg(long = "kafka", value_name = "HOST:PORT,...", env = "PIPELINE_KAFKA", help_heading = "Topics")]
    pub brokers: Option<String>,

    /// The topic [default: api-usage-events.v1]
    #[arg(long, value_name = "TOPIC", env = "PIPELINE_TOPIC", help_heading = "Topics")]
    pub topic: Option<String>,

    /// Consumer group: processes of one group share the partitions [default: the pipeline's name]
    #[arg(long, value_name = "GROUP", env = "PIPELINE_GROUP", help_heading = "Topics")]
    pub group: Option<String>,

    /// End where the topic ends now
    #[arg(long, num_args = 0..=1, default_missing_value = "true", value_name = "BOOL", env = "PIPELINE_UNTIL_END", help_heading = "Topics")]
    pub until_end: Option<bool>,

    /// Where records that come next are gone from the topic: fail, or skip and count them [default: fail]
    #[arg(long, value_name = "WHAT", env = "PIPELINE_ON_GAP", help_heading = "Topics")]
    pub on_gap: Option<Named<Gap>>,

    /// What producers choose the partition by: murmur2, crc32, fnv1a, or trust for another [default: found out]
    #[arg(long, value_name = "NAME", env = "PIPELINE_PARTITIONER", help_heading = "Topics")]
    pub partitioner: Option<Named<Partitioning>>,

    /// Send dead letters to this topic of the same cluster too, each once
    #[arg(long, value_name = "TOPIC", env = "PIPELINE_DEAD_LETTERS", help_heading = "Topics")]
    pub dead_letters: Option<String>,

    /// A property of librdkafka by its own name; may be repeated
    #[arg(long = "kafka-property", short = 'X', value_name = "NAME=VALUE", help_heading = "Topics")]
    #[serde(skip)]
    pub property: Vec<Property>,

    /// Properties of librdkafka by their own names; in the file only.
    #[arg(skip)]
    pub properties: BTreeMap<String, toml::Value>,
}

impl KafkaSettings {
    /// These, and where they give nothing those of the file.
    pub fn over(self, file: Self) -> Self {
        Self {
            brokers: self.brokers.or(file.brokers),
            topic: self.topic.or(file.topic),
            group: self.group.or(file.group),
            until_end: self.until_end.or(file.until_end),
            on_gap: self.on_gap.or(file.on_gap),
            partitioner: self.partitioner.or(file.partitioner),
            dead_letters: self.dead_letters.or(file.dead_letters),
            property: self.property,
            properties: file.properties,
        }
    }

    /// The topic to read, where one is given; `name` is the pipeline's.
    ///
    /// # Errors
    /// `Configuration`.
    pub fn config(&self, name: &str) -> Result<Option<KafkaConfig>> {
        let Some(brokers) = &self.brokers else { return Ok(None) };
        let cluster = Cluster { kafka: brokers.clone(), topic: self.topic.clone(), properties: self.property.clone() };
        cluster.config(&self.properties)?.with_group(self.group.as_deref().unwrap_or(name)).map(Some)
    }

    /// The topic of dead letters, where one is given.
    ///
    /// # Errors
    /// `Configuration`.
    pub fn dead_letters(&self) -> Result<Option<KafkaConfig>> {
        let Some(topic) = &self.dead_letters else { return Ok(None) };
        let Some(brokers) = &self.brokers else {
            return Err(Error::new(ErrorKind::Configuration, "dead letters go to a topic beside the one that is read")
                .with_help("give --kafka, or read them in the table dead_letter"));
        };
        let properties = self.property.clone();
        Cluster { kafka: brokers.clone(), topic: Some(topic.clone()), properties }.config(&self.properties).map(Some)
    }

    /// How it is read.
    pub fn options(&self) -> SourceOptions {
        SourceOptions {
            until_end: self.until_end.unwrap_or(false),
            placement: self.partitioner.map(|partitioner| partitioner.0.0),
        }
    }
}

/// What to do where records are gone.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Gap(pub OnGap);

impl FromStr for Gap {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text {
            "fail" => Ok(Self(OnGap::Fail)),
            "skip" => Ok(Self(OnGap::Skip)),
            _ => Err("expected fail or skip".to_owned()),
        }
    }
}

/// How producers place records.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Partitioning(pub Placement);

impl FromStr for Partitioning {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        Placement::from_name(text).map(Self).ok_or_else(|| "expected murmur2, crc32, fnv1a or trust".to_owned())
    }
}

/// `pipeline topic`.
#[derive(Debug, Subcommand)]
pub enum Topic {
    /// Make the topic as documented
    Create(Create),
    /// Show how the topic is and how it differs from what is documented; exit code 5 if something must be done
    Describe(Describe),
}

/// `pipeline topic create`.
#[derive(Debug, Args)]
pub struct Create {
    #[command(flatten)]
    cluster: Cluster,

    /// How many partitions; it cannot be changed later
    #[arg(long, value_name = "N", default_value_t = 64)]
    partitions: u32,

    /// On how many brokers each record is kept
    #[arg(long, value_name = "N", default_value_t = 3)]
    replication: u32,

    /// A setting of the topic by Kafka's name, over the documented ones; may be repeated
    #[arg(long = "set", value_name = "NAME=VALUE")]
    settings: Vec<Property>,
}

/// `pipeline topic describe`.
#[derive(Debug, Args)]
pub struct Describe {
    #[command(flatten)]
    cluster: Cluster,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// `pipeline lag`: how far a lake and a group are behind a topic.
#[derive(Debug, Args)]
pub struct Lag {
    #[command(flatten)]
    cluster: Cluster,

    /// Consumer group [default: the pipeline's name]
    #[arg(long, value_name = "GROUP", env = "PIPELINE_GROUP")]
    group: Option<String>,

    #[command(flatten)]
    lake: lake::Place,

    /// Print one JSON object
    #[arg(long)]
    json: bool,
}

/// Makes or describes a topic; answers what to print.
///
/// # Errors
/// With the exit code by what failed.
pub async fn topic(command: &Topic) -> Outcome<(Exit, String)> {
    match command {
        Topic::Create(create) => {
            let config = create.cluster.config(&BTreeMap::new()).at_usage()?;
            let mut spec = TopicSpec { partitions: create.partitions, ..TopicSpec::default() };
            spec = spec.with_replication(create.replication);
            let settings = create.settings.iter().map(|Property(name, value)| (name.clone(), value.clone()));
            spec.config.extend(settings);
            TopicAdmin::new(config.clone()).at_usage()?.create(&spec).await.at_input()?;
            let Create { partitions, replication, .. } = create;
            let topic = config.topic();
            Ok((Exit::Ok, format!("Topic {topic}: {partitions} partitions, {replication} copies of each record\n")))
        }
        Topic::Describe(describe) => {
            let config = describe.cluster.config(&BTreeMap::new()).at_usage()?;
            let topic = TopicAdmin::new(config).at_usage()?.describe().await.at_input()?;
            let page = TopicPage::new(topic);
            let exit = if page.differences.is_empty() && page.leaderless.is_empty() { Exit::Ok } else { Exit::Taken };
            Ok((exit, if describe.json { page.json() } else { page.render() }))
        }
    }
}

/// What is shown of a topic. Its JSON is stable: keys may be added, none is renamed or removed.
#[derive(Debug, Serialize)]
struct TopicPage {
    topic: String,
    partitions: u32,
    replication: u32,
    config: BTreeMap<String, String>,
    differences: Vec<Difference>,
    leaderless: Vec<u32>,
}

#[derive(Debug, Serialize)]
struct Difference {
    name: String,
    documented: String,
    found: String,
    effect: &'static str,
    remedy: String,
}

impl TopicPage {
    fn new(topic: TopicDescription) -> Self {
        let documented = TopicSpec::default();
        let differences = topic.differences(&documented).into_iter().map(|difference| Difference {
            name: difference.name,
            documented: difference.wanted,
            found: difference.found,
            effect: difference.effect,
            remedy: difference.remedy,
        });
        Self {
            differences: differences.collect(),
            config: topic.config.into_iter().filter(|(name, _)| documented.config.contains_key(name)).collect(),
            topic: topic.topic,
            partitions: topic.partitions,
            replication: topic.replication,
            leaderless: topic.leaderless,
        }
    }

    fn render(&self) -> String {
        let mut rows = vec![
            vec!["partitions".to_owned(), self.partitions.to_string()],
            vec!["replication".to_owned(), self.replication.to_string()],
        ];
        rows.extend(self.config.iter().map(|(name, value)| vec![name.clone(), value.clone()]));
        let mut page = format!("Topic {}\n{}", self.topic, columns(&[Align::Left, Align::Left], &rows));
        if !self.leaderless.is_empty() {
            page.push_str(&format!("\nWithout a leader, so out of reach: partitions {:?}\n", self.leaderless));
        }
        match &self.differences[..] {
            [] => page.push_str("\nAs documented.\n"),
            differences => page.push_str(&format!("\nDiffers from what is documented in {} ways\n", differences.len())),
        }
        for difference in &self.differences {
            page.push_str(&format!(
                "\n  {} is {}, documented {}\n    effect: {}\n    remedy: {}\n",
                difference.name, difference.found, difference.documented, difference.effect, difference.remedy
            ));
        }
        page
    }

    fn json(&self) -> String {
        serde_json::to_string_pretty(self).expect("strings and numbers go into memory") + "\n"
    }
}

/// How far each partition is. Its JSON is stable: keys may be added, none is renamed or removed.
#[derive(Debug, Serialize)]
struct LagPage {
    topic: String,
    group: String,
    lake: String,
    partitions: Vec<PartitionLag>,
    total: u64,
}

#[derive(Debug, Serialize)]
struct PartitionLag {
    partition: u32,
    /// The next offset of Bronze and of Silver; 0 where nothing was read yet.
    bronze: u64,
    silver: u64,
    /// What the group has committed, which follows the lake.
    committed: Option<u64>,
    /// The offsets that the topic holds.
    first: u64,
    end: u64,
    /// Offsets that Bronze does not have.
    lag: u64,
    /// Offsets that are gone from the topic before Bronze had them.
    gone: u64,
}

/// How far a lake is behind a topic; answers what to print.
///
/// # Errors
/// With the exit code by what failed.
pub async fn lag(lag: &Lag) -> Outcome<(Exit, String)> {
    let name = lag.lake.name();
    let group = lag.group.as_deref().unwrap_or(name);
    let config = lag.cluster.config(&BTreeMap::new()).and_then(|config| config.with_group(group)).at_usage()?;
    let store = lag.lake.open().await.at_lake()?;
    let infos = store.info().await.at_lake()?;
    let topic = config.topic().to_owned();
    let admin = TopicAdmin::new(config).at_usage()?;
    let asked = tokio::task::spawn_blocking(move || {
        let offsets = admin.offsets()?;
        let committed = admin.committed(offsets.len() as u32)?;
        Ok((offsets, committed))
    });
    let panicked = |e| Error::new(ErrorKind::Invariant, "asking Kafka panicked").with_source(e);
    let (offsets, committed) = asked.await.map_err(panicked).flatten().at_input()?;
    let at = |table: Table, partition: u32| {
        let info = infos.iter().find(|info| info.table == table)?;
        info.positions.iter().find(|at| at.topic == topic && at.partition == partition)
    };
    let partitions = offsets.iter().zip(committed).zip(0..).map(|((range, committed), partition)| {
        let (bronze, silver) = (at(Table::Bronze, partition), at(Table::Silver, partition));
        let read = bronze.is_some_and(|at| at.counters.iter().any(|(counter, n)| *counter == Counter::Read && *n > 0));
        let position = bronze.map_or(0, |at| at.position);
        PartitionLag {
            partition,
            bronze: position,
            silver: silver.map_or(0, |at| at.position),
            committed,
            first: range.first,
            end: range.end,
            lag: range.end.saturating_sub(position.max(range.first)),
            // Before the first record was read it is not known what belonged to the lake.
            gone: if read { range.first.saturating_sub(position) } else { 0 },
        }
    });
    let partitions: Vec<_> = partitions.collect();
    let total = partitions.iter().map(|partition| partition.lag).sum();
    let page = LagPage { topic, group: group.to_owned(), lake: store.path(), partitions, total };
    let json = || serde_json::to_string_pretty(&page).expect("strings and numbers go into memory") + "\n";
    Ok((Exit::Ok, if lag.json { json() } else { page.render() }))
}

impl LagPage {
    fn render(&self) -> String {
        let head = ["partition", "bronze", "silver", "committed", "end", "lag", "gone"].map(str::to_owned).to_vec();
        let mut rows = vec![head];
        rows.extend(self.partitions.iter().map(|at| {
            vec![
                at.partition.to_string(),
                count(at.bronze),
                count(at.silver),
                at.committed.map_or_else(|| "-".to_owned(), count),
                count(at.end),
                count(at.lag),
                count(at.gone),
            ]
        }));
        let Self { topic, group, lake, total, .. } = self;
        format!(
            "Topic {topic}, group {group}, lake {lake}: {} offsets behind\n{}",
            count(*total),
            columns(&[Align::Right; 7], &rows)
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn properties_are_read_and_secrets_are_not_shown() {
        assert_eq!("a.b=c=d".parse(), Ok(Property("a.b".to_owned(), "c=d".to_owned())));
        for text in ["", "a", "=b"] {
            assert!(text.parse::<Property>().is_err(), "{text}");
        }
        let file = "brokers = \"b:9092\"\non_gap = \"skip\"\n[properties]\n\"sasl.password\" = \"hush\"\n\"a.b\" = 7\n";
        let settings: KafkaSettings = crate::config::from_toml(file, "pipeline.toml").expect("a file");
        let flags = KafkaSettings { property: vec![Property("a.b".to_owned(), "8".to_owned())], ..Default::default() };
        let config = flags.over(settings).config("metering").expect("a configuration").expect("a topic");
        assert_eq!((config.property("sasl.password"), config.property("a.b")), (Some("hush"), Some("8")));
        assert_eq!((config.topic(), config.group()), ("api-usage-events.v1", Some("metering")));
        assert!(!format!("{config:?}").contains("hush"));
    }

    #[test]
    fn words_are_checked() {
        assert_eq!("skip".parse(), Ok(Gap(OnGap::Skip)));
        assert!("ignore".parse::<Gap>().is_err());
        assert_eq!("trust".parse(), Ok(Partitioning(Placement::Unchecked)));
        assert!("random".parse::<Partitioning>().is_err());
    }
}
