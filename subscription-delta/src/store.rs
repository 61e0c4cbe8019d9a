//! The lake: its tables together.

use std::collections::HashMap;
use std::fmt;
use std::sync::Arc;

use async_trait::async_trait;
use deltalake::logstore::object_store::local::LocalFileSystem;
use deltalake::logstore::object_store::{ObjectStore, ObjectStoreExt as _};
use deltalake::logstore::{StorageConfig, logstore_with, object_store_factories};
use deltalake::parquet::errors::ParquetError;
use futures::future::{join_all, try_join_all};
use futures::{StreamExt as _, TryStreamExt as _};
use rayon::prelude::*;
use subscription_core::{
    AcceptedId, Commit, Committed, Counter, DeadLetters, Error, ErrorKind, EventBatch, GoldRows, IdLookup,
    PartitionState, RangeId, RangeRef, RecordBatch, Result, Settings, Table, TablePosition, TableStore, Timestamp,
};
use url::Url;
use uuid::Uuid;

use crate::append::Input;
use crate::config::DeltaConfig;
use crate::error::Doing;
use crate::failpoint;
use crate::file::{Content, DataFile, Encoded};
use crate::fsync::DurableStore;
use crate::log::{Change, Move, Snapshot, Standing, TableLog};
use crate::read::{PartCache, Reader, Weigh, dead_letters, events, records, walk};
use crate::settings::SettingsFiles;
use crate::{bronze, gold, lookup, silver};

/// Files that are put, or read, side by side.
pub(crate) const SIDE_BY_SIDE: usize = 8;

/// A lake of Delta tables: an implementation of [`TableStore`].
///
/// ```no_run
/// use subscription_core::{Table, TableStore};
/// use subscription_delta::{DeltaConfig, DeltaStore};
/// # async fn example() -> subscription_core::Result<()> {
/// let lake = DeltaStore::open(DeltaConfig::new("./lake")?).await?;
/// for state in lake.state("usage", &[0, 1]).await? {
///     println!("Silver stands at {}", state.position(Table::Silver));
/// }
/// # Ok(()) }
/// ```
pub struct DeltaStore {
    pub(crate) config: DeltaConfig,
    /// By [`Table`] in the order of [`Table::ALL`].
    pub(crate) logs: Vec<TableLog>,
    pub(crate) cache: Arc<PartCache>,
    settings: SettingsFiles,
    writable: bool,
}

impl DeltaStore {
    /// Opens a lake, and creates what is missing of it.
    ///
    /// # Errors
    /// `Configuration` where the location is no place for a lake, `Mismatch` where a table is there with another
    /// schema, `Corrupt` where a log cannot be read, and what the storage says.
    pub async fn open(config: DeltaConfig) -> Result<Self> {
        let lake = Self::connect(config, true)?;
        try_join_all(
            lake.logs.iter().map(|log| async move { if log.open().await? { Ok(()) } else { log.create().await } }),
        )
        .await?;
        Ok(lake)
    }

    /// Opens a lake that is there, to read it.
    ///
    /// # Errors
    /// `NotFound` where there is none, and those of [`DeltaStore::open`].
    pub async fn open_existing(config: DeltaConfig) -> Result<Self> {
        let lake = Self::connect(config, false)?;
        let there = try_join_all(lake.logs.iter().map(TableLog::open)).await?;
        if there.iter().all(|there| !there) {
            return Err(Error::new(ErrorKind::NotFound, "there is no lake here")
                .with("path", lake.path())
                .with_help("check the path; `pipeline run` fills a lake"));
        }
        match there.iter().position(|there| !there) {
            Some(missing) => Err(lake.logs[missing].gone()),
            None => Ok(lake),
        }
    }

    /// The lake's path, or its URL where it is not on the local file system.
    pub fn path(&self) -> String {
        self.config.url.to_file_path().map_or_else(
            |()| self.config.url.to_string(),
            |path| path.to_string_lossy().trim_end_matches('/').to_owned(),
        )
    }

