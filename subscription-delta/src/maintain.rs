//! What keeps a lake quick and small: few large files in the place of many small ones, and none that nobody needs.
//!
//! Both go beside pipelines that write the lake. A merge is a commit like theirs, which succeeds only where all that it replaces
//! is still there: of two processes that merge the same files one is refused.

use std::collections::BTreeMap;
use std::sync::Arc;

use deltalake::arrow::array::{Array as _, RecordBatch};
use deltalake::checkpoints::cleanup_metadata;
use deltalake::logstore::object_store::path::Path;
use deltalake::logstore::object_store::{Error as StoreError, ObjectStoreExt as _};
use deltalake::operations::vacuum::VacuumMode;
use deltalake::parquet::errors::ParquetError;
use futures::{StreamExt as _, TryStreamExt as _};
use subscription_core::{Error, ErrorKind, Result, Table};

use crate::append::outline;
use crate::file::{Bounds, Content, DataFile, Encoded, FileWriter, ROW_GROUP_BYTES, ROW_GROUP_ROWS, Span};
use crate::log::Change;
use crate::schema::Layout;
use crate::store::{DeltaStore, SIDE_BY_SIDE, put_file, surely_not_made};

/// Most files that are merged at once: a log entry names each of them.
const MOST_FILES: usize = 1_000;

/// Rows that are decoded at a time.
const BATCH_ROWS: usize = 8_192;

/// Files that [`DeltaStore::compact`] merged.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Compacted {
    /// How many files were merged to one.
    pub files: u64,
    /// The rows in them.
    pub rows: u64,
    /// Their bytes.
    pub bytes_before: u64,
    /// Those of the new file.
    pub bytes_after: u64,
}

/// What [`DeltaStore::vacuum`] deleted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Vacuumed {
    /// Data files.
    pub files: u64,
    /// Entries and checkpoints of the log.
    pub log_files: u64,
}

impl DeltaStore {
    /// Merges some small files of a table that hold rows of one date to one of at most about `target_bytes`. To be called until
    /// it answers `None`: then there is nothing more to merge. (The files of Gold are kept few by those who write them.)
    ///
    /// Rows stay as they are. Readers of older versions of the table find the merged files until [`DeltaStore::vacuum`] deletes
    /// them. A file is merged only with others that have half as many bytes together, so that what has become large is not
    /// written again for each small file that comes: a row is written once whenever its file has grown by half (as in the tiers
    /// of an LSM tree; [O'Neil et al. 1996](https://doi.org/10.1007/s002360050048)).
    ///
    /// # Errors
    /// `Fenced` where another process has merged one of the files meanwhile; what the storage says.
    ///
    /// ```no_run
    /// use subscription_core::Table;
    /// use subscription_delta::{DeltaConfig, DeltaStore};
    /// # async fn example() -> subscription_core::Result<()> {
    /// let lake = DeltaStore::open(DeltaConfig::new("./lake")?).await?;
    /// for table in Table::ALL {
    ///     while let Some(merged) = lake.compact(table, 128 << 20).await? {
    ///         println!("{}: {} files are one", table.name(), merged.files);
    ///     }
    ///     lake.vacuum(table).await?;
    /// }
    /// # Ok(()) }
    /// ```
    pub async fn compact(&self, table: Table, target_bytes: u64) -> Result<Option<Compacted>> {
        self.check_writable()?;
        let log = self.log(table);
        let files = log.current().await?.files.values().cloned().collect();
        let Some(files) = choose(files, target_bytes) else { return Ok(None) };
        let mut merged = merge(self, table, &files).await?;
        let put_at = self.config.clock.now();
        put_file(log, &merged).await?;
        let change = Change {
            adds: vec![std::mem::take(&mut merged.add)],
            removes: files.iter().map(|file| file.path.clone()).collect(),
            compacts: true,
            ..Change::default()
        };
        self.put_again_after_sleep(table, std::slice::from_ref(&merged), put_at).await?;
        if let Err(error) = log.commit(&change).await {
            if surely_not_made(&error) {
                self.discard(table, &[merged]).await;
            }
            return Err(match error.kind() {
                ErrorKind::Fenced => Error::new(ErrorKind::Fenced, "another process merges files of this table")
                    .with("table", table.name())
                    .with_help("one at a time is enough: wait until it has ended; nothing is lost")
                    .with_source(error),
                _ => error,
            });
        }
        self.put_again_after_sleep(table, std::slice::from_ref(&merged), put_at).await?;
        Ok(Some(Compacted {
            files: files.len() as u64,
            rows: files.iter().map(|file| file.rows).sum(),
            bytes_before: files.iter().map(|file| file.size).sum(),
            bytes_after: merged.bytes.len() as u64,
        }))
    }

