//! Settings: flags over environment over a TOML file over defaults.
//!
//! Every setting has one name: the flag `--commit-interval` is the variable `PIPELINE_COMMIT_INTERVAL` and the key
//! `commit_interval`. A key that is unknown is an error that names the file and the line.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use clap::Args;
use serde::de::{DeserializeOwned, Deserializer, Visitor};
use serde::{Deserialize, de};
use subscription_core::{Catalog, Error, ErrorKind, Result, Rules};
use subscription_pipeline::PipelineConfig;

use crate::access_log::{LogOptions, TenantBy, TenantPlans};
use crate::files::{FileOptions, Format};
use crate::kafka::KafkaSettings;

/// What can be set of a run; nothing is given by default.
#[derive(Debug, Clone, Default, PartialEq, Args, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Settings {
    /// Files to read, in this order: plain, gzip or zstd; `-` is standard input
    #[arg(long, value_name = "FILE", num_args = 1..)]
    pub input: Option<Vec<PathBuf>>,

    /// Folder (or URL) of the tables
    #[arg(long, value_name = "DIR", env = "PIPELINE_LAKE")]
    pub lake: Option<String>,

    /// The pipeline's name, under which the tables keep positions [default: pipeline]
    #[arg(long, value_name = "NAME", env = "PIPELINE_NAME")]
    pub name: Option<String>,

    /// A topic to read instead of files.
    #[command(flatten)]
    pub kafka: KafkaSettings,

    /// Counters by which gateways decide, to be told what tenants have used: redis://host:port
    #[arg(long, value_name = "URL", env = "PIPELINE_REDIS")]
    pub redis: Option<String>,

    /// What the lines are: auto, events or access-log [default: auto]
    #[arg(long, value_name = "FORMAT", env = "PIPELINE_FORMAT")]
    pub format: Option<Named<Format>>,

    /// Partitions of the topic that the files are [default: 8]
    #[arg(long, value_name = "N", env = "PIPELINE_PARTITIONS")]
    pub partitions: Option<u32>,

    /// Plan catalog, a TOML file [default: free, starter, pro and enterprise]
    #[arg(long, value_name = "FILE", env = "PIPELINE_PLANS")]
    pub plans: Option<PathBuf>,

    /// How long a record may wait for its Bronze and Silver rows [default: 1s]
    #[arg(long, value_name = "TIME", env = "PIPELINE_COMMIT_INTERVAL")]
    pub commit_interval: Option<Interval>,

    /// Who the tenant of a log line is: address, user, host or path:N [default: address]
    #[arg(long, value_name = "WHO", env = "PIPELINE_TENANT_BY", help_heading = "Access logs")]
    pub tenant_by: Option<Named<TenantBy>>,

    /// Tenant of log lines that name none [default: none, and they are quarantined]
    #[arg(long, value_name = "TENANT", env = "PIPELINE_DEFAULT_TENANT", help_heading = "Access logs")]
    pub default_tenant: Option<String>,

    /// Plan of tenants that --tenant-plans does not name [default: free]
    #[arg(long, value_name = "PLAN", env = "PIPELINE_DEFAULT_PLAN", help_heading = "Access logs")]
    pub default_plan: Option<String>,

    /// Plan of each tenant, a TOML file of lines `"tenant" = "plan"`
    #[arg(long, value_name = "FILE", env = "PIPELINE_TENANT_PLANS", help_heading = "Access logs")]
    pub tenant_plans: Option<PathBuf>,

    /// How long an event may wait for its Gold rows [default: 10s]
    #[arg(long, value_name = "TIME", env = "PIPELINE_GOLD_INTERVAL", help_heading = "Tuning (changes no row)")]
    pub gold_interval: Option<Interval>,

    /// Threads that run the engines [default: one a core]
    #[arg(long, value_name = "N", env = "PIPELINE_WORKERS", help_heading = "Tuning (changes no row)")]
    pub workers: Option<usize>,

    /// Payload bytes read and not yet committed [default: 96MiB]
    #[arg(long, value_name = "SIZE", env = "PIPELINE_MAX_UNCOMMITTED_BYTES", help_heading = "Tuning (changes no row)")]
    pub max_uncommitted_bytes: Option<Size>,

    /// Memory of Gold rows [default: 256MiB]
    #[arg(long, value_name = "SIZE", env = "PIPELINE_MAX_GOLD_BYTES", help_heading = "Tuning (changes no row)")]
    pub max_gold_bytes: Option<Size>,

    /// Event ids held exactly, at about 40 bytes each [default: 24000000]
    #[arg(long, value_name = "N", env = "PIPELINE_MAX_DEDUP_IDS", help_heading = "Tuning (changes no row)")]
    pub max_dedup_ids: Option<usize>,

    /// Memory of the filters that older event ids are in [default: 128MiB]
    #[arg(
        long,
        value_name = "SIZE",
        env = "PIPELINE_MAX_DEDUP_FILTER_BYTES",
        help_heading = "Tuning (changes no row)"
    )]
    pub max_dedup_filter_bytes: Option<Size>,

    /// What decides which rows come out; in the file only.
    #[arg(skip)]
    pub rules: Option<Rules>,
}

