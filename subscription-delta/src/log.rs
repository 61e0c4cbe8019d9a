//! A table's log: what is in the table, and the compare-and-set that changes it.
//!
//! delta-rs's own commit loop reads the table anew for every commit, which grows with the log, and collapses when
//! three processes write. Here the state is kept in memory, brought up to date by reading the log entries behind it,
//! and a commit is one put of the next entry that succeeds only where there is none.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use deltalake::checkpoints::create_checkpoint;
use deltalake::kernel::transaction::{CommitData, TransactionError};
use deltalake::kernel::{Action, Add, MetadataExt as _, Protocol, Transaction, new_metadata};
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStore, ObjectStoreExt as _};
use deltalake::logstore::parquet_reader::ParquetObjectReader;
use deltalake::logstore::{CommitOrBytes, LogStore, LogStoreRef, get_actions};
use deltalake::parquet::arrow::ProjectionMask;
use deltalake::parquet::arrow::async_reader::ParquetRecordBatchStreamBuilder;
use deltalake::protocol::{DeltaOperation, SaveMode};
use deltalake::{DeltaTable, arrow};
use futures::{StreamExt as _, TryStreamExt as _};
use serde_json::Value;
use subscription_core::{Clock, Error, ErrorKind, Result, Table, Timestamp};
use tokio::sync::{Mutex, MutexGuard};
use uuid::Uuid;

use crate::error::Doing;
use crate::file::DataFile;
use crate::schema::Layout;

/// The name under which a commit says who made it.
const WRITER: &str = "subscriptionWriter";
const COMMIT: &str = "subscriptionCommit";

/// Without a look at the log for this long, what is in memory is given up: entries may have been cleaned away behind
/// it, and the next one would be put where nobody reads. Logs are kept for days.
const STALE_MS: i64 = 3_600_000;

/// How often a put is tried again that was told of an entry which is not there.
const PHANTOM_RETRIES: u32 = 5;

/// A number that the log keeps for an application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Txn {
    pub(crate) value: i64,
    /// Whether this process set it.
    pub(crate) mine: bool,
}

/// What is in a table as of a version.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    pub(crate) version: u64,
    pub(crate) txns: HashMap<Arc<str>, Txn>,
    pub(crate) files: HashMap<Arc<str>, Arc<DataFile>>,
    /// When the log was last looked at.
    seen: Timestamp,
    /// The version of the newest checkpoint that is known.
    checkpoint: Option<u64>,
}

impl Snapshot {
    /// The number kept under a name.
    pub(crate) fn value(&self, app: &str) -> Option<i64> {
        self.txns.get(app).map(|txn| txn.value)
    }
}

/// One partition's part of a change: the position that the change begins at and the one that it ends at.
#[derive(Debug, Clone)]
pub(crate) struct Move {
    pub(crate) partition: u32,
    pub(crate) app: Arc<str>,
    pub(crate) from: i64,
    pub(crate) to: i64,
}

/// What a commit changes.
#[derive(Debug, Clone, Default)]
pub(crate) struct Change {
    pub(crate) moves: Vec<Move>,
    /// Further numbers to keep.
    pub(crate) counters: Vec<(Arc<str>, i64)>,
    pub(crate) adds: Vec<Add>,
    /// Paths of the files that the adds replace.
    pub(crate) removes: Vec<Arc<str>>,
    /// Whether the adds have the same rows as the removes: readers of changes need not look.
    pub(crate) compacts: bool,
}

/// How a table stands to a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Standing {
    /// At its beginning.
    Before,
    /// At its end, by this process.
    Done,
}

/// The log of one table.
pub(crate) struct TableLog {
    pub(crate) table: Table,
    store: LogStoreRef,
    /// The table's folder.
    pub(crate) objects: Arc<dyn ObjectStore>,
    pub(crate) path: String,
    clock: Arc<dyn Clock>,
    /// This process, in the entries that it writes.
    writer: Uuid,
    checkpoint_interval: u64,
    checkpointing: Arc<AtomicBool>,
    snapshot: Mutex<Option<Snapshot>>,
}