    fn connect(config: DeltaConfig, writable: bool) -> Result<Self> {
        let url = config.url.clone();
        let local = (url.scheme() == "file").then(|| url.to_file_path().ok()).flatten();
        let shown = local.as_ref().map_or_else(|| url.to_string(), |path| path.to_string_lossy().into_owned());
        let doing = Doing { what: "open the lake", table: "lake", path: &shown };
        if local.as_ref().is_some_and(|path| path.is_file()) {
            return Err(Error::new(ErrorKind::Configuration, "a lake is a folder, and this path is a file")
                .with("path", shown.trim_end_matches('/'))
                .with_help("choose another path for the lake"));
        }
        let options =
            StorageConfig::parse_options(config.storage_options.clone()).map_err(|error| doing.delta(error))?;
        let root: Arc<dyn ObjectStore> = match (&config.object_store, &local) {
            (Some(store), _) => store.clone(),
            (None, Some(path)) if config.durable => Arc::new(DurableStore::new(path)),
            (None, Some(_)) => Arc::new(LocalFileSystem::new()),
            (None, None) => {
                let factories = object_store_factories();
                let factory = Url::parse(&format!("{}://", url.scheme()))
                    .ok()
                    .and_then(|scheme| factories.get(&scheme).map(|factory| factory.value().clone()));
                let factory = factory.ok_or_else(|| {
                    Error::new(ErrorKind::Configuration, format!("no storage is known for `{}`", url.scheme()))
                        .with("url", &url)
                        .with_help("use a path, or build with the feature of that store: s3, azure or gcs")
                })?;
                factory.parse_url_opts(&url, &options).map_err(|error| doing.delta(error))?.0
            }
        };
        let writer = Uuid::new_v4();
        let logs = Table::ALL.into_iter().map(|table| {
            let folder = url.join(&format!("{}/", table.name())).map_err(|error| {
                Error::new(ErrorKind::Configuration, "the lake's location is no URL").with_source(error)
            })?;
            let store = logstore_with(root.clone(), &folder, options.clone()).map_err(|error| doing.delta(error))?;
            Ok(TableLog::new(table, store, config.clock.clone(), writer, config.checkpoint_interval))
        });
        let logs = logs.collect::<Result<Vec<_>>>()?;
        let lake = options.decorate_store(root, &url).map_err(|error| doing.delta(error))?;
        Ok(Self {
            settings: SettingsFiles::new(lake.into(), &shown),
            cache: Arc::new(PartCache::new(config.cache_bytes)),
            config,
            logs,
            writable,
        })
    }

    pub(crate) fn check_writable(&self) -> Result<()> {
        if self.writable {
            return Ok(());
        }
        Err(Error::new(ErrorKind::Configuration, "the lake was opened to be read").with("path", self.path()))
    }

    pub(crate) fn log(&self, table: Table) -> &TableLog {
        &self.logs[table as usize]
    }

    pub(crate) fn reader(&self, table: Table) -> Reader {
        Reader::new(self.log(table), &self.cache)
    }

    /// The name under which a table's log keeps a partition's position.
    fn app(&self, topic: &str, partition: u32) -> String {
        format!("{}/{topic}/{partition}", self.config.pipeline)
    }

    /// What a commit moves in each of its tables.
    fn changes(&self, commit: &Commit) -> Vec<Change> {
        let of_table = |table: &subscription_core::TableCommit| {
            let mut change = Change::default();
            for span in &table.spans {
                let app: Arc<str> = self.app(&commit.topic, span.partition).into();
                let counters =
                    span.counters.iter().map(|(counter, value)| (format!("{app}/{}", counter.name()).into(), *value));
                change.counters.extend(counters);
                let (partition, from, to) = (span.partition, span.from as i64, span.to as i64);
                change.moves.push(Move { partition, app, from, to });
            }
            for range in commit.ranges.iter().filter(|range| range.table == table.table) {
                for RangeId(path) in &range.replaces {
                    if !change.removes.contains(path) {
                        change.removes.push(path.clone());
                    }
                }
            }
            change
        };
        commit.tables.iter().map(of_table).collect()
    }