impl Settings {
    /// These, and where they give nothing those of the file.
    pub fn over(self, file: Self) -> Self {
        Self {
            input: self.input.or(file.input),
            lake: self.lake.or(file.lake),
            name: self.name.or(file.name),
            kafka: self.kafka.over(file.kafka),
            redis: self.redis.or(file.redis),
            format: self.format.or(file.format),
            partitions: self.partitions.or(file.partitions),
            plans: self.plans.or(file.plans),
            commit_interval: self.commit_interval.or(file.commit_interval),
            tenant_by: self.tenant_by.or(file.tenant_by),
            default_tenant: self.default_tenant.or(file.default_tenant),
            default_plan: self.default_plan.or(file.default_plan),
            tenant_plans: self.tenant_plans.or(file.tenant_plans),
            gold_interval: self.gold_interval.or(file.gold_interval),
            workers: self.workers.or(file.workers),
            max_uncommitted_bytes: self.max_uncommitted_bytes.or(file.max_uncommitted_bytes),
            max_gold_bytes: self.max_gold_bytes.or(file.max_gold_bytes),
            max_dedup_ids: self.max_dedup_ids.or(file.max_dedup_ids),
            max_dedup_filter_bytes: self.max_dedup_filter_bytes.or(file.max_dedup_filter_bytes),
            rules: self.rules.or(file.rules),
        }
    }

    /// Reads a configuration file.
    ///
    /// # Errors
    /// Where it cannot be read, and `Configuration` with the line where it is wrong.
    pub fn load(path: &Path) -> Result<Self> {
        from_toml(&read(path, "configuration")?, &path.display().to_string())
    }

    /// The plan catalog.
    ///
    /// # Errors
    /// Those of [`Catalog::load`].
    pub fn catalog(&self) -> Result<Arc<Catalog>> {
        self.plans.as_ref().map_or_else(|| Ok(Catalog::default()), Catalog::load).map(Arc::new)
    }

    /// How files become records.
    ///
    /// # Errors
    /// Where the mapping of plans is wrong, or names a plan that the catalog does not have.
    pub fn file_options(&self, catalog: &Catalog) -> Result<FileOptions> {
        let mut plans = TenantPlans::new(self.default_plan.as_deref().unwrap_or("free"));
        if let Some(path) = &self.tenant_plans {
            plans = plans.with_mapping(&read(path, "mapping of plans")?, &path.display().to_string())?;
        }
        let partitions = self.partitions.unwrap_or(FileOptions::default().partitions);
        if !(1..=MAX_PARTITIONS).contains(&partitions) {
            return Err(out_of_range("partitions", "a number from 1 to 1024"));
        }
        let format = self.format.map_or_else(Format::default, |format| format.0);
        if format != Format::Events {
            let names = catalog.plan_names();
            // A catalog without `free` is a problem only for who reads logs.
            if format == Format::AccessLog || self.default_plan.is_some() || self.tenant_plans.is_some() {
                plans.check(|plan| names.contains(&plan))?;
            }
        }
        Ok(FileOptions {
            partitions,
            format,
            log: LogOptions {
                tenant_by: self.tenant_by.map_or_else(TenantBy::default, |by| by.0),
                default_tenant: self.default_tenant.clone(),
                plans,
            },
        })
    }

