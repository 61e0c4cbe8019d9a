//! Where a lake is, and how it is written.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use deltalake::logstore::object_store::ObjectStore;
use subscription_core::{Clock, Error, ErrorKind, Result, SystemClock};
use url::Url;

/// Where a lake is, and how it is written.
///
/// ```
/// use subscription_delta::{Compression, DeltaConfig};
/// let config = DeltaConfig::new("./lake")?.pipeline("billing").compression(Compression::Zstd);
/// assert_eq!(config.url().scheme(), "file");
/// let config = DeltaConfig::new("s3://bucket/lake")?.storage_option("region", "eu-central-1");
/// # Ok::<(), subscription_core::Error>(())
/// ```
#[derive(Clone)]
pub struct DeltaConfig {
    pub(crate) url: Url,
    pub(crate) pipeline: String,
    pub(crate) storage_options: HashMap<String, String>,
    pub(crate) object_store: Option<Arc<dyn ObjectStore>>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) compression: Compression,
    pub(crate) checkpoint_interval: u64,
    pub(crate) cache_bytes: usize,
    pub(crate) durable: bool,
}

/// How data files are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[non_exhaustive]
pub enum Compression {
    /// Not at all.
    None,
    /// Zstandard, level 1, for payloads, which are most of the bytes; nothing for ids, in which nothing repeats; and Snappy for
    /// all else, whose pages are too small to be worth a Zstandard context each.
    #[default]
    Balanced,
    /// Snappy: what every reader knows.
    Snappy,
    /// LZ4, in Parquet's `LZ4_RAW`; a little smaller and quicker to read, unknown to readers older than 2022.
    Lz4,
    /// Zstandard, level 1: the smallest files, for more CPU.
    Zstd,
}

impl DeltaConfig {
    /// A lake at a path of the local file system or at a URL (`s3://bucket/lake`, …).
    ///
    /// # Errors
    /// `Configuration`, where the location is neither.
    pub fn new(location: &str) -> Result<Self> {
        let url = if location.contains("://") {
            let mut url = Url::parse(location).map_err(|error| {
                Error::new(ErrorKind::Configuration, "the lake's location is no URL")
                    .with("location", location)
                    .with_help("use a path, or a URL such as s3://bucket/lake")
                    .with_source(error)
            })?;
            if !url.path().ends_with('/') {
                url.set_path(&format!("{}/", url.path()));
            }
            url
        } else {
            let path = std::path::absolute(location).ok().and_then(|path| Url::from_directory_path(path).ok());
            path.ok_or_else(|| {
                Error::new(ErrorKind::Configuration, "the lake's location is no path")
                    .with("location", location)
                    .with_help("use a path, or a URL such as s3://bucket/lake")
            })?
        };
        Ok(Self {
            url,
            pipeline: "pipeline".to_owned(),
            storage_options: HashMap::new(),
            object_store: None,
            clock: Arc::new(SystemClock::new()),
            compression: Compression::default(),
            checkpoint_interval: 50,
            cache_bytes: 96 << 20,
            durable: true,
        })
    }

    /// The lake's URL; ends with a slash.
    pub fn url(&self) -> &Url {
        &self.url
    }

    /// The name under which positions are kept: `{pipeline}/{topic}/{partition}`. `pipeline` if none is given.
    pub fn pipeline(mut self, name: impl Into<String>) -> Self {
        self.pipeline = name.into();
        self
    }

    /// An option of the object store, such as `region` or `access_key_id`; environment variables serve as well.
    pub fn storage_option(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.storage_options.insert(key.into(), value.into());
        self
    }

    /// An object store to use in place of the one that the URL names; its root is the URL's host. It is used as it
    /// is: making its writes durable is its own business.
    pub fn object_store(mut self, store: Arc<dyn ObjectStore>) -> Self {
        self.object_store = Some(store);
        self
    }

    /// The clock; for tests.
    pub fn clock(mut self, clock: Arc<dyn Clock>) -> Self {
        self.clock = clock;
        self
    }

    /// How data files are compressed; [`Compression::Balanced`] if nothing is given.
    pub fn compression(mut self, compression: Compression) -> Self {
        self.compression = compression;
        self
    }

    /// After how many commits of a table its log is summed up in a checkpoint, at least; 50 if nothing is given.
    /// Tables of many files wait longer, so that a commit's share of the work stays the same.
    ///
    /// # Panics
    /// If `commits` is 0.
    pub fn checkpoint_interval(mut self, commits: u64) -> Self {
        assert!(commits > 0, "a checkpoint interval of 0 commits");
        self.checkpoint_interval = commits;
        self
    }

    /// How much of what was read is kept in memory for the next read, in bytes; 96 MiB if nothing is given.
    pub fn cache_bytes(mut self, bytes: usize) -> Self {
        self.cache_bytes = bytes;
        self
    }

    /// Whether files on a local disk are flushed to it (`fsync`) before a commit returns. They are if nothing is
    /// given; without it a power cut can lose what was acknowledged, or the lake. For tests.
    pub fn durable(mut self, durable: bool) -> Self {
        self.durable = durable;
        self
    }
}

impl fmt::Debug for DeltaConfig {
    /// Without the storage options: they hold secrets.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaConfig")
            .field("url", &self.url.as_str())
            .field("pipeline", &self.pipeline)
            .field("compression", &self.compression)
            .field("checkpoint_interval", &self.checkpoint_interval)
            .field("cache_bytes", &self.cache_bytes)
            .field("durable", &self.durable)
            .finish_non_exhaustive()
    }
}