    /// Encodes and puts the data files of the tables that do not have the commit yet; for each table its files.
    async fn put_files(&self, commit: &Arc<Commit>, open: &[bool]) -> Result<Vec<Vec<Encoded>>> {
        let jobs = open.iter().enumerate().map(|(index, &open)| {
            let commit = commit.clone();
            let (codec, now) = (self.config.compression, self.config.clock.now());
            async move {
                if !open {
                    return Ok(Vec::new());
                }
                let table = commit.tables[index].table;
                let log = self.log(table);
                let encoded = tokio::task::spawn_blocking(move || encode(&commit, index, codec, now)).await;
                let files = encoded
                    .map_err(|error| {
                        Error::new(ErrorKind::Invariant, "an encoding task ended early").with_source(error)
                    })?
                    .map_err(|error| {
                        Error::new(ErrorKind::Invariant, format!("rows of {} cannot be encoded: {error}", table.name()))
                            .with("table", table.name())
                            .with_source(error)
                    })?;
                let puts: Vec<_> = files.iter().map(|file| put_file(log, file)).collect();
                let put = futures::stream::iter(puts).buffer_unordered(SIDE_BY_SIDE).try_collect::<Vec<_>>().await;
                match put {
                    Ok(_) => Ok(files),
                    Err(error) => {
                        self.discard(table, &files).await;
                        Err(error)
                    }
                }
            }
        });
        let done = join_all(jobs).await;
        if done.iter().all(Result::is_ok) {
            return done.into_iter().collect();
        }
        let mut first = None;
        for (table, done) in commit.tables.iter().zip(done) {
            match done {
                Ok(files) => self.discard(table.table, &files).await,
                Err(error) => first = first.or(Some(error)),
            }
        }
        Err(first.unwrap_or_else(|| Error::new(ErrorKind::Invariant, "no file failed")))
    }

    /// Puts files again that were put long before the log names them: a vacuum may have taken them for litter meanwhile. To be
    /// called before the log names them, and once it does.
    pub(crate) async fn put_again_after_sleep(&self, table: Table, files: &[Encoded], put_at: Timestamp) -> Result<()> {
        let log = self.log(table);
        if log.stale(put_at) {
            try_join_all(files.iter().map(|file| put_file(log, file))).await?;
        }
        Ok(())
    }

    /// Deletes files that no log names, so that a full disk is not filled by attempts. What is left is litter.
    pub(crate) async fn discard(&self, table: Table, files: &[Encoded]) {
        for file in files {
            let _ = self.log(table).objects.delete(&file.path).await;
        }
    }

    /// The stored ranges that a commit wrote which this process made before.
    async fn written(&self, commit: &Commit, table: Table) -> Result<HashMap<usize, RangeId>> {
        let current = self.log(table).current().await?;
        let mut ranges = HashMap::new();
        for (index, write) in commit.ranges.iter().enumerate().filter(|(_, write)| write.table == table) {
            let file = current.files.values().find(|file| match &file.content {
                Content::Range(topic, range) => {
                    *topic == commit.topic
                        && range.partition == write.partition
                        && range.first == write.first
                        && range.last == write.last
                }
                _ => false,
            });
            if let Some(file) = file {
                ranges.insert(index, RangeId(file.path.clone()));
            }
        }
        Ok(ranges)
    }

    /// The active files of a table that can hold rows of a partition.
    async fn files(&self, table: Table, keep: impl Fn(&DataFile) -> bool) -> Result<Vec<Arc<DataFile>>> {
        let current = self.log(table).current().await?;
        Ok(current.files.values().filter(|file| keep(file)).cloned().collect())
    }

    fn ranges(
        &self,
        table: Table,
        topic: &str,
        snapshot: &Snapshot,
        states: &mut [(u32, PartitionState)],
    ) -> Result<()> {
        for file in snapshot.files.values() {
            match &file.content {
                Content::Range(of, range) if **of == *topic => {
                    for (_, state) in states.iter_mut().filter(|(partition, _)| *partition == range.partition) {
                        state.ranges.push(RangeRef {
                            table,
                            partition: range.partition,
                            id: RangeId(file.path.clone()),
                            first: range.first.clone(),
                            last: range.last.clone(),
                            rows: u32::try_from(file.rows).unwrap_or(u32::MAX),
                        });
                    }
                }
                Content::Range(..) => {}
                _ => {
                    return Err(Error::new(ErrorKind::Mismatch, "another tool has rewritten a file of this table")
                        .with("table", table.name())
                        .with("file", &file.path)
                        .with_help(
                            "restore the table to the version before that (RESTORE), and leave its files alone",
                        ));
                }
            }
        }
        Ok(())
    }
}

