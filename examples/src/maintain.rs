//! `pipeline maintain`: merges small files, and deletes what nobody needs any more.

use clap::Args;
use subscription_core::{Clock as _, Result, SystemClock, Table};
use subscription_delta::DeltaStore;

use crate::config::Size;
use crate::lake::Place;
use crate::text::{Align, bytes, columns, count};

/// How often progress is told, in nanoseconds.
const TOLD_EVERY: u64 = 5_000_000_000;

/// What to maintain.
#[derive(Debug, Args)]
pub struct Maintain {
    #[command(flatten)]
    lake: Place,

    /// Merge files to about this size, at most
    #[arg(long, value_name = "SIZE", default_value = "128MiB")]
    target_size: Size,
}

/// What was done to a table.
#[derive(Debug, Default)]
struct Done {
    files: [u64; 2],
    bytes: [u64; 2],
    deleted: u64,
    log_files: u64,
}

/// Maintains a lake, beside the pipelines that write it; answers the page.
///
/// # Errors
/// Those of [`DeltaStore::compact`] and [`DeltaStore::vacuum`].
pub async fn maintain(args: &Maintain) -> Result<String> {
    let store = args.lake.open_to_write().await?;
    let heads = ["table", "files", "now", "bytes", "now", "deleted", "of its log"];
    let mut rows = vec![heads.map(str::to_owned).to_vec()];
    for table in Table::ALL {
        let Done { files, bytes: sizes, deleted, log_files } =
            maintain_table(&store, table, args.target_size.0 as u64).await?;
        let sizes = sizes.map(bytes);
        let numbers =
            [count(files[0]), count(files[1])].into_iter().chain(sizes).chain([count(deleted), count(log_files)]);
        rows.push([table.name().to_owned()].into_iter().chain(numbers).collect());
    }
    let align = [Align::Left].into_iter().chain([Align::Right; 6]).collect::<Vec<_>>();
    Ok(format!("Maintained {}\n{}", store.path(), columns(&align, &rows)))
}

async fn maintain_table(store: &DeltaStore, table: Table, target_bytes: u64) -> Result<Done> {
    let mut done = Done::default();
    (done.files[0], done.bytes[0]) = size(store, table).await?;
    let clock = SystemClock::new();
    let (mut merged, mut told) = (0, 0);
    while let Some(one) = store.compact(table, target_bytes).await? {
        merged += one.files;
        if clock.monotonic_nanos() >= told + TOLD_EVERY {
            told = clock.monotonic_nanos();
            eprintln!("{}: {} of {} files merged", table.name(), count(merged), count(done.files[0]));
        }
    }
    let vacuumed = store.vacuum(table).await?;
    (done.deleted, done.log_files) = (vacuumed.files, vacuumed.log_files);
    (done.files[1], done.bytes[1]) = size(store, table).await?;
    Ok(done)
}

async fn size(store: &DeltaStore, table: Table) -> Result<(u64, u64)> {
    let infos = store.info().await?;
    let info = infos.iter().find(|info| info.table == table);
    Ok(info.map_or((0, 0), |info| (info.files, info.bytes)))
}