impl TableLog {
    pub(crate) fn new(
        table: Table,
        store: LogStoreRef,
        clock: Arc<dyn Clock>,
        writer: Uuid,
        checkpoint_interval: u64,
    ) -> Self {
        Self {
            table,
            objects: store.object_store(None),
            path: store.root_url().to_file_path().map_or_else(
                |()| store.root_url().to_string(),
                |path| path.to_string_lossy().trim_end_matches('/').to_owned(),
            ),
            store,
            clock,
            writer,
            checkpoint_interval,
            checkpointing: Arc::default(),
            snapshot: Mutex::new(None),
        }
    }

    /// An operation on this table, for its errors.
    pub(crate) fn doing<'a>(&'a self, what: &'static str, path: &'a str) -> Doing<'a> {
        Doing { what, table: self.table.name(), path }
    }

    /// The delta-rs table, loaded as of now.
    pub(crate) async fn delta_table(&self) -> Result<DeltaTable> {
        let mut table = DeltaTable::new(self.store.clone());
        table.load().await.map_err(|error| self.doing("open the table", &self.path).delta(error))?;
        Ok(table)
    }

    /// Whether the table is there, and is the right one. What is known of it is read anew.
    pub(crate) async fn open(&self) -> Result<bool> {
        let mut slot = self.snapshot.lock().await;
        *slot = self.load().await?;
        Ok(slot.is_some())
    }

    /// Creates the table. Where another process is quicker, its table is as good.
    pub(crate) async fn create(&self) -> Result<()> {
        let layout = Layout::of(self.table);
        let doing = self.doing("create the table", &self.path);
        let invariant = |error: String| Error::new(ErrorKind::Invariant, error).with("table", self.table.name());
        let properties = layout.properties.iter().map(|(name, value)| (*name, value));
        let metadata = new_metadata(&layout.columns, [self.table.partition_column()], properties)
            .and_then(|metadata| metadata.with_name(self.table.name().to_owned()))
            .and_then(|metadata| metadata.with_description(format!("One row is {}.", layout.row)))
            .map_err(|error| invariant(error.to_string()))?;
        let protocol: Protocol =
            serde_json::from_value(serde_json::json!({"minReaderVersion": 1, "minWriterVersion": 2}))
                .map_err(|error| invariant(error.to_string()))?;
        let operation = DeltaOperation::Create {
            mode: SaveMode::ErrorIfExists,
            location: self.store.root_url().clone(),
            protocol: protocol.clone(),
            metadata: metadata.clone(),
        };
        let actions = vec![Action::Protocol(protocol), Action::Metadata(metadata)];
        let entry = CommitData::new(actions, operation, HashMap::new(), Vec::new())
            .get_bytes()
            .map_err(|error| doing.transaction(error))?;
        match self.store.write_commit_entry(0, CommitOrBytes::LogBytes(entry), Uuid::new_v4()).await {
            Ok(()) | Err(TransactionError::VersionAlreadyExists(_)) => {}
            Err(error) => return Err(doing.transaction(error)),
        }
        if self.open().await? { Ok(()) } else { Err(self.gone()) }
    }

    /// The state as of now; held, it keeps others of this process waiting.
    pub(crate) async fn current(&self) -> Result<Current<'_>> {
        let mut slot = self.snapshot.lock().await;
        self.refresh(&mut slot).await?;
        Ok(Current(slot))
    }

    /// How the table stands to a change, as of now.
    ///
    /// # Errors
    /// `Fenced`, where it stands elsewhere.
    pub(crate) async fn standing(&self, change: &Change) -> Result<Standing> {
        let current = self.current().await?;
        self.compare(&current, change)
    }

    /// Makes a change, or nothing of it.
    ///
    /// # Errors
    /// `Fenced`, where the table does not stand where the change begins.
    pub(crate) async fn commit(&self, change: &Change) -> Result<Standing> {
        let mut slot = self.snapshot.lock().await;
        // What is known may be old: then the put finds an entry in its place, and looks.
        if slot.as_ref().is_none_or(|snapshot| self.stale(snapshot.seen)) {
            self.refresh(&mut slot).await?;
        }
        let mut phantoms = 0;
        loop {
            let snapshot = slot.as_mut().ok_or_else(|| self.gone())?;
            if self.compare(snapshot, change)? == Standing::Done {
                return Ok(Standing::Done);
            }
            let (entry, actions) = self.entry(snapshot, change)?;
            let (at, seen) = (snapshot.version + 1, snapshot.seen);
            let write = || self.store.write_commit_entry(at, CommitOrBytes::LogBytes(entry.clone()), Uuid::new_v4());
            let mut put = write().await;
            let exists = |error: &TransactionError| matches!(error, TransactionError::VersionAlreadyExists(_));
            if put.as_ref().is_err_and(|error| !exists(error)) && self.is_at(at, &entry).await {
                // It is there, but perhaps not on the disk, as flushing is what can fail last: that "already exists" says.
                put = write().await;
            }
            match put {
                Ok(()) if self.stale(seen) => {
                    // Asleep between the look at the log and the put: the entry may lie where nobody reads.
                    *slot = self.load().await?;
                    let snapshot = slot.as_ref().ok_or_else(|| self.gone())?;
                    return self.compare(snapshot, change).and_then(|standing| match standing {
                        Standing::Done => Ok(Standing::Before),
                        Standing::Before => Err(self.lost(at)),
                    });
                }
                Ok(()) => {
                    self.apply(snapshot, at, actions)?;
                    self.checkpoint_when_due(snapshot);
                    return Ok(Standing::Before);
                }
                Err(error) => {
                    // Whatever was answered, the log says what happened.
                    let exists = exists(&error);
                    match self.read_entry(at).await {
                        Ok(Some(bytes)) if bytes == entry && exists => {
                            self.apply(snapshot, at, actions)?;
                            return Ok(Standing::Before);
                        }
                        // Not the error's own kind: who hears that the disk is full takes the entry for not made.
                        Ok(Some(bytes)) if bytes == entry => {
                            return Err(Error::new(ErrorKind::Unavailable, "a log entry may not be on the disk")
                                .with("table", self.table.name())
                                .with("path", self.entry_path(at))
                                .with_source(error)
                                .retryable());
                        }
                        // The look at the later entries compares again.
                        Ok(Some(_)) => self.refresh(&mut slot).await?,
                        // S3 answers "already exists" to puts that collide, though neither may have landed.
                        Ok(None) if exists && phantoms < PHANTOM_RETRIES => {
                            phantoms += 1;
                            tokio::time::sleep(std::time::Duration::from_millis(20 << phantoms)).await;
                        }
                        _ => return Err(self.doing("write the log entry", &self.entry_path(at)).transaction(error)),
                    }
                }
            }
        }
    }

    async fn is_at(&self, at: u64, entry: &Bytes) -> bool {
        matches!(self.read_entry(at).await, Ok(Some(bytes)) if bytes == *entry)
    }

    fn compare(&self, snapshot: &Snapshot, change: &Change) -> Result<Standing> {
        let txn = |step: &Move| snapshot.txns.get(&step.app);
        let moved = |step: &Move| step.from != step.to && txn(step).is_some_and(|txn| txn.mine && txn.value == step.to);
        let added = |add: &Add| snapshot.files.contains_key(add.path.as_str());
        if !change.moves.is_empty() && change.moves.iter().all(moved)
            || change.compacts && change.adds.iter().all(added)
        {
            return Ok(Standing::Done);
        }
        for step in &change.moves {
            let found = txn(step).map_or(0, |txn| txn.value);
            if found != step.from {
                return Err(Error::new(ErrorKind::Fenced, "another process has moved this table's position")
                    .with("table", self.table.name())
                    .with("partition", step.partition)
                    .with("expected", step.from)
                    .with("found", found)
                    .with_help(
                        "another process writes this lake: stop one of the two, then start again; nothing is lost",
                    ));
            }
        }
        if let Some(path) = change.removes.iter().find(|path| !snapshot.files.contains_key(*path)) {
            return Err(Error::new(ErrorKind::Fenced, "a file to be replaced was rewritten by another process")
                .with("table", self.table.name())
                .with("file", path)
                .with_help("load the partition's state again; nothing is lost"));
        }
        Ok(Standing::Before)
    }

    fn entry(&self, snapshot: &Snapshot, change: &Change) -> Result<(Bytes, Vec<Action>)> {
        let now = self.clock.now();
        let removes = change.removes.iter().filter_map(|path| snapshot.files.get(path));
        let actions = removes
            .map(|file| Action::Remove(file.remove(self.table, now, !change.compacts)))
            .chain(change.adds.iter().map(|add| Action::Add(Add { data_change: !change.compacts, ..add.clone() })))
            .collect();
        let moves = change.moves.iter().map(|step| (&step.app, step.to));
        let txns = moves
            .chain(change.counters.iter().map(|(app, value)| (app, *value)))
            .map(|(app, value)| Transaction::new_with_last_update(app, value, Some(now.millis())))
            .collect();
        let operation = if change.compacts {
            DeltaOperation::Optimize { predicate: None, target_size: change.adds.iter().map(|add| add.size).sum() }
        } else {
            DeltaOperation::Write {
                mode: if change.removes.is_empty() { SaveMode::Append } else { SaveMode::Overwrite },
                partition_by: Some(vec![self.table.partition_column().to_owned()]),
                predicate: None,
            }
        };
        let info = HashMap::from([
            (WRITER.to_owned(), Value::from(self.writer.to_string())),
            (COMMIT.to_owned(), Value::from(Uuid::new_v4().to_string())),
        ]);
        let data = CommitData::new(actions, operation, info, txns);
        let bytes = data.get_bytes().map_err(|error| {
            self.doing("write the log entry", &self.entry_path(snapshot.version + 1)).transaction(error)
        })?;
        Ok((bytes, data.actions))
    }

    /// Reads the entries behind what is known.
    async fn refresh(&self, slot: &mut Option<Snapshot>) -> Result<()> {
        if slot.as_ref().is_none_or(|snapshot| self.stale(snapshot.seen)) {
            *slot = self.load().await?;
            return if slot.is_some() { Ok(()) } else { Err(self.gone()) };
        }
        let snapshot = slot.as_mut().ok_or_else(|| self.gone())?;
        self.catch_up(snapshot).await?;
        // Without the entry that is known, the log is gone: putting the next one would begin a table of one entry.
        let last = self.entry_location(snapshot.version);
        match self.objects.head(&last).await {
            Ok(_) => Ok(()),
            Err(StoreError::NotFound { .. }) => {
                *slot = self.load().await?;
                if slot.is_some() { Ok(()) } else { Err(self.gone()) }
            }
            Err(error) => Err(self.doing("read the log", &self.entry_path(snapshot.version)).store(error)),
        }
    }

    async fn catch_up(&self, snapshot: &mut Snapshot) -> Result<()> {
        let now = self.clock.now();
        while let Some(bytes) = self.read_entry(snapshot.version + 1).await? {
            let at = snapshot.version + 1;
            let actions = self.parse(at, &bytes)?;
            self.apply(snapshot, at, actions)?;
        }
        snapshot.seen = now;
        Ok(())
    }

    /// Whether so much time has passed since then that others may have cleaned up meanwhile.
    pub(crate) fn stale(&self, seen: Timestamp) -> bool {
        self.clock.now().millis().abs_diff(seen.millis()) > STALE_MS as u64
    }

    /// Reads the table's state from its newest checkpoint and the entries behind it; `None` where there is no table.
    async fn load(&self) -> Result<Option<Snapshot>> {
        let Some((checkpoint, newest)) = self.list().await? else { return Ok(None) };
        let mut snapshot = Snapshot { seen: self.clock.now(), ..Snapshot::default() };
        let mut described = false;
        let first = match checkpoint {
            Some((version, parts)) => {
                for part in parts {
                    let actions = self.read_checkpoint(&part).await?;
                    described |= actions.iter().any(|action| matches!(action, Action::Metadata(_)));
                    self.apply(&mut snapshot, version, actions)?;
                }
                snapshot.checkpoint = Some(version);
                version + 1
            }
            None => 0,
        };
        // Side by side, in order.
        let mut entries = futures::stream::iter(first..newest + 1)
            .map(|at| async move { (at, self.read_entry(at).await) })
            .buffered(16);
        while let Some((at, bytes)) = entries.next().await {
            let path = self.entry_path(at);
            let bytes = bytes?.ok_or_else(|| self.doing("read the log", &path).corrupt("an entry is missing"))?;
            let actions = self.parse(at, &bytes)?;
            described |= actions.iter().any(|action| matches!(action, Action::Metadata(_)));
            self.apply(&mut snapshot, at, actions)?;
        }
        if !described {
            return Err(self.doing("read the log", &self.path).corrupt("it does not describe the table"));
        }
        self.catch_up(&mut snapshot).await?;
        Ok(Some(snapshot))
    }

    /// The newest complete checkpoint, with the files it is in, and the newest version.
    #[allow(clippy::type_complexity, reason = "used once, next to where it is made")]
    async fn list(&self) -> Result<Option<(Option<(u64, Vec<Path>)>, u64)>> {
        let folder = self.store.log_path().clone();
        let doing = self.doing("read the log", &self.path);
        let hint = match self.objects.get(&folder.clone().join("_last_checkpoint")).await {
            Ok(found) => found.bytes().await.ok(),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return Err(doing.store(error)),
        };
        let hint = hint.and_then(|bytes| serde_json::from_slice::<Value>(&bytes).ok()?.get("version")?.as_u64());
        // The hint only saves listing what is older; where it misleads, everything is listed.
        for from in [hint, None] {
            let listed = match from {
                Some(version) => {
                    self.objects.list_with_offset(Some(&folder), &folder.clone().join(format!("{version:020}")))
                }
                None => self.objects.list(Some(&folder)),
            };
            let names: Vec<String> =
                match listed.map_ok(|meta| meta.location.filename().unwrap_or_default().to_owned()).try_collect().await
                {
                    Ok(names) => names,
                    Err(StoreError::NotFound { .. }) => Vec::new(),
                    Err(error) => return Err(doing.store(error)),
                };
            let (mut newest, mut checkpoints) = (None, BTreeMap::<u64, Vec<(usize, Path)>>::new());
            for name in &names {
                let Some((version, kind)) = name.split_once('.') else { continue };
                let Some(version) = version.parse::<u64>().ok().filter(|_| version.len() == 20) else { continue };
                match kind.split('.').collect::<Vec<_>>()[..] {
                    ["json"] => newest = newest.max(Some(version)),
                    ["checkpoint", "parquet"] => {
                        checkpoints.insert(version, vec![(1, folder.clone().join(name.as_str()))]);
                        newest = newest.max(Some(version));
                    }
                    ["checkpoint", _, parts, "parquet"] => {
                        let parts = parts.parse().unwrap_or(usize::MAX);
                        checkpoints.entry(version).or_default().push((parts, folder.clone().join(name.as_str())));
                    }
                    _ => {}
                }
            }
            let complete =
                checkpoints.into_iter().rev().find(|(_, files)| files.iter().all(|(parts, _)| *parts == files.len()));
            match (newest, complete) {
                (Some(newest), Some((version, files))) => {
                    let files = files.into_iter().map(|(_, file)| file).collect();
                    return Ok(Some((Some((version, files)), newest.max(version))));
                }
                (Some(newest), None) if from.is_none() => return Ok(Some((None, newest))),
                _ => {}
            }
        }
        Ok(None)
    }

    async fn read_checkpoint(&self, location: &Path) -> Result<Vec<Action>> {
        let path = format!("{}/{location}", self.path);
        let doing = self.doing("read the checkpoint", &path);
        let reader = ParquetObjectReader::new(self.objects.clone(), location.clone());
        let builder = ParquetRecordBatchStreamBuilder::new(reader).await.map_err(|error| doing.parquet(error))?;
        let columns = ["txn", "add", "metaData", "protocol"];
        // Of an add only what is used: statistics in Parquet's own form would be read for nothing.
        let parsed = ["add.stats_parsed", "add.partitionValues_parsed"];
        let schema = builder.parquet_schema();
        let leaves = (0..schema.num_columns()).filter(|&leaf| {
            let path = schema.column(leaf).path().string();
            columns.contains(&path.split('.').next().unwrap_or_default())
                && !parsed.iter().any(|parsed| path.starts_with(parsed))
        });
        let mask = ProjectionMask::leaves(schema, leaves.collect::<Vec<_>>());
        let mut batches = builder.with_projection(mask).build().map_err(|error| doing.parquet(error))?;
        let mut actions = Vec::new();
        while let Some(batch) = batches.next().await {
            let batch = batch.map_err(|error| doing.parquet(error))?;
            let mut lines = arrow::json::LineDelimitedWriter::new(Vec::new());
            lines.write(&batch).and_then(|()| lines.finish()).map_err(|error| doing.arrow(error))?;
            let lines = lines.into_inner();
            // A row whose only action was left out by the projection is empty.
            for line in lines.split(|&b| b == b'\n').filter(|line| !line.is_empty() && *line != b"{}") {
                actions.push(serde_json::from_slice(line).map_err(|error| doing.corrupt(error))?);
            }
        }
        Ok(actions)
    }

    fn parse(&self, at: u64, bytes: &Bytes) -> Result<Vec<Action>> {
        let path = self.entry_path(at);
        let doing = self.doing("read the log entry", &path);
        let actions = get_actions(at, bytes).map_err(|error| doing.corrupt(error))?;
        if actions.is_empty() { Err(doing.corrupt("it is empty")) } else { Ok(actions) }
    }

    async fn read_entry(&self, at: u64) -> Result<Option<Bytes>> {
        let read = self.store.read_commit_entry(at).await;
        read.map_err(|error| self.doing("read the log entry", &self.entry_path(at)).delta(error))
    }

    fn apply(&self, snapshot: &mut Snapshot, at: u64, actions: Vec<Action>) -> Result<()> {
        let mine = actions.iter().any(|action| {
            matches!(action, Action::CommitInfo(info)
                if info.info.get(WRITER).and_then(Value::as_str) == Some(&self.writer.to_string()))
        });
        let layout = Layout::of(self.table);
        for action in actions {
            match action {
                Action::Add(add) => {
                    let file = DataFile::from_add(self.table, add);
                    snapshot.files.insert(file.path.clone(), file.into());
                }
                Action::Remove(remove) => {
                    snapshot.files.remove(remove.path.as_str());
                }
                Action::Txn(txn) => {
                    snapshot.txns.insert(txn.app_id.into(), Txn { value: txn.version, mine });
                }
                Action::Metadata(found) => layout.check_columns(&found, &self.path)?,
                Action::Protocol(found) => layout.check_protocol(&found, &self.path)?,
                _ => {}
            }
        }
        snapshot.version = at;
        Ok(())
    }

    /// Sums the log up, beside the commits, when enough of them have come since the last time.
    fn checkpoint_when_due(&self, snapshot: &mut Snapshot) {
        // The work of a checkpoint grows with the files; the wait between two grows along.
        let interval = self.checkpoint_interval.max(snapshot.files.len() as u64 / 50);
        if snapshot.version < snapshot.checkpoint.unwrap_or_default() + interval
            || self.checkpointing.swap(true, Ordering::AcqRel)
        {
            return;
        }
        snapshot.checkpoint = Some(snapshot.version);
        let (store, version) = (self.store.clone(), snapshot.version);
        let busy = Busy(self.checkpointing.clone());
        tokio::spawn(async move {
            let _busy = busy;
            let mut table = DeltaTable::new(store);
            // A checkpoint that fails is missed by nobody: the next one comes.
            if table.load_version(version).await.is_ok() {
                let _ = create_checkpoint(&table, None).await;
            }
        });
    }

    fn entry_location(&self, at: u64) -> Path {
        self.store.log_path().clone().join(format!("{at:020}.json"))
    }

    fn entry_path(&self, at: u64) -> String {
        format!("{}/{}", self.path, self.entry_location(at))
    }

    /// That there is no such table.
    pub(crate) fn gone(&self) -> Error {
        Error::new(ErrorKind::NotFound, "the table is not there")
            .with("table", self.table.name())
            .with("path", &self.path)
            .with_help("restore it from a backup, or move the lake away and fill a new one from its source")
    }

    fn lost(&self, at: u64) -> Error {
        Error::new(ErrorKind::Fenced, "this process slept so long that its commit went unseen")
            .with("table", self.table.name())
            .with("path", self.entry_path(at))
            .with_help("start again; nothing is lost")
    }
}

/// A checkpoint is under way; however that ends, it is over.
struct Busy(Arc<AtomicBool>);

impl Drop for Busy {
    fn drop(&mut self) {
        self.0.store(false, Ordering::Release);
    }
}

/// A table's state, as of now.
pub(crate) struct Current<'a>(MutexGuard<'a, Option<Snapshot>>);

impl std::ops::Deref for Current<'_> {
    type Target = Snapshot;

    fn deref(&self) -> &Snapshot {
        self.0.as_ref().expect("only made of a table that is there")
    }
}