/// Whether every range of a commit is moved by it: nothing else fences it.
fn check(commit: &Commit) -> Result<()> {
    for range in &commit.ranges {
        let of_table = commit.tables.iter().find(|table| table.table == range.table);
        let moved = of_table.is_some_and(|table| table.spans.iter().any(|span| span.partition == range.partition));
        if !moved || range.rows.is_empty() || !range.table.is_gold() {
            return Err(Error::new(ErrorKind::Invariant, "a range of the commit has no rows, or no span of it")
                .with("table", range.table.name())
                .with("partition", range.partition));
        }
    }
    Ok(())
}

pub(crate) async fn put_file(log: &TableLog, file: &Encoded) -> Result<()> {
    let put = log.objects.put(&file.path, file.bytes.clone().into()).await;
    let path = format!("{}/{}", log.path, file.path);
    put.map(|_| ()).map_err(|error| log.doing("write the data file", &path).store(error))
}

/// Whether a commit that ended so is in no log, and what was put for it litter.
pub(crate) fn surely_not_made(error: &Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::Fenced | ErrorKind::StorageFull | ErrorKind::PermissionDenied | ErrorKind::NotFound
    )
}

fn encode(
    commit: &Commit,
    index: usize,
    codec: crate::Compression,
    now: Timestamp,
) -> Result<Vec<Encoded>, ParquetError> {
    let of_table = &commit.tables[index];
    let input = || Input::new(&commit.topic, of_table, &commit.admitted, codec, now);
    match of_table.table {
        Table::DeadLetter => bronze::dead_letter(&input()),
        Table::Bronze => bronze::bronze(&input()),
        Table::Quarantine => silver::quarantine(&input()),
        Table::Silver => silver::silver(&input()),
        table => {
            let ranges = commit.ranges.par_iter().filter(|range| range.table == table);
            ranges.map(|range| gold::encode(&commit.topic, range, codec, now)).collect()
        }
    }
}

#[async_trait]
impl TableStore for DeltaStore {
    async fn state(&self, topic: &str, partitions: &[u32]) -> Result<Vec<PartitionState>> {
        let mut states: Vec<_> = partitions.iter().map(|&partition| (partition, PartitionState::default())).collect();
        for log in &self.logs {
            let current = log.current().await?;
            for (partition, state) in &mut states {
                let app = self.app(topic, *partition);
                let counters = Counter::ALL
                    .into_iter()
                    .filter_map(|counter| Some((counter, current.value(&format!("{app}/{}", counter.name()))?)));
                state.tables[log.table as usize] = TablePosition {
                    position: current.value(&app).unwrap_or_default() as u64,
                    counters: counters.collect(),
                };
            }
            if log.table.is_gold() {
                self.ranges(log.table, topic, &current, &mut states)?;
            }
        }
        Ok(states.into_iter().map(|(_, state)| state).collect())
    }

    async fn partitions(&self, topic: &str) -> Result<Vec<u32>> {
        let prefix = format!("{}/{topic}/", self.config.pipeline);
        let mut partitions = Vec::new();
        for log in &self.logs {
            let current = log.current().await?;
            partitions.extend(current.txns.keys().filter_map(|app| app.strip_prefix(&prefix)?.parse::<u32>().ok()));
        }
        partitions.sort_unstable();
        partitions.dedup();
        Ok(partitions)
    }