    /// Deletes what readers need no more: data files that were replaced longer ago than `delta.deletedFileRetentionDuration` (3
    /// hours), files as old that no log entry names, as a crash leaves them, and log entries older than
    /// `delta.logRetentionDuration` (7 days) that a checkpoint sums up. Earlier versions of the table can then be read no
    /// longer, and queries that take longer may miss a file.
    ///
    /// # Errors
    /// What the storage says.
    pub async fn vacuum(&self, table: Table) -> Result<Vacuumed> {
        self.check_writable()?;
        let log = self.log(table);
        let doing = log.doing("delete old files", &log.path);
        let delta_table = log.delta_table().await?;
        // delta-rs says which. Its own deletion would commit to the log twice, in competition with pipelines.
        let plan = delta_table.clone().vacuum().with_mode(VacuumMode::Full).with_dry_run(true).await;
        let (_, plan) = plan.map_err(|error| doing.delta(error))?;
        let current = log.current().await?.files.keys().cloned().collect::<std::collections::HashSet<_>>();
        let old = plan.files_deleted.iter().filter(|path| !current.contains(path.as_str()));
        let deletions: Vec<_> = old
            .map(|path| async move {
                let path = Path::parse(path).unwrap_or_else(|_| Path::from(path.as_str()));
                match log.objects.delete(&path).await {
                    Ok(()) => Ok(1),
                    // By an earlier call: the log names it for a while.
                    Err(StoreError::NotFound { .. }) => Ok(0),
                    Err(error) => Err(doing.store(error)),
                }
            })
            .collect();
        let files = futures::stream::iter(deletions).buffer_unordered(SIDE_BY_SIDE);
        let files = files.try_fold(0, |sum, one| std::future::ready(Ok(sum + one))).await?;
        let log_files = cleanup_metadata(&delta_table, None).await.map_err(|error| doing.delta(error))?;
        Ok(Vacuumed { files, log_files: log_files as u64 })
    }
}

/// The next files to merge, if there are any: small ones of one topic and date that follow each other in time.
fn choose(files: Vec<Arc<DataFile>>, target_bytes: u64) -> Option<Vec<Arc<DataFile>>> {
    fn topic(file: &DataFile) -> Option<&Arc<str>> {
        match &file.content {
            Content::Spans(topic, _) => Some(topic),
            Content::Range(..) | Content::Unknown => None,
        }
    }
    let mut small: Vec<_> =
        files.into_iter().filter(|file| topic(file).is_some() && file.size < target_bytes / 2).collect();
    let key = |file: &DataFile| (file.partition_value.clone(), topic(file).cloned(), file.times, file.path.clone());
    small.sort_by_cached_key(|file| key(file));
    for of_date in small.chunk_by(|a, b| a.partition_value == b.partition_value && topic(a) == topic(b)) {
        let mut left = of_date;
        while !left.is_empty() {
            let mut bytes = 0;
            let fits = |file: &&Arc<DataFile>| {
                bytes += file.size;
                bytes <= target_bytes
            };
            let (together, rest) = left.split_at(left.iter().take(MOST_FILES).take_while(fits).count());
            let mut together = together.to_vec();
            let mut bytes: u64 = together.iter().map(|file| file.size).sum();
            while let Some(largest) = (0..together.len()).max_by_key(|&at| together[at].size)
                && together[largest].size > 2 * (bytes - together[largest].size)
            {
                bytes -= together.remove(largest).size;
            }
            if together.len() > 1 {
                return Some(together);
            }
            left = rest;
        }
    }
    None
}

/// The rows of files of one date, in one file.
async fn merge(store: &DeltaStore, table: Table, files: &[Arc<DataFile>]) -> Result<Encoded> {
    let (log, reader) = (store.log(table), store.reader(table));
    let doing = log.doing("write the data file", &log.path);
    let cannot = |error: ParquetError| doing.parquet(error);
    let rows = files.iter().map(|file| file.rows).sum::<u64>();
    let date = files[0].partition_value.as_deref().unwrap_or_default().to_owned();
    let writer = FileWriter::new(table, date, rows as usize, store.config.compression).map_err(cannot)?;
    let writer = Arc::new(writer);

    let open = |file| reader.clone().batches(file, BATCH_ROWS);
    let batches = futures::stream::iter(files.to_vec()).map(open).buffered(SIDE_BY_SIDE).try_flatten();
    let mut batches = std::pin::pin!(batches);
    let (mut groups, mut group, mut group_rows, mut group_bytes, mut read) = (Vec::new(), Vec::new(), 0, 0, 0);
    loop {
        let batch = batches.try_next().await?;
        let ended = batch.is_none();
        if let Some(batch) = batch {
            let batch = as_in_files(table, &batch).ok_or_else(|| doing.corrupt("a column of the table is missing"))?;
            (group_rows, read) = (group_rows + batch.num_rows(), read + batch.num_rows() as u64);
            let bytes = |column: &deltalake::arrow::array::ArrayRef| column.to_data().get_slice_memory_size();
            group_bytes += batch.columns().iter().filter_map(|column| bytes(column).ok()).sum::<usize>();
            group.push(Ok(batch));
        }
        if group_rows >= ROW_GROUP_ROWS || group_bytes >= ROW_GROUP_BYTES || ended && group_rows > 0 {
            let (writer, index, batches) = (writer.clone(), groups.len(), std::mem::take(&mut group));
            (group_rows, group_bytes) = (0, 0);
            let encoded = tokio::task::spawn_blocking(move || writer.row_group_of(index, batches)).await;
            let encoded = encoded
                .map_err(|error| Error::new(ErrorKind::Invariant, "an encoding task ended early").with_source(error))?;
            groups.push(encoded.map_err(cannot)?);
        }
        if ended {
            break;
        }
    }
    if read != rows {
        return Err(doing.corrupt(format_args!("files to be merged have {read} rows, and the log says {rows}")));
    }
    let (content, bounds) = outline_of(table, files).ok_or_else(|| doing.corrupt("its rows are of no topic"))?;
    let writer = Arc::try_unwrap(writer).map_err(|_| Error::new(ErrorKind::Invariant, "a file is still written"))?;
    writer.finish(groups, &content, &bounds, store.config.clock.now()).map_err(cannot)
}

