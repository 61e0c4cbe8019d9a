//! A local object store whose writes survive a power cut.
//!
//! The one of the `object_store` crate puts files atomically, but never asks the operating system to write them to
//! the disk: after a power cut a log entry can be empty, or all zeros, under which the table no longer opens. Here a
//! file is written aside and flushed, then moved to its place, then the folder that names it is flushed (and, for a
//! new folder, the one that names that), before `put` returns. Files that come into a folder at the same time share its flush.

use std::collections::{HashMap, HashSet};
use std::fmt;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::path::{Path as FsPath, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use async_trait::async_trait;
use deltalake::logstore::object_store::local::LocalFileSystem;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{
    CopyOptions, Error, GetOptions, GetResult, ListResult, MultipartUpload, ObjectMeta, ObjectStore, PutMode,
    PutMultipartOptions, PutOptions, PutPayload, PutResult, RenameOptions, Result, UploadPart,
};
use futures::stream::BoxStream;
use uuid::Uuid;

use crate::group::Group;

const STORE: &str = "DurableStore";

/// What was just done to a path, for those who watch the order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// A file's bytes are on the disk, under a name that readers ignore.
    FlushedFile,
    /// The file has its name; where it was to be new, it was.
    Named,
    /// The folder's names are on the disk.
    FlushedFolder,
}

type Watcher = Arc<dyn Fn(Step, &FsPath) + Send + Sync>;

/// See the module.
#[derive(Clone)]
pub(crate) struct DurableStore {
    inner: Arc<LocalFileSystem>,
    /// The folder of the lake; folders below it are flushed into the ones that name them.
    base: Arc<FsPath>,
    /// Folders whose names are on the disk, all the way from `base`.
    known: Arc<Mutex<HashSet<PathBuf>>>,
    /// The flushes of folders: a commit puts many files into the same one.
    flushes: Arc<Mutex<HashMap<PathBuf, Arc<Group>>>>,
    watcher: Option<Watcher>,
}

impl DurableStore {
    /// A store of the whole local file system, for the lake at `base`.
    pub(crate) fn new(base: &FsPath) -> Self {
        Self {
            inner: Arc::new(LocalFileSystem::new()),
            base: base.into(),
            known: Arc::default(),
            flushes: Arc::default(),
            watcher: None,
        }
    }

    /// Calls `watcher` after each step.
    #[cfg(test)]
    pub(crate) fn watched(mut self, watcher: impl Fn(Step, &FsPath) + Send + Sync + 'static) -> Self {
        self.watcher = Some(Arc::new(watcher));
        self
    }

    fn done(&self, step: Step, path: &FsPath) {
        if let Some(watcher) = &self.watcher {
            watcher(step, path);
        }
    }

    /// Writes a file; with `new` it fails where there is one already.
    fn write(&self, path: &FsPath, payload: &PutPayload, new: bool) -> io::Result<()> {
        let folder = path.parent().ok_or(io::ErrorKind::InvalidInput)?;
        // Names that end in `#` and digits are skipped by the listing of `LocalFileSystem`.
        let mut aside = path.as_os_str().to_owned();
        aside.push(format!("#{}", Uuid::new_v4().as_u128()));
        let aside = PathBuf::from(aside);

        self.make_folder(folder)?;
        let open = || OpenOptions::new().write(true).create_new(true).open(&aside);
        let file = open().or_else(|error| match error.kind() {
            // The folder was there, and is gone.
            io::ErrorKind::NotFound => {
                lock(&self.known).retain(|known| !known.starts_with(folder));
                self.make_folder(folder)?;
                open()
            }
            _ => Err(error),
        })?;
        let placed = write_and_flush(file, payload).and_then(|()| {
            self.done(Step::FlushedFile, path);
            if new { fs::hard_link(&aside, path) } else { fs::rename(&aside, path) }
        });
        if new || placed.is_err() {
            // If it stays, it is a file that nobody sees.
            let _ = fs::remove_file(&aside);
        }
        if placed.as_ref().is_err_and(|error| error.kind() == io::ErrorKind::AlreadyExists) {
            // Who is told so goes by what is there: it has to be there after a power cut too.
            self.flush_folder(folder)?;
        }
        placed?;
        self.done(Step::Named, path);
        self.flush_folder(folder)
    }