    /// How the pipeline runs.
    ///
    /// # Errors
    /// `Configuration` where a limit is 0, which would let nothing through.
    pub fn pipeline(&self) -> Result<PipelineConfig> {
        let mut config = PipelineConfig::default();
        let Interval(interval) = self.commit_interval.unwrap_or(Interval(config.commit_interval));
        config.commit_interval = interval;
        config.gold_interval = self.gold_interval.map_or(config.gold_interval, |interval| interval.0).max(interval);
        config.max_gold_interval = config.max_gold_interval.max(config.gold_interval);
        config.workers = self.workers.unwrap_or(config.workers);
        let bytes = |given: Option<Size>, default| given.map_or(default, |size| size.0);
        config.max_uncommitted_bytes = bytes(self.max_uncommitted_bytes, config.max_uncommitted_bytes);
        config.max_gold_bytes = bytes(self.max_gold_bytes, config.max_gold_bytes);
        config.max_dedup_ids = self.max_dedup_ids.unwrap_or(config.max_dedup_ids);
        config.on_gap = self.kafka.on_gap.map_or(config.on_gap, |on_gap| on_gap.0.0);
        config.max_dedup_filter_bytes = bytes(self.max_dedup_filter_bytes, config.max_dedup_filter_bytes);
        let limits = [
            ("workers", config.workers),
            ("max_uncommitted_bytes", config.max_uncommitted_bytes),
            ("max_gold_bytes", config.max_gold_bytes),
        ];
        match limits.into_iter().find(|(_, limit)| *limit == 0) {
            Some((name, _)) => Err(out_of_range(name, "a number from 1 on")),
            None => Ok(config),
        }
    }
}

/// The most partitions that files are cut into: each is worked on and committed by itself.
const MAX_PARTITIONS: u32 = 1_024;

fn out_of_range(setting: &str, expected: &str) -> Error {
    Error::new(ErrorKind::Configuration, format!("`{setting}` is out of range"))
        .with_help(format!("give it {expected}"))
}

fn read(path: &Path, what: &str) -> Result<String> {
    let name = path.display();
    let bytes = std::fs::read(path).map_err(|error| {
        Error::new(ErrorKind::Configuration, format!("cannot read the {what}"))
            .with("file", &name)
            .with_help("name a TOML file that this user may read")
            .with_source(error)
    })?;
    String::from_utf8(bytes).map_err(|error| {
        Error::new(ErrorKind::Configuration, format!("the {what} is not UTF-8 text"))
            .with("file", name)
            .with_help("name a TOML file")
            .with_source(error)
    })
}

/// Reads TOML; an error names the file and the line.
///
/// # Errors
/// `Configuration`.
pub fn from_toml<T: DeserializeOwned>(text: &str, name: &str) -> Result<T> {
    toml::from_str(text).map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start.min(text.len()));
        let line = 1 + text.as_bytes()[..at].iter().filter(|&&b| b == b'\n').count();
        Error::new(ErrorKind::Configuration, error.message().trim().replace('\n', ", "))
            .with("file", name)
            .with("line", line)
            .with_help(format!("correct line {line} of {name}"))
    })
}

/// A value that is written by its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Named<T>(pub T);

impl<T: FromStr> FromStr for Named<T> {
    type Err = T::Err;

    fn from_str(text: &str) -> Result<Self, T::Err> {
        text.parse().map(Self)
    }
}

impl<'de, T: FromStr<Err: fmt::Display>> Deserialize<'de> for Named<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A time: `1s`, `250ms`, `2m`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Interval(pub Duration);

impl FromStr for Interval {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let scale = match unit {
            "ms" => 0.001,
            "s" => 1.0,
            "m" | "min" => 60.0,
            "h" => 3600.0,
            _ => 0.0,
        };
        let seconds = number.parse::<f64>().map_or(0.0, |number| number * scale);
        match Duration::try_from_secs_f64(seconds) {
            Ok(time) if !time.is_zero() => Ok(Self(time)),
            _ => Err("expected a time above 0, such as 250ms, 1s or 2m".to_owned()),
        }
    }
}

impl<'de> Deserialize<'de> for Interval {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(de::Error::custom)
    }
}

/// A number of bytes: `4096`, `64KiB`, `128MiB`, `1GiB`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size(pub usize);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (number, unit) = split_unit(text);
        let scale: Option<usize> = match unit {
            "" | "B" => Some(1),
            "KiB" => Some(1 << 10),
            "MiB" => Some(1 << 20),
            "GiB" => Some(1 << 30),
            _ => None,
        };
        let bytes = scale.and_then(|scale| number.parse::<usize>().ok()?.checked_mul(scale));
        bytes.map(Self).ok_or_else(|| "expected a size, such as 4096, 64KiB, 128MiB or 1GiB".to_owned())
    }
}

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a size, such as 4096 or \"128MiB\"")
            }

            fn visit_i64<E: de::Error>(self, bytes: i64) -> Result<Size, E> {
                usize::try_from(bytes).map(Size).map_err(E::custom)
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Size, E> {
                text.parse().map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Text)
    }
}