/// A batch with the columns of the table's files, in their order.
fn as_in_files(table: Table, batch: &RecordBatch) -> Option<RecordBatch> {
    let columns = Layout::of(table).file.fields().iter().map(|field| batch.schema_ref().index_of(field.name()).ok());
    batch.project(&columns.collect::<Option<Vec<_>>>()?).ok()
}

/// What the log is told of files as one.
fn outline_of(table: Table, files: &[Arc<DataFile>]) -> Option<(Content, Bounds)> {
    let Content::Spans(topic, _) = &files.first()?.content else { return None };
    let mut spans = BTreeMap::<u32, Span>::new();
    for file in files {
        let Content::Spans(_, of_file) = &file.content else { return None };
        for span in of_file {
            let sum = spans.entry(span.partition).or_insert(Span { rows: 0, ..*span });
            (sum.first, sum.last) = (sum.first.min(span.first), sum.last.max(span.last));
            sum.rows += span.rows;
        }
    }
    // Unknown of one, unknown of all.
    let times = files.iter().map(|file| file.times).collect::<Option<Vec<_>>>();
    let times = times.and_then(|times| {
        Some((times.iter().map(|(first, _)| *first).min()?, times.iter().map(|(_, last)| *last).max()?))
    });
    Some(outline(table, topic, spans.into_values().collect(), times))
}

#[cfg(test)]
mod tests {
    use subscription_core::Timestamp;

    use super::*;

    fn file(date: &str, name: &str, size: u64) -> Arc<DataFile> {
        let spans = vec![Span { partition: 0, first: 0, last: 0, rows: 1 }];
        Arc::new(DataFile {
            path: name.into(),
            size,
            rows: 1,
            partition_value: Some(date.into()),
            content: Content::Spans("usage".into(), spans.into()),
            times: Some((Timestamp::EPOCH, Timestamp::EPOCH)),
        })
    }

    /// Merges until there is nothing to merge; answers the sizes, and how many bytes were written.
    fn merged(mut files: Vec<Arc<DataFile>>, target: u64) -> (Vec<u64>, u64) {
        let mut written = 0;
        while let Some(chosen) = choose(files.clone(), target) {
            assert!(chosen.len() > 1 && chosen.iter().all(|file| file.partition_value == chosen[0].partition_value));
            let size = chosen.iter().map(|file| file.size).sum();
            assert!(size <= target);
            written += size;
            files.retain(|file| !chosen.iter().any(|chosen| Arc::ptr_eq(chosen, file)));
            files.push(self::file(chosen[0].partition_value.as_deref().expect("a date"), &chosen[0].path, size));
        }
        let mut sizes: Vec<u64> = files.iter().map(|file| file.size).collect();
        sizes.sort_unstable();
        (sizes, written)
    }

    #[test]
    fn small_files_of_a_date_become_one_and_large_ones_stay() {
        let files = vec![file("1", "a", 10), file("1", "b", 11), file("2", "c", 10), file("1", "d", 900)];
        assert_eq!(merged(files, 1_000).0, [10, 21, 900]);
        assert_eq!(merged((0..100).map(|n| file("1", &format!("{n:03}"), 10)).collect(), 250).0, [250; 4]);
        assert_eq!(merged(vec![file("1", "a", 400), file("1", "b", 1)], 1_000).0, [1, 400], "not for so little");
        let foreign = DataFile { content: Content::Unknown, ..DataFile::clone(&file("1", "a", 1)) };
        assert_eq!(choose(vec![foreign.into(), file("1", "b", 1)], 1_000), None);
    }

    /// With a file a commit, and a merge now and then, files stay few, and a byte is written anew a few times.
    #[test]
    fn what_is_merged_again_and_again_is_written_a_few_times() {
        let (mut sizes, mut written) = (Vec::new(), 0);
        for hour in 0..24 {
            sizes.extend(vec![1; 360]);
            let files = sizes.iter().enumerate().map(|(n, size)| file("1", &format!("{hour}-{n}"), *size)).collect();
            let (left, more) = merged(files, 1 << 20);
            (sizes, written) = (left, written + more);
            assert!(sizes.len() <= 8, "{sizes:?}");
        }
        assert_eq!(sizes.iter().sum::<u64>(), 24 * 360);
        assert!(written < 5 * 24 * 360, "{written}");
    }
}