    /// Makes a folder, and sees that it is found after a power cut.
    fn make_folder(&self, folder: &FsPath) -> io::Result<()> {
        if lock(&self.known).contains(folder) {
            return Ok(());
        }
        let missing: Vec<&FsPath> = folder.ancestors().take_while(|folder| !folder.exists()).collect();
        fs::create_dir_all(folder)?;
        // One that is there may have been made by another process, which is not yet done flushing.
        for made in folder.ancestors().take_while(|made| made.starts_with(&self.base) || missing.contains(made)) {
            if let Some(parent) = made.parent() {
                match self.flush_folder(parent) {
                    // Above the lake there may be folders that may be entered but not opened.
                    Err(error) if error.kind() == io::ErrorKind::PermissionDenied && !missing.contains(&made) => {}
                    flushed => flushed?,
                }
            }
        }
        lock(&self.known).insert(folder.to_owned());
        Ok(())
    }

    fn flush_folder(&self, folder: &FsPath) -> io::Result<()> {
        // Elsewhere folders cannot be opened, and the file system's journal has to do.
        if cfg!(not(unix)) {
            self.done(Step::FlushedFolder, folder);
            return Ok(());
        }
        let group = lock(&self.flushes).entry(folder.to_owned()).or_default().clone();
        group.flush(|| {
            File::open(folder)?.sync_all()?;
            self.done(Step::FlushedFolder, folder);
            Ok(())
        })
    }

    async fn put_durably(&self, location: &Path, payload: PutPayload, new: bool) -> Result<PutResult> {
        let path = self.inner.path_to_filesystem(location)?;
        self.blocking(path, move |store, path| store.write(path, &payload, new)).await?;
        Ok(PutResult { e_tag: None, version: None })
    }

    async fn flush_at(&self, location: &Path) -> Result<()> {
        let path = self.inner.path_to_filesystem(location)?;
        self.blocking(path, |store, path| {
            File::open(path)?.sync_all()?;
            store.done(Step::FlushedFile, path);
            path.parent().map_or(Ok(()), |folder| store.flush_folder(folder))
        })
        .await
    }

    async fn blocking(
        &self,
        path: PathBuf,
        work: impl FnOnce(&Self, &FsPath) -> io::Result<()> + Send + 'static,
    ) -> Result<()> {
        let (store, at) = (self.clone(), path.clone());
        tokio::task::spawn_blocking(move || work(&store, &at)).await?.map_err(|error| {
            let path = path.to_string_lossy().into_owned();
            match error.kind() {
                io::ErrorKind::AlreadyExists => Error::AlreadyExists { path, source: error.into() },
                io::ErrorKind::NotFound => Error::NotFound { path, source: error.into() },
                io::ErrorKind::PermissionDenied => Error::PermissionDenied { path, source: error.into() },
                _ => Error::Generic { store: STORE, source: error.into() },
            }
        })
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn write_and_flush(mut file: File, payload: &PutPayload) -> io::Result<()> {
    payload.iter().try_for_each(|part| file.write_all(part))?;
    file.sync_all()
}

impl fmt::Debug for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct(STORE).field("base", &self.base).finish_non_exhaustive()
    }
}

impl fmt::Display for DurableStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{STORE}({})", self.base.display())
    }
}

#[async_trait]
impl ObjectStore for DurableStore {
    async fn put_opts(&self, location: &Path, payload: PutPayload, options: PutOptions) -> Result<PutResult> {
        match options.mode {
            PutMode::Overwrite => self.put_durably(location, payload, false).await,
            PutMode::Create => self.put_durably(location, payload, true).await,
            PutMode::Update(_) => {
                Err(Error::NotImplemented { operation: "put with a condition".into(), implementer: self.to_string() })
            }
        }
    }

    /// What comes in parts is a checkpoint; it is kept in memory until it is complete.
    async fn put_multipart_opts(
        &self,
        location: &Path,
        _options: PutMultipartOptions,
    ) -> Result<Box<dyn MultipartUpload>> {
        Ok(Box::new(Upload { store: self.clone(), location: location.clone(), parts: Vec::new() }))
    }

    async fn get_opts(&self, location: &Path, options: GetOptions) -> Result<GetResult> {
        self.inner.get_opts(location, options).await
    }

    async fn get_ranges(&self, location: &Path, ranges: &[std::ops::Range<u64>]) -> Result<Vec<bytes::Bytes>> {
        self.inner.get_ranges(location, ranges).await
    }