fn split_unit(text: &str) -> (&str, &str) {
    let at = text.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(text.len());
    (&text[..at], text[at..].trim_start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn file(text: &str) -> Result<Settings> {
        from_toml(text, "pipeline.toml")
    }

    fn fails(text: &str, message: &str) {
        let error = file(text).expect_err(text);
        assert_eq!(error.kind(), ErrorKind::Configuration);
        assert!(error.to_string().contains(message), "{error} has no {message}");
    }

    #[test]
    fn the_example_is_read_and_says_the_defaults() {
        let text = include_str!("../pipeline.toml");
        file(text).expect("the example");
        // Every key that is commented out as a default is one, and says what it is.
        let defaults: String = text
            .lines()
            .filter_map(|line| line.strip_prefix('#').filter(|rest| !rest.starts_with(' ')))
            .map(|line| line.to_owned() + "\n")
            .collect();
        let settings = file(&defaults).expect("the defaults");
        let none = Settings::default();
        let catalog = Catalog::default();
        assert_eq!(settings.file_options(&catalog).expect("options"), none.file_options(&catalog).expect("options"));
        let pipeline = |settings: &Settings| settings.pipeline().expect("no limit is 0");
        let (given, mut expected) = (pipeline(&settings), pipeline(&none));
        expected.workers = given.workers;
        assert_eq!(given, expected);
        assert_eq!(settings.rules, Some(Rules::default()));
    }

    #[test]
    fn an_error_names_file_line_and_key() {
        fails("partitions = 8\nlkae = \"x\"\n", "unknown field `lkae`");
        fails("partitions = 8\nlkae = \"x\"\n", "(file: pipeline.toml, line: 2)");
        fails("[rules]\nclock_skew_ms = 1\n[rules.alerts]\nloud = true\n", "line: 4)");
        fails("\n\npartitions = \"eight\"\n", "line: 3)");
        fails("format = \"csv\"", "expected auto, events or access-log");
        fails("commit_interval = \"soon\"", "expected a time");
        fails("max_gold_bytes = \"1 GB\"", "expected a size");
        fails("partitions = [", "line: 1)");
    }

    #[test]
    fn flags_are_over_the_file() {
        let flags = Settings { lake: Some("a".to_owned()), ..Settings::default() };
        let merged = flags.over(file("lake = \"b\"\nworkers = 3\ncommit_interval = \"250ms\"").expect("a file"));
        assert_eq!((merged.lake.as_deref(), merged.workers), (Some("a"), Some(3)));
        assert_eq!(merged.pipeline().expect("limits").commit_interval, Duration::from_millis(250));
    }

    #[test]
    fn gold_never_comes_before_silver() {
        let config = file("commit_interval = \"30m\"").expect("a file").pipeline().expect("limits");
        assert_eq!(config.gold_interval, Duration::from_secs(1_800));
        assert!(config.max_gold_interval >= config.gold_interval);
    }

    #[test]
    fn a_limit_of_nothing_is_refused() {
        for key in ["workers", "max_uncommitted_bytes", "max_gold_bytes"] {
            let error = file(&format!("{key} = 0")).expect("a file").pipeline().expect_err(key);
            assert!(error.to_string().contains(key) && error.help().is_some(), "{error}");
        }
        for partitions in [0, 1_025, u32::MAX] {
            let settings = Settings { partitions: Some(partitions), ..Settings::default() };
            assert!(settings.file_options(&Catalog::default()).is_err());
        }
    }

    #[test]
    fn times_and_sizes() {
        let time = |text: &str| text.parse::<Interval>().map(|interval| interval.0.as_millis());
        assert_eq!(time("1s"), Ok(1_000));
        assert_eq!(time("1.5s"), Ok(1_500));
        assert_eq!(time("100ms"), Ok(100));
        assert_eq!(time("2m"), Ok(120_000));
        for text in ["", "1", "0s", "-1s", "s", "1d", "1e9h"] {
            assert!(time(text).is_err(), "{text}");
        }
        let size = |text: &str| text.parse::<Size>().map(|size| size.0);
        assert_eq!(size("4096"), Ok(4_096));
        assert_eq!(size("2 MiB"), Ok(2 << 20));
        for text in ["", "MiB", "1.5MiB", "1MB", "99999999999GiB"] {
            assert!(size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn plans_named_for_logs_are_in_the_catalog() {
        let catalog = Catalog::default();
        let error = file("default_plan = \"gold\"").expect("a file").file_options(&catalog).expect_err("no such plan");
        assert!(error.to_string().contains("unknown plan `gold`"), "{error}");
    }
}