    async fn commit(&self, commit: Arc<Commit>) -> Result<Committed> {
        self.check_writable()?;
        check(&commit)?;
        let mut changes = self.changes(&commit);
        let standings =
            commit.tables.iter().zip(&changes).map(|(table, change)| self.log(table.table).standing(change));
        let standings = join_all(standings.collect::<Vec<_>>()).await;
        // The tables before one that is refused get their part, as if the refusal had come in its turn.
        let reached = standings.iter().position(Result::is_err).unwrap_or(standings.len());
        let open: Vec<bool> =
            standings[..reached].iter().map(|standing| matches!(standing, Ok(Standing::Before))).collect();
        let refused = standings.into_iter().find_map(Result::err);
        failpoint::hit("delta.before_data_files", "");
        let put_at = self.config.clock.now();
        let mut files = self.put_files(&commit, &open).await?;
        failpoint::hit("delta.after_data_files", "");

        let mut committed = Committed::default();
        let mut ranges = HashMap::new();
        for index in 0..reached {
            let table = commit.tables[index].table;
            let change = &mut changes[index];
            change.adds = files[index].iter_mut().map(|file| std::mem::take(&mut file.add)).collect();
            self.put_again_after_sleep(table, &files[index], put_at).await?;
            failpoint::hit("delta.before_log", table.name());
            let standing = match self.log(table).commit(change).await {
                Ok(standing) => standing,
                Err(error) => {
                    // This table's files are litter where the log surely does not name them; the next ones' are.
                    let litter = if surely_not_made(&error) { index } else { index + 1 };
                    for (table, files) in commit.tables.iter().zip(&files).skip(litter) {
                        self.discard(table.table, files).await;
                    }
                    return Err(error);
                }
            };
            failpoint::hit("delta.after_log", table.name());
            let mut of_table =
                commit.ranges.iter().enumerate().filter(|(_, range)| range.table == table).map(|(at, _)| at);
            if standing == Standing::Done {
                self.discard(table, &files[index]).await;
                ranges.extend(self.written(&commit, table).await?);
            } else {
                self.put_again_after_sleep(table, &files[index], put_at).await?;
                for file in &files[index] {
                    committed.bytes += file.bytes.len() as u64;
                    committed.files += 1;
                    if let Some(at) = of_table.next().filter(|_| table.is_gold()) {
                        ranges.insert(at, RangeId(file.path.as_ref().into()));
                    }
                }
            }
        }
        if let Some(refused) = refused {
            return Err(refused);
        }
        let named = (0..commit.ranges.len()).map(|at| {
            ranges.remove(&at).ok_or_else(|| {
                Error::new(ErrorKind::Invariant, "a range that the commit wrote is gone")
                    .with("table", commit.ranges[at].table.name())
            })
        });
        committed.ranges = named.collect::<Result<_>>()?;
        Ok(committed)
    }

    async fn read_bronze(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        max_bytes: usize,
    ) -> Result<Option<RecordBatch>> {
        let reader = self.reader(Table::Bronze);
        let files = self.files(Table::Bronze, |file| has(file, topic, partition, from, u64::MAX)).await?;
        let span = (from, u64::MAX);
        let (batches, found) =
            walk(&reader, &files, topic, partition, span, max_bytes.max(1), Weigh::PayloadBytes).await?;
        records(&reader, topic, partition, from, &batches, &found)
    }

    async fn last_record(&self, topic: &str, partition: u32, before: u64) -> Result<Option<RecordBatch>> {
        let mut last: Option<RecordBatch> = None;
        for table in [Table::Bronze, Table::DeadLetter] {
            let reader = self.reader(table);
            let mut files = self.files(table, |file| has(file, topic, partition, 0, before)).await?;
            let greatest = |file: &DataFile| file.offsets(topic, partition).map_or(0, |(_, greatest)| greatest);
            files.sort_by_key(|file| std::cmp::Reverse(greatest(file)));
            for file in files {
                let least = last.as_ref().map_or(0, RecordBatch::to);
                let greatest = greatest(&file);
                if greatest < least {
                    break;
                }
                // Nearly always it is the last one of the file: what cannot hold that is not read.
                let span = (if greatest < before { greatest } else { least }, before);
                let one = [file];
                let (batches, found) = walk(&reader, &one, topic, partition, span, usize::MAX, Weigh::Rows).await?;
                if let Some(&row) = found.last() {
                    last = records(&reader, topic, partition, row.0, &batches, &[row])?;
                }
            }
        }
        Ok(last)
    }