    fn delete_stream(&self, locations: BoxStream<'static, Result<Path>>) -> BoxStream<'static, Result<Path>> {
        self.inner.delete_stream(locations)
    }

    fn list(&self, prefix: Option<&Path>) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list(prefix)
    }

    fn list_with_offset(&self, prefix: Option<&Path>, offset: &Path) -> BoxStream<'static, Result<ObjectMeta>> {
        self.inner.list_with_offset(prefix, offset)
    }

    async fn list_with_delimiter(&self, prefix: Option<&Path>) -> Result<ListResult> {
        self.inner.list_with_delimiter(prefix).await
    }

    async fn copy_opts(&self, from: &Path, to: &Path, options: CopyOptions) -> Result<()> {
        self.inner.copy_opts(from, to, options).await?;
        self.flush_at(to).await
    }

    async fn rename_opts(&self, from: &Path, to: &Path, options: RenameOptions) -> Result<()> {
        self.inner.rename_opts(from, to, options).await?;
        self.flush_at(to).await
    }
}

#[derive(Debug)]
struct Upload {
    store: DurableStore,
    location: Path,
    parts: Vec<bytes::Bytes>,
}

#[async_trait]
impl MultipartUpload for Upload {
    fn put_part(&mut self, data: PutPayload) -> UploadPart {
        self.parts.extend(data);
        Box::pin(futures::future::ready(Ok(())))
    }

    async fn complete(&mut self) -> Result<PutResult> {
        let payload = std::mem::take(&mut self.parts).into_iter().collect();
        self.store.put_durably(&self.location, payload, false).await
    }

    async fn abort(&mut self) -> Result<()> {
        self.parts.clear();
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use deltalake::logstore::object_store::ObjectStoreExt as _;

    use super::*;

    type Steps = Arc<Mutex<Vec<(Step, PathBuf)>>>;

    fn watched(base: &FsPath) -> (DurableStore, Steps) {
        let steps = Steps::default();
        let seen = steps.clone();
        let store =
            DurableStore::new(base).watched(move |step, path| seen.lock().unwrap().push((step, path.to_owned())));
        (store, steps)
    }

    #[tokio::test]
    async fn a_file_is_on_the_disk_before_its_name_and_its_name_before_the_answer() {
        let dir = tempfile::tempdir().unwrap();
        let (store, steps) = watched(dir.path());
        let path = dir.path().join("table/date=1/a.parquet");
        store.put(&Path::from_absolute_path(&path).unwrap(), "bytes".into()).await.unwrap();
        let folder = path.parent().unwrap();
        assert_eq!(
            *steps.lock().unwrap(),
            [
                (Step::FlushedFolder, folder.parent().unwrap().to_owned()),
                (Step::FlushedFolder, dir.path().to_owned()),
                (Step::FlushedFolder, dir.path().parent().unwrap().to_owned()),
                (Step::FlushedFile, path.clone()),
                (Step::Named, path.clone()),
                (Step::FlushedFolder, folder.to_owned()),
            ]
        );
        steps.lock().unwrap().clear();
        store.put(&Path::from_absolute_path(&path).unwrap(), "other".into()).await.unwrap();
        assert_eq!(steps.lock().unwrap().len(), 3, "folders that are known are not flushed again");
        assert_eq!(fs::read(&path).unwrap(), b"other");
        assert_eq!(fs::read_dir(folder).unwrap().count(), 1, "nothing is left aside");
    }

    #[tokio::test]
    async fn a_new_file_never_replaces_one() {
        let dir = tempfile::tempdir().unwrap();
        let (store, steps) = watched(dir.path());
        let path = Path::from_absolute_path(dir.path().join("log/1.json")).unwrap();
        let create = || PutOptions { mode: PutMode::Create, ..PutOptions::default() };
        store.put_opts(&path, "first".into(), create()).await.unwrap();
        steps.lock().unwrap().clear();
        let error = store.put_opts(&path, "second".into(), create()).await.unwrap_err();
        assert!(matches!(error, Error::AlreadyExists { .. }), "{error:?}");
        let flushed = (Step::FlushedFolder, dir.path().join("log"));
        assert_eq!(steps.lock().unwrap().last(), Some(&flushed), "what is there stays there");
        assert_eq!(store.get(&path).await.unwrap().bytes().await.unwrap(), "first");
    }

    #[tokio::test]
    async fn parts_become_one_durable_file() {
        let dir = tempfile::tempdir().unwrap();
        let (store, steps) = watched(dir.path());
        let path = dir.path().join("checkpoint");
        let mut upload = store.put_multipart(&Path::from_absolute_path(&path).unwrap()).await.unwrap();
        upload.put_part("one ".into()).await.unwrap();
        upload.put_part("two".into()).await.unwrap();
        assert!(!path.exists());
        upload.complete().await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"one two");
        assert!(steps.lock().unwrap().contains(&(Step::FlushedFile, path)));
    }

    #[tokio::test]
    async fn a_folder_that_vanished_is_made_again() {
        let dir = tempfile::tempdir().unwrap();
        let store = DurableStore::new(dir.path());
        let path = dir.path().join("table/a");
        let location = Path::from_absolute_path(&path).unwrap();
        store.put(&location, "1".into()).await.unwrap();
        fs::remove_dir_all(dir.path().join("table")).unwrap();
        store.put(&location, "2".into()).await.unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"2");
    }

    /// In the order in which a power cut could tell: data files, their names and folders, then the log entry.
    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn a_commit_is_on_the_disk_before_its_log_entry_says_so() {
        use subscription_core::testkit::samples;
        use subscription_core::{Commit, Table, TableCommit, TableSpan, TableStore as _};

        use crate::{DeltaConfig, DeltaStore};

        let dir = tempfile::tempdir().unwrap();
        let base = dir.path().join("lake");
        let (store, steps) = watched(&base);
        let config = DeltaConfig::new(base.to_str().unwrap()).unwrap().object_store(Arc::new(store));
        let lake = DeltaStore::open(config).await.unwrap();
        steps.lock().unwrap().clear();
        let (from, to) = (0, samples::SAMPLE_SPAN);
        let tables = Table::ALL.map(|table| TableCommit {
            table,
            spans: vec![TableSpan { partition: 0, from, to, counters: Vec::new() }],
        });
        let kind = |table| matches!(table, Table::Alerts | Table::UsageMinute);
        let commit = Commit {
            topic: "usage".into(),
            tables: tables.to_vec(),
            admitted: vec![Arc::new(samples::admitted("usage", 0, 0))],
            ranges: Table::GOLD
                .into_iter()
                .filter(|table| kind(*table))
                .map(|table| samples::range(table, 0, samples::SAMPLE_TIME, &["a"], &[]))
                .collect(),
        };
        let committed = lake.commit(Arc::new(commit)).await.unwrap();

        let steps = steps.lock().unwrap().clone();
        let at = |step, path: &FsPath| steps.iter().position(|done| *done == (step, path.to_owned()));
        let last = |step, path: &FsPath| steps.iter().rposition(|done| *done == (step, path.to_owned()));
        let named = |log: bool| {
            let is_log = |path: &FsPath| path.components().any(|part| part.as_os_str() == "_delta_log");
            let named = steps.iter().filter(move |(step, path)| *step == Step::Named && is_log(path) == log);
            named.map(|(_, path)| path.as_path()).collect::<Vec<_>>()
        };
        assert_eq!(named(false).len() as u64, committed.files);
        assert_eq!(named(true).len(), Table::ALL.len());
        let first_entry = named(true).into_iter().filter_map(|entry| at(Step::Named, entry)).min().unwrap();
        for file in named(false) {
            let (folder, table) = (file.parent().unwrap(), file.ancestors().nth(2).unwrap());
            assert!(at(Step::FlushedFile, file).unwrap() < at(Step::Named, file).unwrap());
            let flushed = (at(Step::Named, file).unwrap()..first_entry)
                .any(|step| steps[step] == (Step::FlushedFolder, folder.to_owned()));
            assert!(flushed, "{} is named on the disk before any log entry", file.display());
            assert!(at(Step::FlushedFolder, table).unwrap() < first_entry, "so is its folder");
        }
        for entry in named(true) {
            assert!(at(Step::FlushedFile, entry).unwrap() < at(Step::Named, entry).unwrap());
            assert!(at(Step::Named, entry).unwrap() < last(Step::FlushedFolder, entry.parent().unwrap()).unwrap());
        }
    }
}