    async fn read_dead_letters(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<DeadLetters> {
        let reader = self.reader(Table::DeadLetter);
        let files = self.files(Table::DeadLetter, |file| has(file, topic, partition, from, to)).await?;
        let max_rows = max_rows.max(1);
        let (batches, found) = walk(&reader, &files, topic, partition, (from, to), max_rows, Weigh::Rows).await?;
        // Where there may be more, the span ends behind the last one.
        let to = found.last().filter(|_| found.len() == max_rows).map_or(to, |(last, ..)| last + 1);
        dead_letters(&reader, topic, partition, (from, to), &batches, &found)
    }

    async fn read_silver(
        &self,
        topic: &str,
        partition: u32,
        from: u64,
        to: u64,
        max_rows: usize,
    ) -> Result<EventBatch> {
        let reader = self.reader(Table::Silver);
        let files = self.files(Table::Silver, |file| has(file, topic, partition, from, to)).await?;
        let (batches, found) = walk(&reader, &files, topic, partition, (from, to), max_rows, Weigh::Rows).await?;
        events(&reader, &batches, &found)
    }

    async fn read_ids(&self, topic: &str, since: &[(u32, Timestamp)]) -> Result<Vec<Vec<AcceptedId>>> {
        let wanted = |file: &DataFile, (partition, since): (u32, Timestamp)| {
            has(file, topic, partition, 0, u64::MAX) && file.overlaps(since, Timestamp::MAX)
        };
        let files = self.files(Table::Silver, |file| since.iter().any(|asked| wanted(file, *asked))).await?;
        lookup::ids(&self.reader(Table::Silver), files, topic, since).await
    }

    async fn lookup(&self, topic: &str, questions: &[IdLookup]) -> Result<Vec<Vec<Timestamp>>> {
        let from = questions.iter().map(|question| question.from).min();
        let to = questions.iter().map(|question| question.to).max();
        let Some((from, to)) = from.zip(to) else { return Ok(Vec::new()) };
        let files = self.files(Table::Silver, |file| file.overlaps(from, to)).await?;
        lookup::answers(&self.reader(Table::Silver), files, topic, questions).await
    }

    async fn load(&self, topic: &str, ranges: &[RangeRef]) -> Result<Vec<GoldRows>> {
        let mut files = Vec::with_capacity(ranges.len());
        for range in ranges {
            let log = self.log(range.table);
            let current = log.current().await?;
            let file = current.files.get(&range.id.0).filter(|file| {
                matches!(&file.content, Content::Range(of, found) if **of == *topic && found.partition == range.partition)
            });
            files.push(file.cloned().ok_or_else(|| {
                Error::new(ErrorKind::Fenced, "a range was rewritten by another process")
                    .with("table", range.table.name())
                    .with("partition", range.partition)
                    .with("file", &range.id.0)
                    .with_help("load the partition's state again; nothing is lost")
            })?);
        }
        let loads: Vec<_> = ranges
            .iter()
            .zip(files)
            .map(|(range, file)| load_range(self.reader(range.table), range.table, file))
            .collect();
        futures::stream::iter(loads).buffered(SIDE_BY_SIDE).try_collect().await
    }

    async fn settings(&self) -> Result<Option<Settings>> {
        self.settings.get().await
    }

    async fn put_settings(&self, settings: Settings) -> Result<()> {
        self.check_writable()?;
        self.settings.put(settings).await
    }
}

/// On a thread of the runtime: decoding is work.
async fn load_range(reader: Reader, table: Table, file: Arc<DataFile>) -> Result<GoldRows> {
    let load = async move {
        let path = reader.path(&file);
        let batches = reader.file(file).await?;
        gold::decode(table, &batches, reader.doing(&path))
    };
    tokio::spawn(load)
        .await
        .map_err(|error| Error::new(ErrorKind::Invariant, "a reading task ended early").with_source(error))?
}

fn has(file: &DataFile, topic: &str, partition: u32, from: u64, to: u64) -> bool {
    file.offsets(topic, partition).is_some_and(|(first, last)| first < to && last >= from)
}

impl fmt::Debug for DeltaStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DeltaStore").field("config", &self.config).field("writable", &self.writable).finish()
    }
}
